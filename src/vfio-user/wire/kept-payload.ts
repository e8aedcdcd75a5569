import { newBytes } from './new-bytes.js';

/** From here on memory is worth keeping. */
const LEAST_SIZE = 64 * 1024;

/**
 * Memory for payloads. Of those that are given back the largest is kept, and is the next large payload's: a fresh array is filled with zeros,
 * and its pages are faulted in one by one, which for 8 MiB takes twice as long as to receive them.
 */
export class KeptPayload {
  #kept: Uint8Array | undefined;

  /** `size` bytes that are the caller's; of any content. */
  take(size: number): Uint8Array {
    const kept = this.#kept;
    if (size < LEAST_SIZE || kept === undefined || kept.length < size) return newBytes(size);
    this.#kept = undefined;
    return kept.length === size ? kept : kept.subarray(0, size);
  }

  /** @param payload one that was taken here, or a part of it, and that nobody holds any more */
  giveBack({ buffer, length }: Uint8Array): void {
    if (length < LEAST_SIZE || buffer.byteLength <= (this.#kept?.length ?? 0)) return;
    this.#kept = new Uint8Array(buffer);
  }
}
