import { markPage, type TwoLevelBitmap } from '../bitmap/index.js';
import { NUMBER_LIMIT } from './number-limit.js';
import { type IntervalRecorder, recordWrite, type WriteRecorder } from './record-write.js';

/*
 * The hottest path of all. Writes come in clusters: most hit the range that the last one hit, and one page of it. Its bit is
 * computed here, in numbers; all other writes go to who knows the ranges.
 *
 * Worked example: page size 4096, a range [0x1800, 0x3000) whose page 1 is bit 512. The bits' own grid begins 511 pages below
 * 0, at -0x1ff000. A write of 0x10 bytes at 0x2000 lies 0x201000 behind that: bit 513.
 *
 * What the engine makes of it was read in its machine code (Node 20):
 *  - There is a class for each way of keeping, so that each marks at a place of its own: the engine builds a call of
 *    WebAssembly into the caller only where it has met no other function. A thread with several concurrent logs pays 3 ns.
 *  - Every field has a value of its kind from the beginning. One that is `undefined` first, or a whole number and later a
 *    fraction, is looked at before each use: 1.3 ns a record in all.
 */

/** Bits from here on are not for `| 0`. */
const BIT_LIMIT = 2 ** 31;

/** Records the writes of one thread. */
export abstract class PageRecorder implements WriteRecorder {
  readonly #intervals: IntervalRecorder;
  #start = Number.POSITIVE_INFINITY;
  #end = Number.POSITIVE_INFINITY;
  /** The address of bit 0; often below 0. */
  #zero = Number.NEGATIVE_INFINITY;
  /** Multiplying by it is exact, as dividing by a power of two is, and cheaper. */
  #pagesPerByte = Number.POSITIVE_INFINITY;

  /** `intervals`: takes the writes that are not to one page of the remembered range. */
  constructor(intervals: IntervalRecorder) {
    this.#intervals = intervals;
  }

  record(iova: number | bigint, length: number): void {
    if (typeof iova === 'number' && (length | 0) === length && length > 0) {
      if (iova >= this.#start && iova < this.#end && Math.floor(iova) === iova) {
        const first = ((iova - this.#zero) * this.#pagesPerByte) | 0;
        const last = ((iova + (length - 1) - this.#zero) * this.#pagesPerByte) | 0;
        if (first === last) {
          this.mark(first);
          return;
        }
      }
    }
    recordWrite(this.#intervals, iova, length);
  }

  /** Marks a page below 2^31. */
  protected abstract mark(page: number): void;

  recordPages(pages: Float64Array | Uint32Array, count: number): void {
    this.#intervals.recordPages(pages, count);
  }

  /** Remembers bytes `[start, end)`, where bit `origin` is the page at address `base`; what numbers hold exactly of it. */
  remember(start: number, end: number, base: number, origin: number, pagesPerByte: number): void {
    const zero = base - origin / pagesPerByte;
    this.#start = start;
    // Distances from bit 0 must be exact: where that lies 2^53 below 0, none is, and this is no address.
    this.#end = Math.min(end, zero + BIT_LIMIT / pagesPerByte, zero + NUMBER_LIMIT);
    this.#zero = zero;
    this.#pagesPerByte = pagesPerByte;
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

class OneWriterRecorder extends PageRecorder {
  #bits: Int32Array = new Int32Array(0);
  #summary: Int32Array = new Int32Array(0);

  constructor(bitmap: TwoLevelBitmap, intervals: IntervalRecorder) {
    super(intervals);
    this.#bits = bitmap.bits;
    this.#summary = bitmap.summary;
  }

  protected override mark(page: number): void {
    markPage(this.#bits, this.#summary, page);
  }
}

class ExchangeRecorder extends PageRecorder {
  readonly #mark: (page: number) => void;

  constructor(bitmap: TwoLevelBitmap, intervals: IntervalRecorder) {
    super(intervals);
    this.#mark = bitmap.mark;
  }

  protected override mark(page: number): void {
    this.#mark(page);
  }
}

class GenerationsRecorder extends PageRecorder {
  readonly #mark: (page: number) => void;

  constructor(bitmap: TwoLevelBitmap, intervals: IntervalRecorder) {
    super(intervals);
    this.#mark = bitmap.mark;
  }

  protected override mark(page: number): void {
    this.#mark(page);
  }
}
