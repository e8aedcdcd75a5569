import { addressOfBytes } from './libc.js';

/** Smaller typed arrays may have no fixed place in memory. */
const SMALLEST = 128;

/** Up to here a loop over the bytes is quicker than what a copy needs first. */
const FEW_BYTES = 64;

/** Bytes with a fixed place, for calls that take addresses. The place is theirs for as long as this object is alive. */
export class NativeBlock {
  /** Zeros at first; `size` bytes. */
  readonly bytes: Uint8Array;
  /** Little-endian access to the same bytes. */
  readonly view: DataView;
  /** Where byte 0 stands; user space ends below 2^47, so that a number is exact. */
  readonly address: number;

  /** @param size bytes */
  constructor(size: number) {
    const buffer = new ArrayBuffer(Math.max(size, SMALLEST));
    this.bytes = new Uint8Array(buffer, 0, size);
    this.view = new DataView(buffer, 0, size);
    this.address = Number(addressOfBytes(new Uint8Array(buffer)));
  }

  /** A block that begins with a copy of `bytes`. */
  static from(bytes: Uint8Array): NativeBlock {
    const block = new NativeBlock(bytes.length);
    block.bytes.set(bytes);
    return block;
  }

  /** Copies `from` to the beginning. */
  load(from: Uint8Array): void {
    if (from.length > FEW_BYTES) this.bytes.set(from);
    else for (let index = 0; index < from.length; index++) this.bytes[index] = from[index]!;
  }

  /** A copy of the first `count` bytes. */
  copy(count: number): Uint8Array {
    if (count > FEW_BYTES) return this.bytes.slice(0, count);
    const copy = new Uint8Array(count);
    for (let index = 0; index < count; index++) copy[index] = this.bytes[index]!;
    return copy;
  }
}
