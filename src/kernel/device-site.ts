import { existsSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VfioError } from '../uapi/index.js';
import type { Roots } from './roots.js';

/*
 * A device's place in sysfs, by any name that people have for it:
 *   0000:3b:00.2 or 3b:00.2                  a PCI address
 *   83b8f4f2-509f-382f-3c1e-e6bfe0fa1001     the UUID of a mediated device
 *   vdlog.0                                  the name of a device on any other bus
 *   /dev/vfio/12:0000:3b:00.2                a group and a device in it; the device may be left out where there is one only
 *   /dev/vfio/devices/vfio0                  a character device
 *   /sys/…                                   the device's folder
 */

/** A device, as sysfs tells of it. */
export interface DeviceSite {
  /** What the kernel calls it: `'0000:3b:00.2'`. */
  readonly name: string;
  /** Its folder in sysfs. */
  readonly folder: string;
  /** `'pci'`, `'mdev'`, `'platform'`…; empty where there is none. */
  readonly bus: string;
  /** The driver that it is bound to. */
  readonly driver: string | undefined;
  /** The number of its IOMMU group. */
  readonly group: number | undefined;
  /** The name of its character device, `'vfio0'`; known where a VFIO driver has it, whether or not the kernel makes the device file. */
  readonly cdev: string | undefined;
}

const PCI_ADDRESS = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])$/i;
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const GROUP_PATH = /^\/dev\/vfio\/(\d+)(?::(.+))?$/;
const CDEV_PATH = /^\/dev\/vfio\/devices\/(vfio\d+)$/;

/**
 * Finds a device.
 * @throws VfioError ENODEV for one that is not there; EINVAL for a group with several devices of which none is named
 */
export function locateDevice(target: string, roots: Roots): DeviceSite {
  const group = GROUP_PATH.exec(target);
  if (group !== null) return inGroup(Number(group[1]), group[2], roots);
  const cdev = CDEV_PATH.exec(target);
  if (cdev !== null) return behindCdev(cdev[1]!, roots);
  if (target.startsWith('/')) return siteAt(existing(target, `there is no device ${target}`), roots);
  const pci = PCI_ADDRESS.exec(target);
  if (pci !== null) {
    const name = `${pci[1] ?? '0000'}:${pci[2]}`.toLowerCase();
    const advice = `there is no PCI device ${name}: lspci -D lists them`;
    return siteAt(existing(join(roots.sys, 'bus/pci/devices', name), advice), roots);
  }
  if (UUID.test(target)) {
    const uuid = target.toLowerCase();
    const advice = `there is no mediated device ${uuid}: write the UUID to mdev_supported_types/TYPE/create of its parent in /sys/class/mdev_bus`;
    return siteAt(existing(join(roots.sys, 'bus/mdev/devices', uuid), advice), roots);
  }
  return onAnyBus(target, roots);
}

/** The devices of a group, in order of their names. */
export function devicesInGroup(group: number, roots: Roots): DeviceSite[] {
  const folder = join(roots.sys, 'kernel/iommu_groups', `${group}`, 'devices');
  return listing(folder).map(name => siteAt(realpathSync(join(folder, name)), roots));
}

function inGroup(group: number, name: string | undefined, roots: Roots): DeviceSite {
  const devices = devicesInGroup(group, roots);
  const names = devices.map(device => device.name).join(', ');
  if (devices.length === 0) throw notThere(`there is no IOMMU group ${group}: ls /sys/kernel/iommu_groups lists them`);
  if (name === undefined && devices.length > 1) {
    const message = `group ${group} has several devices: name one, as in /dev/vfio/${group}:${devices[0]!.name} (${names})`;
    throw new VfioError('EINVAL', { operation: 'open', field: 'device', message });
  }
  const site = name === undefined ? devices[0] : devices.find(device => device.name === name);
  if (site === undefined) throw notThere(`group ${group} has no device ${name}: it has ${names}`);
  return site;
}

function behindCdev(cdev: string, roots: Roots): DeviceSite {
  const link = join(roots.sys, 'class/vfio-dev', cdev, 'device');
  return siteAt(
    existing(link, `there is no /dev/vfio/devices/${cdev}: ls /sys/class/vfio-dev lists the VFIO devices`),
    roots,
  );
}

function onAnyBus(name: string, roots: Roots): DeviceSite {
  const buses = /^[\w.:@-]+$/.test(name) ? listing(join(roots.sys, 'bus')) : [];
  const folders = buses.map(bus => join(roots.sys, 'bus', bus, 'devices', name)).filter(existsSync);
  const [folder, other] = folders;
  if (other !== undefined) {
    const message = `${name} is on several buses: give the folder (${folders.join(', ')})`;
    throw new VfioError('EINVAL', { operation: 'open', field: 'device', message });
  }
  if (folder !== undefined) return siteAt(realpathSync(folder), roots);
  throw notThere(
    `there is no device '${name}': a PCI address, the UUID of an mdev, /dev/vfio/N or /dev/vfio/devices/vfioN?`,
  );
}

function siteAt(folder: string, roots: Roots): DeviceSite {
  const group = linkName(join(folder, 'iommu_group'));
  return {
    name: basename(folder),
    folder: shownFolder(folder, roots),
    bus: linkName(join(folder, 'subsystem')) ?? '',
    driver: linkName(join(folder, 'driver')),
    group: group === undefined ? undefined : Number(group),
    cdev: listing(join(folder, 'vfio-dev'))[0],
  };
}

/** By the bus, as people write it, where that leads to the same folder. */
function shownFolder(folder: string, roots: Roots): string {
  const bus = linkName(join(folder, 'subsystem'));
  const short = bus === undefined ? folder : join(roots.sys, 'bus', bus, 'devices', basename(folder));
  return existsSync(short) ? short : folder;
}

function existing(path: string, message: string): string {
  try {
    return realpathSync(path);
  } catch {
    throw notThere(message);
  }
}

function notThere(message: string): VfioError {
  return new VfioError('ENODEV', { operation: 'open', field: 'device', message });
}

function linkName(path: string): string | undefined {
  try {
    return basename(readlinkSync(path));
  } catch {
    return undefined;
  }
}

function listing(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}
