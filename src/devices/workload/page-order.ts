import { VfioError } from '../../uapi/index.js';
import { RANDOM_STATE_WORDS, Random } from './random.js';
import { WorkloadKind } from './workload-kind.js';
import type { WorkloadSettings } from './workload-settings.js';
import { Zipf } from './zipf.js';

/** In which order a workload writes its pages. The order follows from the settings alone, and its place in it is a few words. */
export interface PageOrder {
  /** The index of the next page. */
  next(): number;
  /** Where it is, for a migration. */
  save(): Uint32Array;
}

/**
 * The order that the settings ask for, from the start, or from where `saved` says.
 * @throws VfioError EINVAL for saved words that no such order gives
 */
export function createPageOrder(settings: WorkloadSettings, saved?: Uint32Array): PageOrder {
  switch (settings.kind) {
    case WorkloadKind.SEQUENTIAL:
      return new SequentialOrder(settings.pages, saved);
    case WorkloadKind.UNIFORM:
      return new UniformOrder(settings, saved);
    case WorkloadKind.HOT_SET:
      return new HotSetOrder(settings, saved);
    default:
      return new RingsOrder(settings, saved);
  }
}

/** 0, 1, 2, … and from the start again. */
class SequentialOrder implements PageOrder {
  readonly #pages: number;
  #position: number;

  constructor(pages: number, saved: Uint32Array = Uint32Array.of(0)) {
    requireState(saved.length === 1 && saved[0]! < pages);
    this.#pages = pages;
    this.#position = saved[0]!;
  }

  next(): number {
    const page = this.#position;
    this.#position = page + 1 === this.#pages ? 0 : page + 1;
    return page;
  }

  save(): Uint32Array {
    return Uint32Array.of(this.#position);
  }
}

/** Every page as likely as any other. */
class UniformOrder implements PageOrder {
  readonly #pages: number;
  readonly #random: Random;

  constructor({ pages, seed }: WorkloadSettings, saved?: Uint32Array) {
    this.#pages = pages;
    this.#random = saved === undefined ? Random.fromSeed(seed) : new Random(saved);
  }

  next(): number {
    return this.#random.below(this.#pages);
  }

  save(): Uint32Array {
    return this.#random.save();
  }
}

/**
 * Few pages often, many seldom: Zipf's distribution. Ranks are strewn over the area, since hot pages are seldom neighbours in real memory:
 * rank r is page (r - 1) * stride modulo the number of pages, with a stride that has no common divisor with it, so that each page has a rank.
 */
class HotSetOrder implements PageOrder {
  readonly #pages: number;
  readonly #stride: number;
  readonly #zipf: Zipf;
  readonly #random: Random;

  constructor({ pages, exponent, seed }: WorkloadSettings, saved?: Uint32Array) {
    this.#pages = pages;
    this.#stride = strideFor(pages);
    this.#zipf = new Zipf(pages, exponent);
    this.#random = saved === undefined ? Random.fromSeed(seed) : new Random(saved);
  }

  next(): number {
    // At most 2^26 * 2^26: exact.
    return ((this.#zipf.next(this.#random) - 1) * this.#stride) % this.#pages;
  }

  save(): Uint32Array {
    return this.#random.save();
  }
}

/** The first number from 0.618 of `pages` on that has no common divisor with it; 8 pages: 5. */
function strideFor(pages: number): number {
  let stride = Math.max(1, Math.round(pages * 0.618));
  while (greatestCommonDivisor(stride, pages) !== 1) stride++;
  return stride;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/**
 * Like a network card that receives: the area is divided into rings of as many buffers each (what is left over stays unused); a burst of
 * packets goes to a random ring and fills its next buffers in order, round and round. Saved: the random state, the ring, what is left of the
 * burst, and each ring's next buffer.
 */
class RingsOrder implements PageOrder {
  readonly #buffers: number;
  readonly #burst: number;
  readonly #positions: Uint32Array;
  readonly #random: Random;
  #ring = 0;
  #left = 0;

  constructor({ pages, rings, burst, seed }: WorkloadSettings, saved?: Uint32Array) {
    this.#buffers = Math.floor(pages / rings);
    this.#burst = burst;
    this.#positions = new Uint32Array(rings);
    if (saved === undefined) {
      this.#random = Random.fromSeed(seed);
      return;
    }
    requireState(saved.length === RANDOM_STATE_WORDS + 2 + rings);
    this.#random = new Random(saved.subarray(0, RANDOM_STATE_WORDS));
    this.#ring = saved[RANDOM_STATE_WORDS]!;
    this.#left = saved[RANDOM_STATE_WORDS + 1]!;
    this.#positions.set(saved.subarray(RANDOM_STATE_WORDS + 2));
    requireState(this.#ring < rings && this.#left < burst);
    requireState(this.#positions.every(position => position < this.#buffers));
  }

  next(): number {
    if (this.#left === 0) {
      this.#ring = this.#random.below(this.#positions.length);
      this.#left = 1 + this.#random.below(this.#burst);
    }
    this.#left--;
    const position = this.#positions[this.#ring]!;
    this.#positions[this.#ring] = position + 1 === this.#buffers ? 0 : position + 1;
    return this.#ring * this.#buffers + position;
  }

  save(): Uint32Array {
    return Uint32Array.of(...this.#random.save(), this.#ring, this.#left, ...this.#positions);
  }
}

function requireState(valid: boolean): void {
  if (!valid) throw new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE', field: 'order', message: 'is not valid' });
}
