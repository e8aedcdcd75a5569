import type { TwoLevelBitmap } from '../bitmap/index.js';
import { NUMBER_LIMIT } from './number-limit.js';
import { type IntervalRecorder, recordWrite, type WriteRecorder } from './record-write.js';

/*
 * The hottest path of all. Writes come in clusters: most hit the range that the last one hit, and one page of it. Its bit is
 * computed here, in numbers; all other writes go to who knows the ranges.
 *
 * Worked example: page size 4096, a range [0x1800, 0x3000) whose page 1 is bit 512: the distance is 511. A write of 0x10 bytes
 * at 0x2ff0: its first byte has 0xf bytes of its page behind it, ~0x2ff0 & 0xfff, which is enough; page 2, bit 513.
 *
 * What the engine makes of it was read in its machine code (Node 20), where instructions are what it costs: a random page
 * takes 5.5 ns of one writer, and took 7.1; C takes 2.2.
 *  - There is a class, and a text of `record`, for each way of keeping: the engine builds a call of WebAssembly into the caller
 *    only where it has met no other function, and asks whose fields it reads where several classes share a text. A thread with
 *    several concurrent logs pays 3 ns.
 *  - Every field has a value of its kind from the beginning. One that is `undefined` first, or a whole number and later a
 *    fraction, is looked at before each use: 1.3 ns a record in all.
 *  - Whole numbers cost half the instructions that fractions do, which lie behind a pointer each: 0.5 ns.
 *  - An imported function is compared with the one that was imported before, at each call: 0.3 ns.
 */

/** Bits from here on are not for `| 0`. */
const BIT_LIMIT = 2 ** 31;

/** Pages that are larger have offsets that are not for `| 0`. */
const OFFSET_LIMIT = 2 ** 31;

/** Records the writes of one thread. */
export abstract class PageRecorder implements WriteRecorder {
  readonly #intervals: IntervalRecorder;
  #start = Number.POSITIVE_INFINITY;
  #end = Number.POSITIVE_INFINITY;
  /** Multiplying by it is exact, as dividing by a power of two is, and cheaper. */
  #pagesPerByte = Number.POSITIVE_INFINITY;
  /** What makes a page's number its bit, modulo 2^32. */
  #distance = 0;
  /** The bits of an address that say where in its page it lies. */
  #offsets = 0;

  /** `intervals`: takes the writes that are not to one page of the remembered range. */
  constructor(intervals: IntervalRecorder) {
    this.#intervals = intervals;
  }

  abstract record(iova: number | bigint, length: number): void;

  /** The bit, below 2^31, of the one page of the remembered range that a write touches; -1 for other writes. */
  protected bitOf(iova: number | bigint, length: number): number {
    if (typeof iova === 'number' && (length | 0) === length && length > 0) {
      if (iova >= this.#start && iova < this.#end && Math.floor(iova) === iova) {
        const behind = ~iova & this.#offsets;
        if (length - 1 <= behind) return (((iova * this.#pagesPerByte) | 0) + this.#distance) | 0;
      }
    }
    return -1;
  }

  protected recordOther(iova: number | bigint, length: number): void {
    recordWrite(this.#intervals, iova, length);
  }

  recordPages(pages: Float64Array | Uint32Array, count: number): void {
    this.#intervals.recordPages(pages, count);
  }

  /** Remembers bytes `[start, end)`, where bit `origin` is the page at address `base`; what numbers hold exactly of it. */
  remember(start: number, end: number, base: number, origin: number, pagesPerByte: number): void {
    const pageSize = 1 / pagesPerByte;
    if (pageSize > OFFSET_LIMIT) return;
    const distance = origin - base * pagesPerByte;
    this.#start = start;
    this.#end = Math.min(end, (BIT_LIMIT - distance) * pageSize, NUMBER_LIMIT);
    this.#pagesPerByte = pagesPerByte;
    this.#distance = distance | 0;
    // What comes out of a division is kept as a fraction otherwise.
    this.#offsets = (pageSize - 1) | 0;
  }
}

/** The recorder of a bitmap. */
export function createPageRecorder(bitmap: TwoLevelBitmap, intervals: IntervalRecorder): PageRecorder {
  switch (bitmap.place.keeping) {
    case 'one-writer':
      return new OneWriterRecorder(bitmap, intervals);
    case 'exchange':
      return new ExchangeRecorder(bitmap, intervals);
    case 'generations':
      return new GenerationsRecorder(bitmap, intervals);
  }
}

/**
 * Marks as assembly/one-writer.ts does, without a call of WebAssembly, which costs 1.7 ns. Where a word of page bits is not 0,
 * the summary has its block already: whoever set the first of them said so, and a report that takes a block's summary bit
 * takes all of its page bits. That look is saved, 1 ns of 6.5; and the first mark in an empty block then costs 7.6 ns instead
 * of 10.5, as a word that is 0 is a better guess than a summary bit. Where half of the words that are hit at random have
 * marks, no guess is good, and a record takes 13.6 ns instead of 8.0: that is while 1 to 5 % of all pages are dirty.
 */
class OneWriterRecorder extends PageRecorder {
  #bits: Int32Array = new Int32Array(0);
  #summary: Int32Array = new Int32Array(0);

  constructor(bitmap: TwoLevelBitmap, intervals: IntervalRecorder) {
    super(intervals);
    this.#bits = bitmap.bits;
    this.#summary = bitmap.summary;
  }

  override record(iova: number | bigint, length: number): void {
    const page = this.bitOf(iova, length);
    if (page < 0) {
      this.recordOther(iova, length);
      return;
    }
    const bits = this.#bits;
    const word = bits[page >>> 5];
    bits[page >>> 5] = word | (1 << page);
    if (word === 0) this.#summary[page >>> 14] |= 1 << (page >>> 9);
  }
}

/** Marks by atomic OR, by the kernel: 10 ns, and 13 in TypeScript, where `Atomics.or` is a call of its own. */
class ExchangeRecorder extends PageRecorder {
  readonly #mark: (page: number) => void;

  constructor(bitmap: TwoLevelBitmap, intervals: IntervalRecorder) {
    super(intervals);
    this.#mark = bitmap.mark;
  }

  override record(iova: number | bigint, length: number): void {
    const page = this.bitOf(iova, length);
    if (page < 0) this.recordOther(iova, length);
    else this.#mark(page);
  }
}

/** Marks in the live generation. */
class GenerationsRecorder extends PageRecorder {
  readonly #mark: (page: number) => void;

  constructor(bitmap: TwoLevelBitmap, intervals: IntervalRecorder) {
    super(intervals);
    this.#mark = bitmap.mark;
  }

  override record(iova: number | bigint, length: number): void {
    const page = this.bitOf(iova, length);
    if (page < 0) this.recordOther(iova, length);
    else this.#mark(page);
  }
}
