import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GOLDEN, mix } from '../../src/devices/workload/mix.js';
import { Random } from '../../src/devices/workload/random.js';
import { Zipf } from '../../src/devices/workload/zipf.js';

/** xoshiro128** in bigints, as its authors' paper states it. */
function* naiveXoshiro(seed: readonly number[]): Generator<number> {
  let [a, b, c, d] = seed.map(BigInt) as [bigint, bigint, bigint, bigint];
  const word = (value: bigint) => value & 0xffff_ffffn;
  const rotate = (value: bigint, count: bigint) => word(value << count) | (value >> (32n - count));
  for (;;) {
    yield Number(word(rotate(word(b * 5n), 7n) * 9n));
    const shifted = word(b << 9n);
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11n);
  }
}

/** 99.99% of chi-squared values with so many degrees of freedom lie below (Wilson and Hilferty's approximation). */
function chiSquaredLimit(degrees: number): number {
  const spread = 2 / (9 * degrees);
  return degrees * (1 - spread + 3.72 * Math.sqrt(spread)) ** 3;
}

function chiSquared(counts: readonly number[], expected: readonly number[]): number {
  return counts.reduce((sum, count, index) => sum + (count - expected[index]!) ** 2 / expected[index]!, 0);
}

describe('random numbers', () => {
  test('the example of the header comment holds', () => {
    const random = new Random(Uint32Array.of(1, 2, 3, 4));
    expect(random.next()).toBe(11520);
    expect([...random.save()]).toEqual([7, 0, 1026, 12288]);
  });

  test('any state gives the sequence of the paper', () => {
    const word = fc.nat(0xffff_ffff);
    fc.assert(
      fc.property(fc.tuple(word, word, word, fc.integer({ min: 1, max: 0xffff_ffff })), words => {
        const random = new Random(Uint32Array.from(words));
        const naive = naiveXoshiro(words);
        for (let index = 0; index < 50; index++) expect(random.next()).toBe(naive.next().value);
      }),
      { numRuns: 300 },
    );
  });

  test('a generator made from a saved state goes on where the other was', () => {
    const random = Random.fromSeed(7);
    for (let index = 0; index < 100; index++) random.fraction();
    const copy = new Random(random.save());
    for (let index = 0; index < 100; index++) expect(copy.next()).toBe(random.next());
  });

  test('four zeros, which would give zeros for ever, and other lengths are EINVAL', () => {
    expect(() => new Random(new Uint32Array(4))).toThrow('EINVAL');
    expect(() => new Random(Uint32Array.of(1, 2, 3))).toThrow('EINVAL');
    expect(() => new Random(Uint32Array.of(1, 2, 3, 4, 5))).toThrow('EINVAL');
  });

  test('no seed gives four zeros, not even those that the mixer sends to zero', () => {
    for (let word = 1; word <= 4; word++) {
      const seed = -Math.imul(word, GOLDEN) >>> 0;
      expect(
        Random.fromSeed(seed)
          .save()
          .some(value => value !== 0),
      ).toBe(true);
    }
  });

  test('neighbouring seeds give unrelated sequences', () => {
    const firsts = new Set(Array.from({ length: 2000 }, (_, seed) => Random.fromSeed(seed).next()));
    expect(firsts.size).toBe(2000);
  });

  test('every integer below a bound is as likely as any other', () => {
    const random = Random.fromSeed(3);
    const counts = Array.from({ length: 100 }, () => 0);
    for (let index = 0; index < 200_000; index++) counts[random.below(100)]!++;
    expect(
      chiSquared(
        counts,
        counts.map(() => 2000),
      ),
    ).toBeLessThan(chiSquaredLimit(99));
  });

  test('a fraction is below 1 even for the two largest numbers in a row', () => {
    // The word whose scrambled form is all ones: 5^-1 * rotr(9^-1 * (2^32 - 1), 7), modulo 2^32. In a state (a, word, a, b) it stays.
    const ninth = Math.imul(0x38e3_8e39, -1) >>> 0;
    const word = Math.imul(0xcccc_cccd, (ninth >>> 7) | (ninth << 25)) >>> 0;
    const state = Uint32Array.of(0, word, 0, 1);
    const random = new Random(state);
    expect([random.next(), random.next()]).toEqual([0xffff_ffff, 0xffff_ffff]);
    expect(new Random(state).fraction()).toBe(1 - 2 ** -53);
    expect(new Random(state).below(2 ** 26)).toBe(2 ** 26 - 1);
  });

  test('the mixer is one to one on a sample, and keeps 0', () => {
    const mixed = new Set(Array.from({ length: 100_000 }, (_, index) => mix(index * 40_503)));
    expect(mixed.size).toBe(100_000);
    expect(mix(0)).toBe(0);
  });
});

describe("Zipf's distribution", () => {
  for (const exponent of [0, 0.5, 0.99, 1, 1.00001, 1.5, 2, 3, 8]) {
    test(`exponent ${exponent}: the ranks come as often as their weights say`, () => {
      const [ranks, draws] = [40, 100_000];
      const random = Random.fromSeed(11);
      const zipf = new Zipf(ranks, exponent);
      const counts = Array.from({ length: ranks }, () => 0);
      for (let index = 0; index < draws; index++) counts[zipf.next(random) - 1]!++;
      const weights = counts.map((_, index) => (index + 1) ** -exponent);
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      const expected = weights.map(weight => (weight / total) * draws);
      // Ranks that come less than ten times are put together: the statistic is not fit for them.
      const common = expected.filter(value => value >= 10).length;
      const group = (values: number[]) => {
        const rest = values.slice(common).reduce((sum, value) => sum + value, 0);
        return rest > 1 ? [...values.slice(0, common), rest] : values.slice(0, common);
      };
      const grouped = group(expected);
      expect(chiSquared(group(counts).slice(0, grouped.length), grouped)).toBeLessThan(
        chiSquaredLimit(Math.max(grouped.length - 1, 1)),
      );
    });
  }

  test('any count and exponent give ranks within 1 and the count, without many tries', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2 ** 26 }),
        fc.nat(8 * 65536).map(fixed => fixed / 65536),
        fc.nat(0xffff_ffff),
        (count, exponent, seed) => {
          const random = Random.fromSeed(seed);
          const zipf = new Zipf(count, exponent);
          for (let index = 0; index < 20; index++) {
            const rank = zipf.next(random);
            expect(Number.isInteger(rank) && rank >= 1 && rank <= count).toBe(true);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});
