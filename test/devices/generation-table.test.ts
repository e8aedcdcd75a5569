import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeGenerations, encodeGenerations } from '../../src/devices/workload/generation-table.js';

const anyTable = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 300 }), fc.oneof(fc.nat(3), fc.nat(200), fc.nat(0xffff_ffff))), {
    maxLength: 40,
  })
  .map(runs => Uint32Array.from(runs.flatMap(([length, value]) => Array.from({ length }, () => value))));

describe('the generation table as bytes', () => {
  test('the example of the header comment holds', () => {
    expect([...encodeGenerations(Uint32Array.of(0, 0, 0, 300))]).toEqual([0x03, 0x00, 0x01, 0xac, 0x02]);
  });

  test('any table comes back', () => {
    fc.assert(
      fc.property(anyTable, table => {
        expect(decodeGenerations(encodeGenerations(table), table.length)).toEqual(table);
      }),
      { numRuns: 1000 },
    );
  });

  test('a table cut off anywhere, or for another number of pages, is EINVAL', () => {
    fc.assert(
      fc.property(anyTable, table => {
        const bytes = encodeGenerations(table);
        for (let length = 0; length < bytes.length; length++) {
          expect(() => decodeGenerations(bytes.subarray(0, length), table.length)).toThrow('EINVAL');
        }
        expect(() => decodeGenerations(bytes, table.length + 1)).toThrow('EINVAL');
      }),
      { numRuns: 200 },
    );
  });

  test('runs of no pages and integers of more than 32 bits are EINVAL', () => {
    expect(() => decodeGenerations(Uint8Array.of(0, 1, 1, 1), 1)).toThrow('EINVAL');
    expect(() => decodeGenerations(Uint8Array.of(1, 0xff, 0xff, 0xff, 0xff, 0x1f), 1)).toThrow('EINVAL');
    expect(() => decodeGenerations(Uint8Array.of(1, 0x80, 0x80, 0x80, 0x80, 0x80, 0), 1)).toThrow('EINVAL');
    expect(decodeGenerations(Uint8Array.of(1, 0xff, 0xff, 0xff, 0xff, 0x0f), 1)).toEqual(Uint32Array.of(0xffff_ffff));
  });

  test('runs that claim more pages than there are allocate nothing and are EINVAL at once', () => {
    const claim = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x0f, 1);
    const many = new Uint8Array(6 * 10_000);
    for (let at = 0; at < many.length; at += 6) many.set(claim, at);
    expect(() => decodeGenerations(many, 100)).toThrow('EINVAL');
  });

  test('a table that one pass of writes made takes a few bytes; one of random writes about two a page', () => {
    expect(encodeGenerations(new Uint32Array(2 ** 20).fill(7)).length).toBeLessThan(8);
    const random = Uint32Array.from({ length: 10_000 }, (_, index) => (index * 7919) % 101);
    expect(encodeGenerations(random).length).toBeLessThan(2.2 * random.length);
  });
});
