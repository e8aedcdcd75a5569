import { VfioError } from '../../uapi/index.js';
import { GOLDEN, mix } from './mix.js';

/*
 * xoshiro128** (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2018): 128 bits of state, 32-bit arithmetic only, so
 * that the state is four words that migrate as they are and the sequence is the same on every machine.
 *
 * Example: from the state (1, 2, 3, 4) the first number is rotl(2 * 5, 7) * 9 = 10 * 128 * 9 = 11520, and the state becomes
 * (7, 0, 1026, 12288).
 */

/** Words of state of a {@link Random}. */
export const RANDOM_STATE_WORDS = 4;

/** Reproducible random numbers. */
export class Random {
  readonly #state: Uint32Array;

  /** @param state four words, not all zero @throws VfioError EINVAL for any other */
  constructor(state: Uint32Array) {
    if (state.length !== RANDOM_STATE_WORDS || state.every(word => word === 0)) {
      throw new VfioError('EINVAL', {
        operation: 'Random',
        field: 'state',
        message: 'four words are needed, not all 0',
      });
    }
    this.#state = state.slice();
  }

  /** The generator that a 32-bit seed stands for; neighbouring seeds give unrelated sequences. */
  static fromSeed(seed: number): Random {
    // A counter through a mixer, as the authors advise: it cannot give four zeros, since the mixer is one to one.
    return new Random(Uint32Array.from({ length: RANDOM_STATE_WORDS }, (_, index) => mix(seed + (index + 1) * GOLDEN)));
  }

  /** The next 32 bits. */
  next(): number {
    const state = this.#state;
    const word = state[1]!;
    const result = Math.imul(rotate(Math.imul(word, 5), 7), 9) >>> 0;
    state[2]! ^= state[0]!;
    state[3]! ^= word;
    state[1]! ^= state[2]!;
    state[0]! ^= state[3]!;
    state[2]! ^= word << 9;
    state[3] = rotate(state[3]!, 11);
    return result;
  }

  /** The next fraction, `[0, 1)`, of 53 bits; takes two numbers. */
  fraction(): number {
    const high = this.next() >>> 5;
    return (high * 0x400_0000 + (this.next() >>> 6)) / 0x20_0000_0000_0000;
  }

  /** The next integer of `[0, count)`. With 53 bits, the bias is below one in 2^27 for every count below 2^26. */
  below(count: number): number {
    return Math.floor(this.fraction() * count);
  }

  /** The state, for a migration. */
  save(): Uint32Array {
    return this.#state.slice();
  }
}

function rotate(word: number, count: number): number {
  return (word << count) | (word >>> (32 - count));
}
