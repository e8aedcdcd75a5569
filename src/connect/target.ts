import { VfioError } from '../uapi/index.js';

/*
 * A device by its name, as people type it:
 *   vfio-user:/run/dev.sock                    a device in another process, behind a UNIX socket; `vfio-user:@name` in the abstract namespace
 *   vfio:0000:3b:00.2                          a PCI device of this machine, bound to a VFIO driver
 *   vfio:83b8f4f2-509f-382f-3c1e-e6bfe0fa1001  a mediated device, by its UUID
 *   vfio:vdlog.0                               any other device, by its name in sysfs
 *   vfio:/dev/vfio/devices/vfio0               a device's own file, with iommufd
 *   vfio:/dev/vfio/12?device=0000:3b:00.2      a device of a group: the group's file does not say which
 *   local:dma-engine                           a device of this package, in this process
 *   local:./my-device.mjs                      a device author's own, in this process
 */

/** A device behind a vfio-user socket. */
export interface VfioUserTarget {
  readonly transport: 'vfio-user';
  /** The socket; an abstract one's name begins with `@`. */
  readonly path: string;
  readonly abstract: boolean;
}

/** A device of the kernel. */
export interface KernelTarget {
  readonly transport: 'vfio';
  /** How it is named. */
  readonly by: 'pci' | 'mdev' | 'sysfs' | 'cdev' | 'group';
  /** PCI address with its domain, UUID, name in sysfs, or the file below /dev. */
  readonly name: string;
  /** Of a group: the device's name. */
  readonly device?: string;
}

/** A device in this process. */
export interface LocalTarget {
  readonly transport: 'local';
  /** `'shipped'`: a device of this package. `'module'`: the file of a JavaScript module. */
  readonly from: 'shipped' | 'module';
  readonly name: string;
}

export type Target = VfioUserTarget | KernelTarget | LocalTarget;

/** Every form that a target has, for messages and help. */
export const TARGET_FORMS: readonly string[] = [
  'vfio-user:/run/dev.sock',
  'vfio:0000:3b:00.2',
  'vfio:UUID',
  'vfio:/dev/vfio/devices/vfio0',
  'vfio:/dev/vfio/12?device=NAME',
  'local:dma-engine',
  'local:nvme',
  'local:./my-device.mjs',
];

const PCI_ADDRESS = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-1][0-9a-f]\.[0-7])$/i;
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const SYSFS_NAME = /^[\w.:-]+$/;
const DEVICE_FILE = /^\/dev\/vfio\/devices\/[^/?]+$/;
const GROUP_FILE = /^(\/dev\/vfio\/[^/?]+)\?device=([\w.:-]+)$/;

/** Reads a target. @throws VfioError EINVAL for what is none; the message lists the forms */
export function parseTarget(text: string): Target {
  const colon = text.indexOf(':');
  const rest = text.slice(colon + 1);
  const target = colon === -1 || rest === '' ? undefined : targetOf(text.slice(0, colon), rest);
  if (target !== undefined) return target;
  const message = `'${text}' is no device; one of ${TARGET_FORMS.join(', ')}`;
  throw new VfioError('EINVAL', { operation: 'connect', field: 'target', message });
}

function targetOf(transport: string, rest: string): Target | undefined {
  switch (transport) {
    case 'vfio-user':
      return { transport, path: rest, abstract: rest.startsWith('@') };
    case 'vfio':
      return kernelTarget(rest);
    case 'local':
      return { transport, from: isFile(rest) ? 'module' : 'shipped', name: rest };
    default:
      return undefined;
  }
}

function kernelTarget(rest: string): KernelTarget | undefined {
  const transport = 'vfio';
  const pci = PCI_ADDRESS.exec(rest);
  if (pci !== null) {
    const [, domain = '0000', address] = pci;
    return { transport, by: 'pci', name: `${domain}:${address}`.toLowerCase() };
  }
  if (UUID.test(rest)) return { transport, by: 'mdev', name: rest.toLowerCase() };
  if (DEVICE_FILE.test(rest)) return { transport, by: 'cdev', name: rest };
  const group = GROUP_FILE.exec(rest);
  if (group !== null) return { transport, by: 'group', name: group[1]!, device: group[2]! };
  return SYSFS_NAME.test(rest) ? { transport, by: 'sysfs', name: rest } : undefined;
}

function isFile(name: string): boolean {
  return name.includes('/') || /\.[cm]?js$/.test(name);
}
