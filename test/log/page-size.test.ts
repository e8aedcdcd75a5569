import fc from 'fast-check';
import { expect, test } from 'vitest';
import { choosePageSize, DmaLog } from '../../src/log/index.js';
import { errnoOf } from './bitmaps.js';

/** How far apart two sizes are in log2, as an exact fraction: the larger over the smaller. */
function ratio(a: bigint, b: bigint): { over: bigint; under: bigint } {
  return a > b ? { over: a, under: b } : { over: b, under: a };
}

/** The closest size by comparing every supported one with every other. */
function naiveChoice(hint: bigint, supported: readonly bigint[]): bigint {
  return supported.reduce((best, size) => {
    const [one, other] = [ratio(size, hint), ratio(best, hint)];
    const [left, right] = [one.over * other.under, other.over * one.under];
    return left < right || (left === right && size < best) ? size : best;
  });
}

const size = fc.integer({ min: 0, max: 63 }).map(log2 => 2n ** BigInt(log2));

test('the choice is the closest in log2, the smaller on a tie, for every hint and every set of sizes', () => {
  const hint = fc.oneof(size, fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 1n, max: 70000n }));
  fc.assert(
    fc.property(hint, fc.array(size, { minLength: 1, maxLength: 8 }), (wanted, sizes) => {
      const log = new DmaLog({ pageSizes: sizes });
      const chosen = log.start(wanted, 'everything');
      expect(chosen).toBe(naiveChoice(wanted, sizes));
      expect(log.pageSize).toBe(chosen);
    }),
    { numRuns: 3000 },
  );
});

test('between two powers of two the choice turns at their geometric mean, exactly', () => {
  expect(choosePageSize(5792n, [4096n, 8192n])).toBe(4096n);
  expect(choosePageSize(5793n, [4096n, 8192n])).toBe(8192n);
  // The mean of 2^62 and 2^63 is 6521908912666391106.17...: in floating point both neighbours are the same number.
  expect(choosePageSize(6521908912666391106n, [2n ** 62n, 2n ** 63n])).toBe(2n ** 62n);
  expect(choosePageSize(6521908912666391107n, [2n ** 62n, 2n ** 63n])).toBe(2n ** 63n);
});

test('a tie goes to the smaller size', () => {
  expect(choosePageSize(8192n, [4096n, 16384n])).toBe(4096n);
  expect(choosePageSize(2n ** 20n, [4096n, 2n ** 28n])).toBe(4096n);
});

test('a hint below or above all sizes gives the first or the last one', () => {
  for (const hint of [1n, 2n, 3n, 512n, 4095n]) expect(choosePageSize(hint, [4096n, 65536n])).toBe(4096n);
  for (const hint of [65537n, 2n ** 63n, 2n ** 64n - 1n]) expect(choosePageSize(hint, [4096n, 65536n])).toBe(65536n);
});

test('a hint of 0 is EINVAL', () => {
  for (const hint of [0n, -1n]) {
    expect(errnoOf(() => choosePageSize(hint, [4096n]))).toBe('EINVAL');
    const log = new DmaLog();
    expect(errnoOf(() => log.start(hint, 'everything'))).toBe('EINVAL');
    expect(log.active).toBe(false);
  }
});

test('options that no log can have are EINVAL', () => {
  for (const pageSizes of [[], [0n], [4097n], [-4096n], [4096n, 3n], [2n ** 64n]]) {
    expect(errnoOf(() => new DmaLog({ pageSizes }))).toBe('EINVAL');
  }
  for (const count of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(errnoOf(() => new DmaLog({ maxRanges: count }))).toBe('EINVAL');
    expect(errnoOf(() => new DmaLog({ maxBytes: count }))).toBe('EINVAL');
  }
});
