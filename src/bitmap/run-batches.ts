import { BATCH_LIMIT, BitBatches } from './bit-batches.js';
import { nextClearBit, nextSetBit } from './search.js';

/*
 * Runs of set bits. Short intervals are searched a word at a time: a clean word costs one comparison, a run costs two
 * searches however long it is. Long ones are left to the kernels, some hundred runs in one call (bit-batches.ts).
 *
 * Worked example: words 0xf0000000 0x00000001 0x00000010 hold the runs [28, 33) and [68, 69): edges 28 33 68 69.
 */

/** From this many bits on the kernels are asked. */
const BATCHED_BITS = 8192;

/**
 * The runs of set bits in `[from, limit)`, many at a time, for loops that are to be as quick as they can:
 *
 *     while (batches.next()) {
 *       const { edges, count } = batches;
 *       for (let at = 0; at < count; at += 2) use(edges[at], edges[at + 1]);
 *     }
 *
 * Bits below the last edge may be cleared during the walk.
 */
export class RunBatches {
  /** The first bit of a run and the first one behind it, in turn. The next call puts others into the same array. */
  readonly edges: Int32Array | Float64Array;
  /** How many numbers are in {@link RunBatches.edges}: two for each run. */
  count = 0;
  readonly #words: Uint32Array;
  readonly #limit: number;
  readonly #batches: BitBatches | undefined;
  /** Whether one more edge stands behind them: the beginning of a run whose end is not known yet. */
  #open = false;

  constructor(words: Uint32Array, from: number, limit: number) {
    this.#words = words;
    this.#limit = limit;
    if (limit - from >= BATCHED_BITS && limit < BATCH_LIMIT)
      this.#batches = new BitBatches(words, from, limit, 'edges');
    this.edges = this.#batches?.numbers ?? new Float64Array(2);
    this.edges[0] = from;
    this.edges[1] = from;
  }

  /** Fills {@link RunBatches.edges}; `false` when there is no run left: then the first two are the limit. */
  next(): boolean {
    if (this.#batches === undefined) return this.#search();
    this.#fill(this.#batches);
    if (this.count === 0) this.edges.fill(this.#limit, 0, 2);
    return this.count > 0;
  }

  #search(): boolean {
    const { edges } = this;
    edges[0] = nextSetBit(this.#words, edges[1], this.#limit);
    edges[1] = nextClearBit(this.#words, edges[0], this.#limit);
    this.count = edges[0] < this.#limit ? 2 : 0;
    return this.count > 0;
  }

  #fill(batches: BitBatches): void {
    const { edges } = this;
    let count = 0;
    // The beginning of a run that was open is carried over.
    if (this.#open) edges[count++] = edges[this.count];
    while (count < 2 && !batches.done) count += batches.fill(count);
    if (batches.done && count % 2 === 1) edges[count++] = this.#limit;
    this.#open = count % 2 === 1;
    this.count = count - (count % 2);
  }
}
