import { existsSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { basename } from 'node:path';

/** The kernel that this is: `'6.1'`, `'6.12'`. */
export const KERNEL = /^\d+\.\d+/.exec(release())![0];

/** Whether this kernel has iommufd, VFIO's character device, and mtty; for `skip`, the reason why not. */
export const WITHOUT_CDEV = KERNEL === '6.1' ? 'this kernel has no character devices of VFIO' : false;

/** The folders of the devices of vdlog. */
export const VDLOG = ['vdlog.0', 'vdlog.1'].map(name => `/sys/bus/platform/devices/${name}`) as [string, string];

/** PCI devices of the guest, by what they are for. `test/machines/run-kernel-guest` makes them. */
export const PCI = {
  /** edu, alone in its group; no driver has it. */
  alone: '0000:00:10.0',
  /** nvme; the kernel's driver nvme has it. */
  first: '0000:00:11.0',
  /** nvme, in the group of `first`; the kernel's driver nvme has it. */
  sibling: '0000:00:11.1',
  /** edu, alone in its group; no driver has it. */
  idle: '0000:00:12.0',
  /** edu, beside the IOMMU. */
  withoutIommu: '0000:41:00.0',
} as const;

/** The device file of a device's group. */
export function groupFile(folder: string): string {
  return `/dev/vfio/${basename(readlinkSync(`${folder}/iommu_group`))}`;
}

/** The device's own character device. */
export function cdevFile(folder: string): string {
  return `/dev/vfio/devices/${readdirSync(`${folder}/vfio-dev`)[0]!}`;
}

/** Gives a PCI device to vfio-pci for as long as `use` runs, and back to whom it was. */
export async function withVfioPci<T>(address: string, use: () => Promise<T>): Promise<T> {
  const folder = `/sys/bus/pci/devices/${address}`;
  bind(address, 'vfio-pci');
  try {
    return await use();
  } finally {
    writeFileSync(`${folder}/driver_override`, '\n');
    bind(address, '');
  }
}

function bind(address: string, override: string): void {
  const folder = `/sys/bus/pci/devices/${address}`;
  if (existsSync(`${folder}/driver`)) writeFileSync(`${folder}/driver/unbind`, address);
  writeFileSync(`${folder}/driver_override`, `${override}\n`);
  writeFileSync('/sys/bus/pci/drivers_probe', address);
}

/** An mtty device, the kernel's sample of one that migrates; it has a log that takes everything and reports nothing. */
export interface Mtty {
  readonly uuid: string;
  /** Its folder in sysfs. */
  readonly folder: string;
  /** Takes it away; it must be closed. */
  remove(): void;
}

let mttys = 0;

/** Makes an mtty device. */
export function createMtty(): Mtty {
  const uuid = `83b8f4f2-509f-382f-3c1e-${(++mttys).toString(16).padStart(12, '0')}`;
  writeFileSync('/sys/class/mtty/mtty/mdev_supported_types/mtty-2/create', uuid);
  const folder = `/sys/bus/mdev/devices/${uuid}`;
  return { uuid, folder, remove: () => writeFileSync(`${folder}/remove`, '1') };
}
