import fc from 'fast-check';
import { expect, test } from 'vitest';
import { mergeRanges } from '../../src/log/index.js';
import { mergedBytes } from './naive-log.js';

const range = fc.record({ start: fc.nat(300), length: fc.oneof(fc.nat(5), fc.nat(60)) });

function merged(ranges: readonly (readonly [bigint, bigint])[], most: number): [bigint, bigint][] {
  const asRanges = ranges.map(([start, end]) => ({ iova: start, length: end - start }));
  return mergeRanges(asRanges, most).map(({ start, end }) => [start, end]);
}

test('the result holds the bytes of the ranges and of the smallest gaps, merged one at a time', () => {
  fc.assert(
    fc.property(fc.array(range, { maxLength: 20 }), fc.integer({ min: 1, max: 10 }), (ranges, most) => {
      const asRanges = ranges.map(({ start, length }) => ({ iova: BigInt(start), length: BigInt(length) }));
      const result = mergeRanges(asRanges, most);
      const bytes = result.flatMap(({ start, end }) =>
        Array.from({ length: Number(end - start) }, (_, index) => Number(start) + index),
      );
      expect(bytes).toEqual([...mergedBytes(ranges, most)].sort((a, b) => a - b));
      expect(result.length).toBeLessThanOrEqual(most);
      for (let index = 1; index < result.length; index++)
        expect(result[index].start > result[index - 1].end).toBe(true);
    }),
    { numRuns: 3000 },
  );
});

test('ranges that touch become one, ranges a byte apart do not', () => {
  expect(
    merged(
      [
        [10n, 20n],
        [20n, 30n],
      ],
      9,
    ),
  ).toEqual([[10n, 30n]]);
  expect(
    merged(
      [
        [10n, 20n],
        [21n, 30n],
      ],
      9,
    ),
  ).toEqual([
    [10n, 20n],
    [21n, 30n],
  ]);
});

test('equal, nested and unsorted ranges are one union', () => {
  expect(
    merged(
      [
        [50n, 60n],
        [10n, 40n],
        [20n, 30n],
        [10n, 40n],
        [35n, 45n],
      ],
      9,
    ),
  ).toEqual([
    [10n, 45n],
    [50n, 60n],
  ]);
});

test('among equal gaps the one at the lower address is closed first', () => {
  expect(
    merged(
      [
        [0n, 1n],
        [5n, 6n],
        [10n, 11n],
        [15n, 16n],
      ],
      3,
    ),
  ).toEqual([
    [0n, 6n],
    [10n, 11n],
    [15n, 16n],
  ]);
  expect(
    merged(
      [
        [0n, 1n],
        [9n, 10n],
        [14n, 15n],
        [19n, 20n],
        [20n + 3n, 24n],
      ],
      3,
    ),
  ).toEqual([
    [0n, 1n],
    [9n, 15n],
    [19n, 24n],
  ]);
});

test('ranges of length 0 count for nothing, wherever they lie', () => {
  expect(
    merged(
      [
        [5n, 5n],
        [100n, 100n],
      ],
      1,
    ),
  ).toEqual([]);
  expect(
    merged(
      [
        [5n, 5n],
        [10n, 11n],
        [10n, 10n],
        [11n, 11n],
        [200n, 200n],
      ],
      1,
    ),
  ).toEqual([[10n, 11n]]);
});

test('gaps are compared exactly at the end of the address space', () => {
  const top = 2n ** 64n;
  expect(
    merged(
      [
        [0n, 1n],
        [2n ** 53n, 2n ** 53n + 1n],
        [top - 2n, top - 1n],
      ],
      2,
    ),
  ).toEqual([
    [0n, 2n ** 53n + 1n],
    [top - 2n, top - 1n],
  ]);
  expect(
    merged(
      [
        [top - 20n, top - 15n],
        [top - 12n, top - 9n],
        [top - 7n, top - 1n],
      ],
      2,
    ),
  ).toEqual([
    [top - 20n, top - 15n],
    [top - 12n, top - 1n],
  ]);
});
