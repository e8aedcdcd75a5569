import type { DmaStimulus } from '../../conformance/index.js';
import type { DeviceHandle } from '../../device/index.js';
import { type IovaRange, VfioError } from '../../uapi/index.js';
import { DmaEngineDriver } from './driver.js';
import { SCATTER_ENTRY_SIZE } from './registers.js';

/**
 * Makes a DMA engine write by its FILL command, always zeros; so memory that began as zeros stays so, and the engine reads it as a SCATTER list
 * whose entries say "write nothing".
 */
export class DmaEngineStimulus implements DmaStimulus {
  readonly name = 'dma-engine';
  readonly limits = { alignment: 1, maxLength: 2 ** 24, emptyWrites: true };
  #driver: DmaEngineDriver | undefined;

  /** @throws VfioError ENODEV for another device */
  async prepare(device: DeviceHandle, windows: readonly IovaRange[]): Promise<readonly IovaRange[]> {
    this.#driver = await DmaEngineDriver.attach(device);
    return windows;
  }

  /** @throws VfioError with the command's errno */
  async write(iova: bigint, length: number): Promise<void> {
    await this.#engine.fill({ destination: iova, length: BigInt(length), pattern: 0n });
  }

  /** Whole entries of 16 bytes, one at least. @throws VfioError with the command's errno */
  async read(iova: bigint, length: number): Promise<void> {
    await this.#engine.scatter({ list: iova, entries: Math.max(1, Math.floor(length / SCATTER_ENTRY_SIZE)) });
  }

  get #engine(): DmaEngineDriver {
    if (this.#driver !== undefined) return this.#driver;
    throw new VfioError('ENODEV', { operation: 'dma-engine', message: 'no device is open' });
  }

  async close(): Promise<void> {
    this.#driver = undefined;
  }
}
