import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  clearRange,
  countBits,
  createBitmap,
  expandBits,
  nextClearBit,
  nextSetBit,
  orBits,
  RunCursor,
  readAndClear,
  runs,
  setBit,
  setRange,
  shrinkBits,
  testBit,
} from '../../src/bitmap/index.js';
import { bitmap, bitmapAndInterval, naiveRuns, toBits, toWords, twoBitmaps } from './naive-bitmap.js';

const numRuns = 3000;

describe('createBitmap', () => {
  test('holds whole 64-bit words, all clean', () => {
    for (const [bits, words] of [
      [0, 0],
      [1, 2],
      [64, 2],
      [65, 4],
      [2 ** 20, 2 ** 15],
    ]) {
      const created = createBitmap(bits);
      expect(created.length).toBe(words);
      expect(created.every(word => word === 0)).toBe(true);
    }
  });
});

describe('bits in words', () => {
  test('bit n is bit n % 64 of the little-endian 64-bit word n / 64', () => {
    for (let bit = 0; bit < 256; bit++) {
      const words = createBitmap(256);
      setBit(words, bit);
      const u64s = new BigUint64Array(words.buffer);
      expect(
        [...u64s].map((word, index) =>
          index === Math.floor(bit / 64) ? word === 1n << BigInt(bit % 64) : word === 0n,
        ),
      ).toEqual([true, true, true, true]);
    }
  });

  test('testBit sees what setBit set, and setBit touches no other bit', () => {
    fc.assert(
      fc.property(bitmapAndInterval, ({ words, start }) => {
        fc.pre(start < words.length * 32);
        const expected = toBits(words);
        expect(testBit(words, start)).toBe(expected[start]);
        expected[start] = true;
        setBit(words, start);
        expect(words).toEqual(toWords(expected));
        expect(testBit(words, start)).toBe(true);
      }),
      { numRuns },
    );
  });
});

describe('ranges of bits', () => {
  test('setRange sets exactly its interval', () => {
    fc.assert(
      fc.property(bitmapAndInterval, ({ words, start, end }) => {
        const expected = toBits(words).map((set, bit) => set || (bit >= start && bit < end));
        setRange(words, start, end);
        expect(words).toEqual(toWords(expected));
      }),
      { numRuns },
    );
  });

  test('clearRange clears exactly its interval', () => {
    fc.assert(
      fc.property(bitmapAndInterval, ({ words, start, end }) => {
        const expected = toBits(words).map((set, bit) => set && !(bit >= start && bit < end));
        clearRange(words, start, end);
        expect(words).toEqual(toWords(expected));
      }),
      { numRuns },
    );
  });

  test('countBits counts exactly its interval', () => {
    fc.assert(
      fc.property(bitmapAndInterval, ({ words, start, end }) => {
        expect(countBits(words, start, end)).toBe(toBits(words).slice(start, end).filter(Boolean).length);
      }),
      { numRuns },
    );
  });

  test('countBits counts every one of the 2^16 patterns of a half word, in either half', () => {
    const words = new Uint32Array(1);
    for (let pattern = 0; pattern < 2 ** 16; pattern++) {
      const ones = pattern.toString(2).replaceAll('0', '').length;
      words[0] = pattern;
      if (countBits(words, 0, 32) !== ones) expect.fail(`0x${pattern.toString(16)}`);
      words[0] = pattern * 2 ** 16;
      if (countBits(words, 0, 32) !== ones) expect.fail(`0x${pattern.toString(16)}0000`);
    }
  });
});

