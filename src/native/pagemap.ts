import { openSync } from 'node:fs';
import { asVfioError } from '../uapi/index.js';
import { ioctl } from './device-calls.js';
import { OwnedFd } from './file-descriptor.js';
import { addressOfBytes } from './libc.js';
import { NativeBlock } from './native-block.js';

/*
 * PAGEMAP_SCAN (Linux 6.7): which pages were written, taken and protected again in one step.
 *
 * `struct pm_scan_arg` is twelve u64: size, flags, start, end, out walk_end, vector, entries, most pages, inverted, required, any-of and
 * returned categories. An entry of the vector is three: start, end, categories. Addresses are below 2^47, so that numbers hold them exactly;
 * they are read and written as two u32, because BigInt costs an allocation for each run.
 *
 * Worked example: pages 1, 2 and 5 of memory at 0x7f0000000000 were written. The scan answers 2 entries, {0x7f0000001000, 0x7f0000003000} and
 * {0x7f0000005000, 0x7f0000006000}, and a walk end of the interval's end. A vector with one entry would have been full after the first, with a
 * walk end at page 5 or before, and page 5 as it was: the next call goes on there. Told are pages, counted from the interval's start: 1, 3, 5, 6
 * for an interval that begins at 0x7f0000000000.
 *
 * Runs are told by the call, as page numbers in an array: addresses do not fit the engine's small integers, so that passing each to a function
 * would allocate.
 */

const PAGEMAP_SCAN = 0xc0606610;
const ARGUMENT_SIZE = 96;
/** Protect what is reported; and fail with EPERM where the memory is not under asynchronous protection, instead of calling it clean. */
const FLAGS = 1n | 2n;
/**
 * Required, returned, and nothing besides: for this question the kernel calls written whatever is not protected, also where memory was
 * reclaimed and no page is there. For any other it tells only pages that are there, and writes would be lost.
 */
const PAGE_IS_WRITTEN = 2n;

/** Entries of the vector: 96 KiB stay in the second-level cache, and a call that fills it takes some 0.3 ms. */
const ENTRIES = 4096;
const WORDS_PER_ENTRY = 6;
const TWO_TO_32 = 2 ** 32;
const PAGE_SIZE = 4096;
/** Pages that the low word of an address tells apart. */
const PAGES_IN_LOW = TWO_TO_32 / PAGE_SIZE;

/** Word numbers in the argument, as u32. */
const START = 4;
const END = 6;
const WALK_END = 8;

/**
 * Told some runs of written pages: `count` of them, of which run `i` is pages `[runs[2 * i], runs[2 * i + 1])`, counted from the interval's
 * start. The array is only valid until the call returns.
 */
export type RunsVisitor = (runs: Uint32Array, count: number) => void;

/** The page tables of this process, as /proc/self/pagemap shows them. */
export class Pagemap {
  readonly #fd: OwnedFd;
  readonly #argument = new NativeBlock(ARGUMENT_SIZE);
  readonly #words = new Uint32Array(this.#argument.bytes.buffer, 0, ARGUMENT_SIZE / 4);
  readonly #vector = new Uint32Array(ENTRIES * WORDS_PER_ENTRY);
  readonly #runs = new Uint32Array(ENTRIES * 2);

  /** @throws VfioError ENOENT without /proc; EACCES, EMFILE */
  constructor() {
    this.#fd = new OwnedFd(openPagemap());
    const vector = addressOfBytes(this.#vector);
    const fields = [BigInt(ARGUMENT_SIZE), FLAGS, 0n, 0n, 0n, vector, BigInt(ENTRIES), 0n, 0n, PAGE_IS_WRITTEN, 0n];
    this.#words.set(new Uint32Array(BigUint64Array.from([...fields, PAGE_IS_WRITTEN]).buffer));
  }

  /**
   * Whether the kernel knows the scan.
   * @throws VfioError ENOTTY for a kernel before 6.7
   */
  requireScan(): void {
    // An interval of nothing, where the checks of everything else come first.
    this.#scan(0, 0);
  }

  /**
   * Visits what was written in `[start, end)`, and protects it again. All of it is visited once this returns; when it throws, what is
   * protected again and was not visited is lost.
   * @param start a multiple of 4096, as `end` is; at most 16 TiB lie between
   * @throws VfioError EPERM where memory is not under protection; ENOMEM
   */
  takeWritten(start: number, end: number, visit: RunsVisitor): void {
    for (let from = start; from < end; ) {
      const count = this.#scan(from, end);
      this.#toPages(count, start);
      visit(this.#runs, count);
      from = readAddress(this.#words, WALK_END);
    }
  }

  #scan(start: number, end: number): number {
    writeAddress(this.#words, START, start);
    writeAddress(this.#words, END, end);
    return ioctl(this.#fd.fd, PAGEMAP_SCAN, this.#argument, 'PAGEMAP_SCAN');
  }

  /** Entries as runs of pages behind address `base`, in whole numbers of 32 bits. */
  #toPages(count: number, base: number): void {
    const vector = this.#vector;
    const runs = this.#runs;
    const baseHigh = Math.floor(base / TWO_TO_32);
    const baseLow = (base % TWO_TO_32) / PAGE_SIZE;
    for (let run = 0, entry = 0; run < 2 * count; run += 2, entry += WORDS_PER_ENTRY) {
      runs[run] = (vector[entry + 1]! - baseHigh) * PAGES_IN_LOW + (vector[entry]! >>> 12) - baseLow;
      runs[run + 1] = (vector[entry + 3]! - baseHigh) * PAGES_IN_LOW + (vector[entry + 2]! >>> 12) - baseLow;
    }
  }

  /** A second call does nothing. */
  close(): void {
    this.#fd.close();
  }
}

function openPagemap(): number {
  try {
    return openSync('/proc/self/pagemap', 'r');
  } catch (error) {
    throw asVfioError(error, 'PAGEMAP_SCAN');
  }
}

function readAddress(words: Uint32Array, word: number): number {
  return words[word]! + words[word + 1]! * TWO_TO_32;
}

function writeAddress(words: Uint32Array, word: number, address: number): void {
  words[word] = address % TWO_TO_32;
  words[word + 1] = Math.floor(address / TWO_TO_32);
}
