import { setImmediate } from 'node:timers/promises';
import type { MaybePromise } from '../../memory/index.js';
import { VfioError } from '../../uapi/index.js';
import type { Disk } from './disk.js';

/** Largest {@link MemoryDisk}, bytes: it must fit into the device's migration data. */
export const MAX_MEMORY_DISK = 512 * 2 ** 20;

/** Longer intervals are zeroed piece by piece, bytes: one command may name more memory than can be written while everybody waits. */
const PIECE = 65536;

/** A disk in this process's memory, all zeros at first. What it holds is gone with the process, and moves along in a migration. */
export class MemoryDisk implements Disk {
  readonly readOnly = false;
  readonly content: Uint8Array;

  /**
   * @param size bytes
   * @throws VfioError EINVAL for a size that is not 1 to {@link MAX_MEMORY_DISK}
   */
  constructor(size: number) {
    if (!(Number.isInteger(size) && size > 0 && size <= MAX_MEMORY_DISK)) {
      const message = `${size} bytes; a disk in memory has 1 to ${MAX_MEMORY_DISK}`;
      throw new VfioError('EINVAL', { operation: 'MemoryDisk', field: 'size', message });
    }
    this.content = new Uint8Array(size);
  }

  get size(): number {
    return this.content.length;
  }

  read(offset: number, into: Uint8Array): void {
    into.set(this.content.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): void {
    this.content.set(from, offset);
  }

  flush(): void {}

  zero(offset: number, length: number): MaybePromise<void> {
    if (length > PIECE) return this.#zeroByPieces(offset, offset + length);
    this.content.fill(0, offset, offset + length);
    return undefined;
  }

  async #zeroByPieces(start: number, end: number): Promise<void> {
    for (let at = start; at < end; at += PIECE) {
      this.content.fill(0, at, Math.min(at + PIECE, end));
      await setImmediate();
    }
  }

  trim(offset: number, length: number): MaybePromise<void> {
    return this.zero(offset, length);
  }

  close(): void {}
}
