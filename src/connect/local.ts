import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Device, LocalDevice } from '../device/index.js';
import { type Profile, VfioError } from '../uapi/index.js';
import type { LocalTarget } from './target.js';

/** Bytes of the disk that `local:nvme` has. */
const DISK_SIZE = 64 * 1024 * 1024;

/** What this package ships, each loaded only where it is asked for. */
const shipped: Readonly<Record<string, () => Promise<Device>>> = {
  'dma-engine': async () => {
    const { DmaEngine } = await import('../devices/dma-engine/index.js');
    return new DmaEngine();
  },
  nvme: async () => {
    const { MemoryDisk, NvmeController } = await import('../devices/nvme/index.js');
    return new NvmeController({ disk: new MemoryDisk(DISK_SIZE) });
  },
};

/** A device in this process that nobody else holds: its end is the handle's end. */
class OwnDevice extends LocalDevice {
  readonly #device: Device;
  #closing: Promise<void> | undefined;

  constructor(device: Device, profile: Profile | undefined) {
    super(device, profile);
    this.#device = device;
  }

  override close(): Promise<void> {
    this.#closing ??= this.#closeBoth();
    return this.#closing;
  }

  async #closeBoth(): Promise<void> {
    await super.close();
    const { [Symbol.asyncDispose]: closeLater, [Symbol.dispose]: close } = this.#device as Partial<
      AsyncDisposable & Disposable
    >;
    if (closeLater !== undefined) await closeLater.call(this.#device);
    else close?.call(this.#device);
  }
}

/**
 * A device in this process, with a handle whose `close` ends the device too, by its `Symbol.asyncDispose` or `Symbol.dispose`.
 * @param profile the dialect to speak with the device
 * @throws VfioError as {@link makeLocalDevice}
 */
export async function openLocal(target: LocalTarget, profile?: Profile): Promise<LocalDevice> {
  return new OwnDevice(await makeLocalDevice(target), profile);
}

/**
 * Makes a device in this process.
 *
 * A module's default export is a device, a class that is made without arguments, or a function that gives a device or a promise of one.
 * @throws VfioError ENOENT for a device or a module that does not exist; EINVAL for a module that gives no device; EIO for one that fails
 */
export function makeLocalDevice({ from, name }: LocalTarget): Promise<Device> {
  return from === 'shipped' ? makeShipped(name) : makeFromModule(name);
}

function makeShipped(name: string): Promise<Device> {
  if (Object.hasOwn(shipped, name)) return shipped[name]!();
  const message = `there is no device ${name}; one of ${Object.keys(shipped).join(', ')}, or a module such as ./${name}.mjs`;
  throw new VfioError('ENOENT', { operation: 'connect', field: 'target', message });
}

async function makeFromModule(path: string): Promise<Device> {
  const file = resolve(path);
  if (!existsSync(file)) {
    throw new VfioError('ENOENT', { operation: 'connect', field: 'target', message: `there is no module ${file}` });
  }
  let made: unknown;
  try {
    const module: { default?: unknown } = await import(pathToFileURL(file).href);
    made = await make(module.default);
  } catch (error) {
    const message = `${path}: ${error instanceof Error ? error.message : String(error)}`;
    throw new VfioError('EIO', { operation: 'connect', field: 'target', message, cause: error });
  }
  if (isDevice(made)) return made;
  const message = `the default export of ${path} is no Device, no class of one, and no function that gives one`;
  throw new VfioError('EINVAL', { operation: 'connect', field: 'target', message });
}

function make(exported: unknown): unknown {
  if (typeof exported !== 'function') return exported;
  const isClass = isDevice(exported.prototype);
  return isClass ? Reflect.construct(exported, []) : exported();
}

/** By its methods, as an author may well have another copy of this package. */
function isDevice(value: unknown): value is Device {
  const methods = ['regionRead', 'regionWrite', 'reset', 'disconnect'] as const;
  return methods.every(method => typeof (value as Partial<Device> | null | undefined)?.[method] === 'function');
}