describe('read-and-clear and OR', () => {
  test('readAndClear moves exactly its bits, at any two offsets', () => {
    fc.assert(
      fc.property(twoBitmaps, ({ source, sourceStart, target, targetStart, count }) => {
        const from = toBits(source);
        const to = toBits(target);
        for (let bit = 0; bit < count; bit++) {
          to[targetStart + bit] ||= from[sourceStart + bit];
          from[sourceStart + bit] = false;
        }
        readAndClear(source, sourceStart, target, targetStart, count);
        expect(target).toEqual(toWords(to));
        expect(source).toEqual(toWords(from));
      }),
      { numRuns },
    );
  });

  test('orBits adds exactly its bits and leaves the source alone', () => {
    fc.assert(
      fc.property(twoBitmaps, ({ source, sourceStart, target, targetStart, count }) => {
        const from = toBits(source);
        const to = toBits(target);
        for (let bit = 0; bit < count; bit++) to[targetStart + bit] ||= from[sourceStart + bit];
        orBits(source, sourceStart, target, targetStart, count);
        expect(target).toEqual(toWords(to));
        expect(source).toEqual(toWords(from));
      }),
      { numRuns },
    );
  });

  test('every pair of offsets within two words moves a bitmap of ones whole', () => {
    for (let sourceStart = 0; sourceStart < 64; sourceStart++) {
      for (let targetStart = 0; targetStart < 64; targetStart++) {
        const source = new Uint32Array(4).fill(0xffffffff);
        const target = new Uint32Array(4);
        const count = 128 - Math.max(sourceStart, targetStart);
        readAndClear(source, sourceStart, target, targetStart, count);
        const moved = [...runs(target)];
        if (moved.length !== 1 || moved[0].start !== targetStart || moved[0].end !== targetStart + count) {
          expect.fail(`${sourceStart} to ${targetStart}: ${JSON.stringify(moved)}`);
        }
        if (countBits(source, 0, 128) !== 128 - count) expect.fail(`${sourceStart} to ${targetStart}: source`);
      }
    }
  });
});

