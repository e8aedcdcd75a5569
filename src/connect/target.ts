import { VfioError } from '../uapi/index.js';

/*
 * A device by its name, as people type it: the transport, a colon, and what the transport knows the device by.
 *   vfio-user:/run/dev.sock                       a device in another process, behind a UNIX socket
 *   vfio-user:@name                               the same in the abstract namespace, which any user may take; a file is `./@name`
 *   vfio:0000:3b:00.2                             a PCI device of this machine
 *   vfio:83b8f4f2-509f-382f-3c1e-e6bfe0fa1001     a mediated device, by its UUID
 *   vfio:vdlog.0                                  a device on another bus
 *   vfio:/dev/vfio/devices/vfio0                  a device by its own file, with iommufd
 *   vfio:/dev/vfio/12:0000:3b:00.2                a device by its group; the device may be left out where there is one only
 *   local:dma-engine                              a device of this package, in this process
 *   local:./my-device.mjs                         a device author's own, in this process
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
  /** What `KernelDevice.open` takes. */
  readonly name: string;
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
  'vfio:/dev/vfio/12:NAME',
  'local:dma-engine',
  'local:nvme',
  'local:./my-device.mjs',
];

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
      return { transport, name: rest };
    case 'local':
      return { transport, from: isFile(rest) ? 'module' : 'shipped', name: rest };
    default:
      return undefined;
  }
}

function isFile(name: string): boolean {
  return name.includes('/') || /\.[cm]?js$/.test(name);
}
