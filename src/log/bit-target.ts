import { BitmapMemory, maskFrom, maskThrough, NUMBERS, orBits, setRange, wordOf } from '../bitmap/index.js';

/** The bitmap that a report adds to. Bits are added, none is cleared. */
export interface BitTarget {
  readonly words: Uint32Array;
  /** Whether others add to the same words at the same time. */
  readonly isShared: boolean;
  /** Whether a report has added bits: told by whoever adds them. */
  touched: boolean;
  /** Sets bits `[start, end)`. */
  setRange(start: number, end: number): void;
  /** ORs source bits `[sourceStart, sourceStart + count)` into the bits from `start` on. */
  or(source: Uint32Array, sourceStart: number, start: number, count: number): void;
}

/** A bitmap that nobody else writes during the report. */
export class OwnTarget implements BitTarget {
  readonly words: Uint32Array;
  readonly isShared = false;
  touched = false;

  constructor(words: Uint32Array) {
    this.words = words;
  }

  setRange(start: number, end: number): void {
    setRange(this.words, start, end);
  }

  or(source: Uint32Array, sourceStart: number, start: number, count: number): void {
    orBits(source, sourceStart, this.words, start, count);
  }
}

/** A bitmap that other trackers report into at the same time: every word is changed in one atomic step. */
export class SharedTarget implements BitTarget {
  readonly words: Uint32Array;
  readonly isShared = true;
  touched = false;
  /** Missing where no kernels reach the words. */
  readonly #memory: BitmapMemory | undefined;

  constructor(words: Uint32Array) {
    this.words = words;
    this.#memory = BitmapMemory.of(words);
  }

  setRange(start: number, end: number): void {
    const first = wordOf(start);
    const last = wordOf(end - 1);
    for (let index = first; index <= last; index++) {
      const mask = (index === first ? maskFrom(start) : -1) & (index === last ? maskThrough(end - 1) : -1);
      Atomics.or(this.words, index, mask);
    }
  }

  or(source: Uint32Array, sourceStart: number, start: number, count: number): void {
    if (this.#memory === undefined) orByWords(source, sourceStart, this.words, start, count);
    else orByKernel(this.#memory, source, sourceStart, this.words, start, count);
  }
}

function orByWords(source: Uint32Array, sourceStart: number, target: Uint32Array, start: number, count: number): void {
  const image = new Uint32Array(wordOf(count + (start & 31) - 1) + 1);
  orBits(source, sourceStart, image, start & 31, count);
  const first = wordOf(start);
  for (let index = 0; index < image.length; index++) {
    if (image[index] !== 0) Atomics.or(target, first + index, image[index]);
  }
}

/** By way of the little room that every memory has for what comes and goes: the kernel reaches nothing outside its own memory. */
function orByKernel(
  memory: BitmapMemory,
  source: Uint32Array,
  sourceStart: number,
  target: Uint32Array,
  start: number,
  count: number,
): void {
  const { numbers, kernels } = memory;
  for (let done = 0; done < count; ) {
    const from = sourceStart + done;
    const length = Math.min(NUMBERS * 32 - (from & 31), count - done);
    numbers.set(source.subarray(wordOf(from), wordOf(from + length - 1) + 1));
    kernels.orShared(numbers.byteOffset, from & 31, target.byteOffset, start + done, length);
    done += length;
  }
}
