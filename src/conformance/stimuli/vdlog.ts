import type { DeviceHandle } from '../../device/index.js';
import { type IovaRange, VfioError, viewOf } from '../../uapi/index.js';
import type { DmaStimulus } from '../stimulus.js';

/** Size of the test module's command, `{ u64 iova, u64 length, u32 flags, u32 fill }`: one write of so many bytes at region 0, offset 0. */
const COMMAND_SIZE = 24;
/** Flags of the command: none marks what a DMA write would; READ is a DMA read, which marks nothing. */
const VdlogFlag = { NONE: 0, READ: 2 } as const;

/**
 * The kernel's test module `vdlog` (test/kernel): whoever writes its command plays the device. No memory needs to be mapped, since it is the log
 * that is tried: the module marks the pages and moves no bytes.
 */
export class VdlogStimulus implements DmaStimulus {
  readonly name = 'vdlog';
  readonly limits = { alignment: 1, maxLength: 2 ** 30 };
  #device: DeviceHandle | undefined;

  async prepare(device: DeviceHandle, windows: readonly IovaRange[]): Promise<readonly IovaRange[]> {
    this.#device = device;
    return windows;
  }

  /** A write of 0 bytes is none: the module takes no such command. @throws VfioError as the module answers */
  async write(iova: bigint, length: number): Promise<void> {
    await this.#command(iova, length, VdlogFlag.NONE);
  }

  /** See {@link VdlogStimulus.write}. */
  async read(iova: bigint, length: number): Promise<void> {
    await this.#command(iova, length, VdlogFlag.READ);
  }

  async #command(iova: bigint, length: number, flags: number): Promise<void> {
    if (this.#device === undefined) throw new VfioError('ENODEV', { operation: 'vdlog', message: 'no device is open' });
    if (length === 0) return;
    const command = new Uint8Array(COMMAND_SIZE);
    const view = viewOf(command);
    view.setBigUint64(0, iova, true);
    view.setBigUint64(8, BigInt(length), true);
    view.setUint32(16, flags, true);
    await this.#device.regionWrite(0, 0, command);
  }

  async close(): Promise<void> {
    this.#device = undefined;
  }
}
