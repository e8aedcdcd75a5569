import { addressOfBytes } from './libc.js';

/** Smaller typed arrays may have no fixed place in memory. */
const SMALLEST = 128;

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
}
