import { VfioError } from '../uapi/index.js';

/**
 * The caller's memory, as far as a feature request's pointers reach into it. In the kernel that is the caller's address space; in-process
 * it is a {@link LentMemory}.
 */
export interface UserMemory {
  /**
   * The bytes at an address, not copied, writable.
   * @throws VfioError EFAULT when not all of them are there.
   */
  at(address: bigint, length: number): Uint8Array;
}

/**
 * An address space made of buffers that a caller lends for the time of a request. Addresses are handed out in order with a hole behind each
 * buffer, so that one byte too many is a fault and not the next buffer.
 */
export class LentMemory implements UserMemory {
  readonly #buffers = new Map<bigint, Uint8Array>();
  #next = 0x10000n;

  /** Makes `bytes` reachable; returns their address, which is 4096-byte aligned. */
  lend(bytes: Uint8Array): bigint {
    const address = this.#next;
    this.#buffers.set(address, bytes);
    this.#next += ((BigInt(bytes.length) + 4095n) / 4096n + 1n) * 4096n;
    return address;
  }

  /** Takes a buffer back. */
  take(address: bigint): void {
    this.#buffers.delete(address);
    if (this.#buffers.size === 0) this.#next = 0x10000n;
  }

  at(address: bigint, length: number): Uint8Array {
    for (const [start, bytes] of this.#buffers) {
      const offset = address - start;
      if (offset >= 0n && offset + BigInt(length) <= BigInt(bytes.length)) {
        return bytes.subarray(Number(offset), Number(offset) + length);
      }
    }
    throw new VfioError('EFAULT', {
      operation: 'DEVICE_FEATURE',
      field: 'pointer',
      message: `${length} bytes at 0x${address.toString(16)} are not there`,
    });
  }
}
