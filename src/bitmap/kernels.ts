import { kernelsBinary } from './kernels-binary.js';

/**
 * The kernels, in WebAssembly with SIMD and atomics, over one shared memory (sources: `assembly/`).
 *
 * `base`, `source`, `target`, `out` are byte addresses in the memory. A bitmap begins at a multiple of 8 and is whole 64-bit
 * words, unless it is said otherwise. Bits and pages are numbers, at most 2^35. Nothing is checked.
 */
export interface Kernels {
  /** Sets bits `[start, end)`. */
  setRange(base: number, start: number, end: number): void;
  /** The same while other threads set and clear bits of the same words. */
  setRangeShared(base: number, start: number, end: number): void;
  /** Clears bits `[start, end)`. */
  clearRange(base: number, start: number, end: number): void;
  /** The number of set bits among `[start, end)`. */
  count(base: number, start: number, end: number): number;
  /** ORs `count` bits from `sourceStart` on into the target from `targetStart` on. The target may begin at any byte. */
  or(source: number, sourceStart: number, target: number, targetStart: number, count: number): void;
  /** The same while other threads, or processes that map the same pages, OR into the same target. */
  orShared(source: number, sourceStart: number, target: number, targetStart: number, count: number): void;
  /** ORs as {@link Kernels.or} and clears the bits in the source. */
  readAndClear(source: number, sourceStart: number, target: number, targetStart: number, count: number): void;
  /** The same while other threads set bits in the source: a bit is taken or stays. */
  exchange(source: number, sourceStart: number, target: number, targetStart: number, count: number): void;
  /** Bits of large pages to bits of small ones: see {@link expandBits}. */
  expand(
    source: number,
    sourceStart: number,
    target: number,
    targetStart: number,
    count: number,
    ratio: number,
    phase: number,
  ): void;
  /** Bits of small pages to bits of large ones: see {@link shrinkBits}. */
  shrink(
    source: number,
    sourceStart: number,
    target: number,
    targetStart: number,
    count: number,
    ratio: number,
    phase: number,
  ): void;
  /**
   * Writes where runs of set bits in `[from, limit)` begin and end, in turn, as u32; returns how many numbers. After an odd
   * number in all a run is open at the limit, which is below 2^31. `open`: 1 when a run is open at `from`. `room`: how many
   * numbers fit, at least 320. {@link Kernels.edgesResume} says where to go on.
   */
  edges(base: number, from: number, limit: number, open: number, out: number, room: number): number;
  /** Writes the set bits of `[from, limit)` as u32; returns how many. `room`: at least 320. Goes on as the edges do. */
  pages(base: number, from: number, limit: number, out: number, room: number): number;
  /** The first bit that the last call of edges or pages did not look at; the limit when it is done. */
  edgesResume(): number;

  /** Says where the two-level bitmap is and how it is kept: {@link TwoLevelBitmap}. Once for each instance. */
  configure(
    mode: number,
    bits: number,
    summary: number,
    bitsStride: number,
    summaryStride: number,
    generations: number,
  ): void;
  /** Marks a page: one writer. */
  markPlain(page: number): void;
  /** Marks a page: atomic OR. */
  markShared(page: number): void;
  /** Marks a page in the live generation. */
  markLive(page: number): void;
  /** Marks pages `[first, end)`, at least one. */
  markRange(first: number, end: number): void;
  /** Marks the pages of a list of f64; `table`: f64 triples {first page, first page behind, distance to its bit}. */
  markList(list: number, count: number, table: number, segments: number): void;
  /** Whether a page is marked: 1 or 0. */
  isMarked(page: number): number;
  /** How many pages of `[first, end)`, multiples of 512, are marked. */
  countMarked(first: number, end: number): number;
  /** The first page from `from` on whose block may have marks; `end` when there is none. */
  nextMarkedBlock(from: number, end: number): number;
  /** ORs the marks of `count` pages (1 or more) from `first` on into the target from `targetStart` on, and clears them. */
  drain(first: number, count: number, target: number, targetStart: number): void;
  /**
   * The same for the whole groups `[first, end)`, multiples of 32768, into bits of `ratio` pages each: 8, 16, 32 or 64. Page
   * `first` becomes bit 0 of byte `target`. Not for a bitmap kept by exchange.
   */
  drainShrunk(first: number, end: number, target: number, ratio: number): void;
  /** The same into `ratio` bits a page: 8, 16, 32 or 64. */
  drainExpanded(first: number, end: number, target: number, ratio: number): void;
}

let compiled: WebAssembly.Module | undefined;

/** An instance over `memory`, which is shared. Some 50 µs; the code is compiled once a thread. */
export function instantiateKernels(memory: WebAssembly.Memory): Kernels {
  compiled ??= new WebAssembly.Module(Uint8Array.from(atob(kernelsBinary), character => character.charCodeAt(0)));
  return new WebAssembly.Instance(compiled, { env: { memory } }).exports as unknown as Kernels;
}
