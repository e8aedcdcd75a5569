import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { addressOf, bitmapBits, bitmapBytes, bitmapSize, bitOf } from '../../src/uapi/index.js';

describe('size of a bitmap', () => {
  test('is whole 64-bit words: the named examples', () => {
    expect(bitmapBytes(2n ** 40n, 4096n)).toBe(32n * 2n ** 20n);
    expect(bitmapBytes(2n ** 30n, 4096n)).toBe(32n * 2n ** 10n);
    expect(bitmapBytes(2n ** 64n - 4096n, 4096n)).toBe(2n ** 49n);
    for (const [length, bytes] of [
      [0n, 0n],
      [1n, 8n],
      [4096n, 8n],
      [64n * 4096n, 8n],
      [64n * 4096n + 1n, 16n],
    ]) {
      expect(bitmapBytes(length, 4096n)).toBe(bytes);
    }
  });

  test('holds every bit, and not one word more', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }), fc.integer({ min: 0, max: 63 }), (length, log2) => {
        const pageSize = 2n ** BigInt(log2);
        const bits = bitmapBits(length, pageSize);
        expect(bits * pageSize >= length && (bits - 1n) * pageSize < length).toBe(true);
        const bytes = bitmapBytes(length, pageSize);
        expect(bytes % 8n).toBe(0n);
        expect(bytes * 8n >= bits && (bytes - 8n) * 8n < bits).toBe(true);
      }),
      { numRuns: 3000 },
    );
  });
});

test('the size as a number is the same, up to what a number holds exactly and beyond', () => {
  const length = fc.oneof(
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    fc.bigInt({ min: 0n, max: 2n ** 20n }),
    fc.bigInt({ min: 2n ** 53n - 4n, max: 2n ** 53n + 4n }),
    fc
      .tuple(fc.integer({ min: 0, max: 63 }), fc.integer({ min: -1, max: 1 }))
      .map(([log2, off]) => 2n ** BigInt(log2) + BigInt(off)),
  );
  fc.assert(
    fc.property(length, fc.integer({ min: 0, max: 63 }), (length, log2) => {
      const pageSize = 2n ** BigInt(log2);
      expect(bitmapSize(length, pageSize)).toBe(Number(bitmapBytes(length, pageSize)));
    }),
    { numRuns: 3000 },
  );
});

describe('place of an address', () => {
  test('bit n speaks of [iova + n * page_size, iova + (n + 1) * page_size)', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: 2n ** 62n }),
        fc.bigInt({ min: 0n, max: 2n ** 40n }),
        fc.integer({ min: 0, max: 30 }),
        (iova, distance, log2) => {
          const pageSize = 2n ** BigInt(log2);
          const bit = bitOf(iova + distance, iova, pageSize);
          const first = addressOf(bit, iova, pageSize);
          expect(first <= iova + distance && iova + distance < first + pageSize).toBe(true);
        },
      ),
      { numRuns: 3000 },
    );
  });
});

/** The formula that the request for comments, linux/vfio.h and the vfio-user text print. */
function publishedFormula(address: bigint, iova: bigint, pageSize: bigint): { word: bigint; bit: bigint } {
  return { word: (address - iova) / pageSize, bit: address % 64n };
}

describe('erratum: the published formula', () => {
  // Measured on Linux (kernel.md): which bit the kernel sets for a write at that address.
  const measured: [row: string, iova: bigint, address: bigint, bit: bigint][] = [
    ['E10, one byte at the start', 0x100000n, 0x100000n, 0n],
    ['E10, crossing from page 3', 0x100000n, 0x103fffn, 3n],
    ['E10, into page 4', 0x100000n, 0x104000n, 4n],
    ['E10, the last page', 0x100000n, 0x13f000n, 63n],
    ['E12, the last page of the second range', 0x200000n, 0x21f000n, 31n],
    ['E15, page 56', 0x100000n, 0x138000n, 56n],
    ['E19, the second range seen from the first', 0x100000n, 0x200000n, 256n],
  ];

  test('the arithmetic here sets the bits that Linux sets', () => {
    for (const [, iova, address, bit] of measured) {
      expect(bitOf(address, iova, 4096n)).toBe(bit);
    }
  });

  test('the published formula is wrong at every one of them but bit 0', () => {
    for (const [row, iova, address, bit] of measured) {
      const published = publishedFormula(address, iova, 4096n);
      const same = published.word * 64n + published.bit === bit;
      expect([row, same]).toEqual([row, bit === 0n]);
    }
  });

  test('the worked example: address 0x141234 from 0x100000 is bit 65, not bit 52 of word 65', () => {
    expect(bitOf(0x141234n, 0x100000n, 4096n)).toBe(65n);
    expect(publishedFormula(0x141234n, 0x100000n, 4096n)).toEqual({ word: 65n, bit: 52n });
  });

  test('the published formula needs 64 times the bitmap that the texts ask for', () => {
    const last = publishedFormula(0x100000n + 2n ** 30n - 1n, 0x100000n, 4096n);
    expect((last.word + 1n) * 8n).toBe(64n * bitmapBytes(2n ** 30n, 4096n));
  });
});
