import type { DeviceHandle } from '../device/index.js';
import { KernelDevice, type OpenOptions } from '../kernel/index.js';
import type { Profile } from '../uapi/index.js';
import { type ClientOptions, VfioUserClient } from '../vfio-user/index.js';
import { openLocal } from './local.js';
import { parseTarget } from './target.js';

/** How {@link connect} connects, for each of the transports. */
export interface ConnectOptions {
  /** For `vfio-user:`: how the client connects. Whether the socket is abstract, the target says. */
  vfioUser?: Omit<ClientOptions, 'abstract'>;
  /** For `vfio:`: by group or by character device, and the address space to share with other devices. */
  kernel?: OpenOptions;
  /** For `local:`: the dialect to speak with the device; default `linux`. */
  profile?: Profile;
}

/**
 * A device by its name, whatever wire it hangs on: `vfio-user:/run/dev.sock` (or `vfio-user:@name`, abstract), `vfio:0000:3b:00.2`,
 * `vfio:UUID`, `vfio:/dev/vfio/devices/vfio0`, `vfio:/dev/vfio/12:NAME`, `local:dma-engine`, `local:nvme` (with 64 MiB of memory for a
 * disk), `local:./my-device.mjs` (see {@link openLocal} for what it exports).
 *
 * @example
 * const device = await connect('vfio-user:/run/dev.sock');
 * await device.mapMemory({ iova: 0n, length: memory.size, readable: true, writable: true }, memory);
 * const session = new LoggingSession(device.features);
 * @throws VfioError EINVAL for what is no target; whatever opening the device throws
 */
export async function connect(target: string, options: ConnectOptions = {}): Promise<DeviceHandle> {
  const parsed = parseTarget(target);
  switch (parsed.transport) {
    case 'vfio-user':
      return VfioUserClient.connect(parsed.path, { ...options.vfioUser, abstract: parsed.abstract });
    case 'local':
      return openLocal(parsed, options.profile);
    case 'vfio':
      return KernelDevice.open(parsed.name, options.kernel);
  }
}
