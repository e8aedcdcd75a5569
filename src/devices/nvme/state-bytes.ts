import { VfioError, viewOf } from '../../uapi/index.js';

/** Puts little-endian numbers and bytes one after the other. */
export class StateWriter {
  readonly #pieces: Uint8Array[] = [];

  u16(value: number): void {
    const bytes = new Uint8Array(2);
    viewOf(bytes).setUint16(0, value, true);
    this.#pieces.push(bytes);
  }

  u32(value: number): void {
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, value, true);
    this.#pieces.push(bytes);
  }

  u64(value: number | bigint): void {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setBigUint64(0, BigInt(value), true);
    this.#pieces.push(bytes);
  }

  /** Bytes whose number the reader knows; not copied before {@link StateWriter.finish}. */
  bytes(bytes: Uint8Array): void {
    this.#pieces.push(bytes);
  }

  /** A u16 count, and each item by `write`. */
  list<T>(items: readonly T[], write: (item: T) => void): void {
    this.u16(items.length);
    for (const item of items) write(item);
  }

  /** All of it in one piece. */
  finish(): Uint8Array {
    const whole = new Uint8Array(this.#pieces.reduce((sum, piece) => sum + piece.length, 0));
    let offset = 0;
    for (const piece of this.#pieces) {
      whole.set(piece, offset);
      offset += piece.length;
    }
    return whole;
  }
}

/** Reverse of {@link StateWriter}. @throws VfioError EINVAL where the bytes end too early */
export class StateReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  u16(): number {
    return this.#view.getUint16(this.#advance(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#advance(8), true);
  }

  /** A u64 that is exact as a number. @throws VfioError EINVAL for a larger one */
  count(): number {
    const value = this.u64();
    if (value > Number.MAX_SAFE_INTEGER) throw invalidState('count', `${value}`);
    return Number(value);
  }

  /** The next `length` bytes: not a copy. */
  bytes(length: number): Uint8Array {
    const start = this.#advance(length);
    return this.#bytes.subarray(start, start + length);
  }

  list<T>(read: () => T): T[] {
    const count = this.u16();
    // An item has two bytes at least: a count beyond what is there costs nothing.
    if (count * 2 > this.#left) throw invalidState('length', 'the state is cut off');
    return Array.from({ length: count }, read);
  }

  /** @throws VfioError EINVAL when bytes are left */
  finish(): void {
    if (this.#left > 0) throw invalidState('length', `${this.#left} bytes too many`);
  }

  get #left(): number {
    return this.#bytes.length - this.#offset;
  }

  #advance(count: number): number {
    if (count > this.#left) throw invalidState('length', 'the state is cut off');
    const offset = this.#offset;
    this.#offset += count;
    return offset;
  }
}

/** The error for a state that no controller like this one has. */
export function invalidState(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE', field, message });
}
