import type { Backing, MaybePromise } from '../../src/memory/index.js';
import { VfioError } from '../../src/uapi/index.js';

/** A backing in plain memory that counts how often it was closed. Out of range is an error of the map's arithmetic. */
export class HeapBacking implements Backing {
  readonly kind: 'mapped' | 'message' = 'mapped';
  readonly bytes: Uint8Array;
  closed = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  read(offset: number, into: Uint8Array): MaybePromise<void> {
    this.#require(offset, into.length);
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): MaybePromise<void> {
    this.#require(offset, from.length);
    this.bytes.set(from, offset);
  }

  close(): void {
    this.closed++;
  }

  #require(offset: number, length: number): void {
    if (this.closed > 0) throw new VfioError('EBADF', { operation: 'HeapBacking' });
    if (!Number.isInteger(offset) || offset < 0 || length < 1 || offset + length > this.bytes.length) {
      throw new Error(`${length} bytes at ${offset} of ${this.bytes.length}`);
    }
  }
}

/** The same, but every access takes a turn of the loop, as memory that is reached by messages does. */
export class LateBacking extends HeapBacking {
  override readonly kind = 'message';

  override async read(offset: number, into: Uint8Array): Promise<void> {
    await Promise.resolve();
    super.read(offset, into);
  }

  override async write(offset: number, from: Uint8Array): Promise<void> {
    await Promise.resolve();
    super.write(offset, from);
  }
}

/** A backing whose every access fails with `error`: thrown at once, or by a promise. */
export class FailingBacking extends HeapBacking {
  readonly #fail: () => MaybePromise<void>;

  constructor(length: number, fail: () => MaybePromise<void>) {
    super(new Uint8Array(length));
    this.#fail = fail;
  }

  override read(): MaybePromise<void> {
    return this.#fail();
  }

  override write(): MaybePromise<void> {
    return this.#fail();
  }
}