describe('runs', () => {
  test('the cursor finds exactly the runs of its interval, and stays at the end', () => {
    fc.assert(
      fc.property(bitmapAndInterval, ({ words, start, end }) => {
        const cursor = new RunCursor(words, start, end);
        const found: { start: number; end: number }[] = [];
        while (cursor.next()) found.push({ start: cursor.start, end: cursor.end });
        expect(found).toEqual(naiveRuns(toBits(words), start, end));
        expect(cursor.next()).toBe(false);
      }),
      { numRuns },
    );
  });

  test('runs() yields the runs of the whole bitmap', () => {
    fc.assert(
      fc.property(bitmap, words => {
        expect([...runs(words)]).toEqual(naiveRuns(toBits(words), 0, words.length * 32));
      }),
      { numRuns },
    );
  });

  test('the run that the cursor stands on may be cleared', () => {
    fc.assert(
      fc.property(bitmapAndInterval, ({ words, start, end }) => {
        const expected = naiveRuns(toBits(words), start, end);
        const cursor = new RunCursor(words, start, end);
        const found: { start: number; end: number }[] = [];
        while (cursor.next()) {
          found.push({ start: cursor.start, end: cursor.end });
          clearRange(words, cursor.start, cursor.end);
        }
        expect(found).toEqual(expected);
        expect(countBits(words, start, end)).toBe(0);
      }),
      { numRuns },
    );
  });

  test('nextSetBit and nextClearBit find the first one, or the limit', () => {
    fc.assert(
      fc.property(bitmapAndInterval, ({ words, start, end }) => {
        const bits = toBits(words).slice(start, end);
        const set = bits.indexOf(true);
        const clear = bits.indexOf(false);
        expect(nextSetBit(words, start, end)).toBe(set === -1 ? end : start + set);
        expect(nextClearBit(words, start, end)).toBe(clear === -1 ? end : start + clear);
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
      ratio: fc.oneof(fc.constantFrom(1, 2, 4, 16, 64, 512), fc.integer({ min: 1, max: 100 })),
      phase: fc.nat(1000),
      coarseStart: fc.nat(100),
      fineStart: fc.nat(100),
      count: fc.nat(320),
    })
    .map(({ coarse, fine, ratio, phase, coarseStart, fineStart, count }) => {
      const startOfFine = Math.min(fineStart, fine.length * 32);
      const startOfCoarse = Math.min(coarseStart, coarse.length * 32);
      const skipped = phase % ratio;
      const room = Math.max((coarse.length * 32 - startOfCoarse) * ratio - skipped, 0);
      return {
        coarse,
        fine,
        ratio,
        phase: skipped,
        coarseStart: startOfCoarse,
        fineStart: startOfFine,
        count: Math.min(count, fine.length * 32 - startOfFine, room),
      };
    });

  test('expandBits makes one bit many, at any ratio and alignment', () => {
    fc.assert(
      fc.property(conversion, ({ coarse, fine, ratio, phase, coarseStart, fineStart, count }) => {
        const from = toBits(coarse);
        const to = toBits(fine);
        for (let j = 0; j < count; j++) to[fineStart + j] ||= from[coarseStart + Math.floor((phase + j) / ratio)];
        expandBits(coarse, coarseStart, fine, fineStart, count, ratio, phase);
        expect(fine).toEqual(toWords(to));
        expect(coarse).toEqual(toWords(from));
      }),
      { numRuns },
    );
  });

  test('shrinkBits makes many bits one, at any ratio and alignment', () => {
    fc.assert(
      fc.property(conversion, ({ coarse, fine, ratio, phase, coarseStart, fineStart, count }) => {
        const from = toBits(fine);
        const to = toBits(coarse);
        for (let j = 0; j < count; j++) to[coarseStart + Math.floor((phase + j) / ratio)] ||= from[fineStart + j];
        shrinkBits(fine, fineStart, coarse, coarseStart, count, ratio, phase);
        expect(coarse).toEqual(toWords(to));
        expect(fine).toEqual(toWords(from));
      }),
      { numRuns },
    );
  });

  test('shrinking what was expanded gives the same bits back', () => {
    fc.assert(
      fc.property(bitmap, fc.integer({ min: 1, max: 20 }), (coarse, ratio) => {
        const bits = coarse.length * 32;
        const fine = createBitmap(bits * ratio);
        const back = new Uint32Array(coarse.length);
        expandBits(coarse, 0, fine, 0, bits * ratio, ratio);
        shrinkBits(fine, 0, back, 0, bits * ratio, ratio);
        expect(back).toEqual(coarse);
      }),
      { numRuns: 500 },
    );
  });
});

describe('bits beyond 2^32', () => {
  // 512 MiB of address space of which the kernel backs only the pages that are touched.
  const words = new Uint32Array(2 ** 27 + 4);
  const base = 2 ** 32;

  test('are set, found, counted and moved where they are, not 2^32 below', () => {
    setBit(words, base + 5);
    setRange(words, base - 3, base + 2);
    expect(testBit(words, base + 5)).toBe(true);
    expect(words[0]).toBe(0);
    expect(words[2 ** 27]).toBe(0b100011);
    expect(words[2 ** 27 - 1]).toBe(0xe0000000);
    expect([...runs(words, base - 64, base + 64)]).toEqual([
      { start: base - 3, end: base + 2 },
      { start: base + 5, end: base + 6 },
    ]);
    expect(countBits(words, base - 64, base + 64)).toBe(6);
    const target = new Uint32Array(1);
    orBits(words, base - 4, target, 0, 20);
    expect(target[0]).toBe(0b10_0011_1110);
    clearRange(words, base - 1, base + 1);
    const moved = new Uint32Array(1);
    readAndClear(words, base - 4, moved, 1, 20);
    expect(moved[0]).toBe(0b100_0100_1100);
    expect(countBits(words, base - 64, base + 64)).toBe(0);
    const large = Uint32Array.of(1);
    expandBits(large, 0, words, base + 1, 3, 4, 1);
    expect(words[2 ** 27]).toBe(0b1110);
    const small = new Uint32Array(1);
    shrinkBits(words, base, small, 0, 8, 2);
    expect(small[0]).toBe(0b11);
  });
});
