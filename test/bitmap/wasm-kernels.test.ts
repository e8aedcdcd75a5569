import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BitmapMemory } from '../../src/bitmap/index.js';
import { naiveRuns, toBits, toWords, word } from './naive-bitmap.js';

/* The WebAssembly kernels against bit-by-bit twins, between guards: no byte beside a bitmap may change. */

const numRuns = 600;
const memory = BitmapMemory.create(2 ** 16);
const { kernels } = memory;
const GUARD = 0xa5a5a5a5;
const WORDS = 160;

/** A bitmap in the kernels' memory with eight guard words before it and at least eight behind. */
class Guarded {
  readonly #all = memory.createBitmap((WORDS + 16) * 32);
  readonly base = this.#all.byteOffset + 32;
  #length = 0;

  fill(words: Uint32Array): void {
    this.#all.fill(GUARD);
    this.#all.set(words, 8);
    this.#length = words.length;
  }

  expectToBe(bits: readonly boolean[]): void {
    const end = 8 + this.#length;
    expect(this.#all.subarray(8, end)).toEqual(toWords(bits));
    expect(this.#all.subarray(0, 8).every(guard => guard === GUARD)).toBe(true);
    expect(this.#all.subarray(end).every(guard => guard === GUARD)).toBe(true);
  }
}

const source = new Guarded();
const target = new Guarded();
const numbers = memory.allocate(8 * 4096);

/** Whole 64-bit words, up to 40 of them, with stretches that are clean and full, so that wide loops are entered. */
const bitmap = fc
  .array(fc.tuple(word, word, fc.integer({ min: 1, max: 9 })), { minLength: 1, maxLength: 20 })
  .map(parts => parts.flatMap(([low, high, times]) => Array.from({ length: times }, () => [low, high]).flat()))
  .map(words => Uint32Array.from(words.slice(0, 80)));

const interval = bitmap.chain(words =>
  fc
    .tuple(fc.nat(words.length * 32), fc.nat(words.length * 32))
    .map(([a, b]) => ({ words, start: Math.min(a, b), end: Math.max(a, b) })),
);

const pair = fc.tuple(bitmap, bitmap).chain(([from, to]) =>
  fc.tuple(fc.nat(from.length * 32), fc.nat(to.length * 32), fc.boolean()).chain(([sourceStart, start, sameByte]) => {
    // Offsets that differ by whole bytes take the wide loop; at random only one pair in eight does.
    const targetStart = sameByte ? Math.min(start - (start & 7) + (sourceStart & 7), to.length * 32) : start;
    const most = Math.min(from.length * 32 - sourceStart, to.length * 32 - targetStart);
    return fc.oneof(fc.nat(most), fc.constant(most)).map(count => ({ from, to, sourceStart, targetStart, count }));
  }),
);

describe.each(['setRange', 'setRangeShared'] as const)('%s', kernel => {
  test('sets exactly its interval', () => {
    fc.assert(
      fc.property(interval, ({ words, start, end }) => {
        source.fill(words);
        kernels[kernel](source.base, start, end);
        source.expectToBe(toBits(words).map((set, bit) => set || (bit >= start && bit < end)));
      }),
      { numRuns },
    );
  });
});

describe('clearRange and count', () => {
  test('clearRange clears exactly its interval', () => {
    fc.assert(
      fc.property(interval, ({ words, start, end }) => {
        source.fill(words);
        kernels.clearRange(source.base, start, end);
        source.expectToBe(toBits(words).map((set, bit) => set && !(bit >= start && bit < end)));
      }),
      { numRuns },
    );
  });

  test('count counts exactly its interval', () => {
    fc.assert(
      fc.property(interval, ({ words, start, end }) => {
        source.fill(words);
        expect(kernels.count(source.base, start, end)).toBe(toBits(words).slice(start, end).filter(Boolean).length);
      }),
      { numRuns },
    );
  });

  test('count does not overflow its byte sums: 4096 bytes of ones', () => {
    const large = memory.createBitmap(2 ** 15).fill(0xffffffff);
    expect(kernels.count(large.byteOffset, 0, 2 ** 15)).toBe(2 ** 15);
    expect(kernels.count(large.byteOffset, 1, 2 ** 15 - 1)).toBe(2 ** 15 - 2);
  });
});

describe.each(['or', 'orShared'] as const)('%s', kernel => {
  test('adds exactly its bits, at any two offsets, and leaves the source alone', () => {
    fc.assert(
      fc.property(pair, ({ from, to, sourceStart, targetStart, count }) => {
        source.fill(from);
        target.fill(to);
        const expected = toBits(to);
        const bits = toBits(from);
        for (let bit = 0; bit < count; bit++) expected[targetStart + bit] ||= bits[sourceStart + bit];
        kernels[kernel](source.base, sourceStart, target.base, targetStart, count);
        source.expectToBe(bits);
        target.expectToBe(expected);
      }),
      { numRuns },
    );
  });
});

describe.each(['readAndClear', 'exchange'] as const)('%s', kernel => {
  test('moves exactly its bits, at any two offsets', () => {
    fc.assert(
      fc.property(pair, ({ from, to, sourceStart, targetStart, count }) => {
        source.fill(from);
        target.fill(to);
        const expected = toBits(to);
        const bits = toBits(from);
        for (let bit = 0; bit < count; bit++) {
          expected[targetStart + bit] ||= bits[sourceStart + bit];
          bits[sourceStart + bit] = false;
        }
        kernels[kernel](source.base, sourceStart, target.base, targetStart, count);
        source.expectToBe(bits);
        target.expectToBe(expected);
      }),
      { numRuns },
    );
  });

  test('every pair of offsets within two words moves a bitmap of ones whole', () => {
    const bits = 256;
    for (let sourceStart = 0; sourceStart < 64; sourceStart++) {
      for (let targetStart = 0; targetStart < 64; targetStart++) {
        source.fill(new Uint32Array(8).fill(0xffffffff));
        target.fill(new Uint32Array(8));
        const count = bits - Math.max(sourceStart, targetStart);
        kernels[kernel](source.base, sourceStart, target.base, targetStart, count);
        const found = [
          kernels.count(target.base, targetStart, targetStart + count),
          kernels.count(target.base, 0, bits),
          kernels.count(source.base, 0, bits),
        ];
        if (found.join() !== [count, count, bits - count].join())
          expect.fail(`${sourceStart} to ${targetStart}: ${found}`);
      }
    }
  });
});

describe('edges and pages', () => {
  /** All numbers that a kernel gives for an interval, in calls that leave room for as few as allowed and a few more. */
  function all(give: (from: number, given: number, room: number) => number, start: number, end: number, room: number) {
    const found: number[] = [];
    const place = new Uint32Array(memory.memory.buffer, numbers, room + 8).fill(GUARD);
    for (let from = start; from < end; from = kernels.edgesResume()) {
      const count = give(from, found.length, room);
      found.push(...place.subarray(0, count));
      expect(place.subarray(room).every(guard => guard === GUARD)).toBe(true);
    }
    return found;
  }

  test('edges are where the runs of the interval begin and end, in however many calls', () => {
    fc.assert(
      fc.property(interval, fc.integer({ min: 320, max: 500 }), ({ words, start, end }, room) => {
        source.fill(words);
        const edges = all(
          (from, given) => kernels.edges(source.base, from, end, given & 1, numbers, room),
          start,
          end,
          room,
        );
        if (edges.length % 2 === 1) edges.push(end);
        expect(edges).toEqual(naiveRuns(toBits(words), start, end).flatMap(run => [run.start, run.end]));
      }),
      { numRuns },
    );
  });

  test('pages are the set bits of the interval, in however many calls', () => {
    fc.assert(
      fc.property(interval, fc.integer({ min: 320, max: 500 }), ({ words, start, end }, room) => {
        source.fill(words);
        const pages = all(from => kernels.pages(source.base, from, end, numbers, room), start, end, room);
        const bits = toBits(words);
        expect(pages).toEqual(Array.from(bits.keys()).filter(bit => bits[bit] && bit >= start && bit < end));
      }),
      { numRuns },
    );
  });
});

describe('between page sizes', () => {
  const conversion = fc
    .record({
      coarse: bitmap,
      fine: bitmap,
      ratio: fc.oneof(fc.constantFrom(1, 2, 4, 8, 16, 32, 64, 128, 512), fc.integer({ min: 1, max: 100 })),
      phase: fc.oneof(fc.constant(0), fc.nat(1000)),
      coarseStart: fc.nat(100),
      fineStart: fc.oneof(fc.constantFrom(0, 64), fc.nat(100)),
      wanted: fc.nat(2560),
    })
    .map(({ coarse, fine, ratio, phase, coarseStart, fineStart, wanted }) => {
      const startOfFine = Math.min(fineStart, fine.length * 32);
      const startOfCoarse = Math.min(coarseStart, coarse.length * 32);
      const skipped = phase % ratio;
      const room = Math.max((coarse.length * 32 - startOfCoarse) * ratio - skipped, 0);
      const count = Math.min(wanted, fine.length * 32 - startOfFine, room);
      return { coarse, fine, ratio, phase: skipped, coarseStart: startOfCoarse, fineStart: startOfFine, count };
    });

  test('expand makes one bit many, at any ratio and alignment', () => {
    fc.assert(
      fc.property(conversion, ({ coarse, fine, ratio, phase, coarseStart, fineStart, count }) => {
        source.fill(coarse);
        target.fill(fine);
        const from = toBits(coarse);
        const to = toBits(fine);
        for (let j = 0; j < count; j++) to[fineStart + j] ||= from[coarseStart + Math.floor((phase + j) / ratio)];
        kernels.expand(source.base, coarseStart, target.base, fineStart, count, ratio, phase);
        source.expectToBe(from);
        target.expectToBe(to);
      }),
      { numRuns: 2 * numRuns },
    );
  });

  test('shrink makes many bits one, at any ratio and alignment', () => {
    fc.assert(
      fc.property(conversion, ({ coarse, fine, ratio, phase, coarseStart, fineStart, count }) => {
        source.fill(fine);
        target.fill(coarse);
        const from = toBits(fine);
        const to = toBits(coarse);
        for (let j = 0; j < count; j++) to[coarseStart + Math.floor((phase + j) / ratio)] ||= from[fineStart + j];
        kernels.shrink(source.base, fineStart, target.base, coarseStart, count, ratio, phase);
        source.expectToBe(from);
        target.expectToBe(to);
      }),
      { numRuns: 2 * numRuns },
    );
  });
});

describe('memory of the kernels', () => {
  test('more than 4 GiB is ENOMEM, and the message names the limit', () => {
    for (const bytes of [2 ** 32, 2 ** 40, Number.POSITIVE_INFINITY, Number.NaN]) {
      expect(() => BitmapMemory.create(bytes)).toThrow(
        /more than one WebAssembly memory holds, 4 GiB: the bits of 128 TiB/,
      );
    }
  });

  test('what it hands out does not overlap, is aligned, and ends', () => {
    const small = BitmapMemory.create(8192);
    const first = small.allocate(10, 8);
    const second = small.allocate(100, 4096);
    expect(first).toBeGreaterThan(0);
    expect([first % 8, second % 4096]).toEqual([0, 0]);
    expect(second).toBeGreaterThanOrEqual(first + 10);
    expect(() => small.allocate(small.free + 1, 1)).toThrow('ENOMEM');
    expect(small.allocate(small.free, 1) % 1).toBe(0);
  });

  test('bits beyond 2^32 are where they are: the last bit of 4 GiB', () => {
    const bytes = 2 ** 32 - 2 ** 17;
    const large = BitmapMemory.create(bytes);
    const base = large.allocate(bytes, 8);
    const last = bytes * 8 - 1;
    large.kernels.setRange(base, last - 2, last + 1);
    expect(large.kernels.count(base, last - 100, last + 1)).toBe(3);
    const words = new Uint32Array(large.memory.buffer, base + bytes - 4, 1);
    expect(words[0]).toBe(0xe0000000);
  });
});
