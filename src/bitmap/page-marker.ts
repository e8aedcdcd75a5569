import type { Kernels } from './kernels.js';
import type { TwoLevelPlace } from './two-level-place.js';

/*
 * Marking one page, the hottest path of all. Measured on Node 20, random pages, 512 KiB of bits: a plain mark takes 3.4 ns in
 * TypeScript and 5.1 through a kernel, for the call; an atomic one takes 13 in TypeScript, where `Atomics.or` is a call of its
 * own, and 10 through a kernel.
 *
 * Each class calls its kernel at a place of its own: the engine builds a call of WebAssembly into the caller only where it has
 * met no other function. A thread that records into several concurrent logs pays 20 ns.
 */

/** Marks single pages of a two-level bitmap. */
export interface PageMarker {
  /** Marks a page below 2^31. */
  mark(page: number): void;
}

/** The marker for a bitmap. */
export function createPageMarker(place: TwoLevelPlace, kernels: Kernels): PageMarker {
  switch (place.keeping) {
    case 'one-writer':
      return new PlainMarker(place);
    case 'exchange':
      return new ExchangeMarker(kernels);
    case 'generations':
      return new GenerationsMarker(kernels);
  }
}

/** What assembly/one-writer.ts does, without the call. One array for both levels: an array's address is three loads. */
class PlainMarker implements PageMarker {
  readonly #words: Int32Array;
  readonly #bits: number;
  readonly #summary: number;

  constructor({ memory, bits, summary }: TwoLevelPlace) {
    this.#words = new Int32Array(memory.buffer);
    this.#bits = bits / 4;
    this.#summary = summary / 4;
  }

  mark(page: number): void {
    const words = this.#words;
    words[this.#bits + (page >>> 5)] |= 1 << page;
    const above = this.#summary + (page >>> 14);
    const one = 1 << (page >>> 9);
    const marked = words[above];
    if ((marked & one) === 0) words[above] = marked | one;
  }
}

class ExchangeMarker implements PageMarker {
  readonly #mark: (page: number) => void;

  constructor(kernels: Kernels) {
    this.#mark = kernels.markShared;
  }

  mark(page: number): void {
    this.#mark(page);
  }
}

class GenerationsMarker implements PageMarker {
  readonly #mark: (page: number) => void;

  constructor(kernels: Kernels) {
    this.#mark = kernels.markLive;
  }

  mark(page: number): void {
    this.#mark(page);
  }
}
