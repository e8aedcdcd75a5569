import type { MaybePromise } from '../../memory/index.js';

/**
 * What a namespace stores its blocks on. Offsets and lengths are bytes, multiples of the block size, inside `size`; the caller sees to that.
 * Several calls may be under way at a time, in any order. Errors are VfioError or Node's system errors, thrown or rejected.
 */
export interface Disk {
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /**
   * The content itself, of a disk that lives in this process: it migrates with the controller. `undefined`: the content is elsewhere, and both
   * ends of a migration reach it there.
   */
  readonly content: Uint8Array | undefined;
  /** Fills `into`. */
  read(offset: number, into: Uint8Array): MaybePromise<void>;
  /** Writes all of `from`. */
  write(offset: number, from: Uint8Array): MaybePromise<void>;
  /** Makes everything that was written durable. */
  flush(): MaybePromise<void>;
  /** Makes `length` bytes zero. */
  zero(offset: number, length: number): MaybePromise<void>;
  /** `length` bytes are not needed any more. What they read as afterwards is open: what they were, or zeros. */
  trim(offset: number, length: number): MaybePromise<void>;
  /** Lets go of what is behind. A second call does nothing. */
  close(): MaybePromise<void>;
}
