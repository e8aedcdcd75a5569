import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkReport, RangeChecker } from '../../src/device/index.js';
import { type IovaRange, linux, rfc, type VfioError, vfioUser } from '../../src/uapi/index.js';

const SPACE = 1n << 64n;

/** The checks of each range against each other one, as Linux's interval tree sees them: last byte modulo 2^64. */
function naiveCheck(pageSize: bigint, ranges: readonly IovaRange[], aligned: boolean): string | undefined {
  const spans: { start: bigint; last: bigint }[] = [];
  for (const { iova, length } of ranges) {
    const mask = BigInt.asUintN(64, pageSize - 1n);
    if (aligned && ((iova & mask) !== 0n || (length & mask) !== 0n)) return 'EINVAL';
    if (iova + length > SPACE - 1n) return 'EOVERFLOW';
    const span = { start: iova, last: BigInt.asUintN(64, iova + length - 1n) };
    if (spans.some(other => other.start <= span.last && span.start <= other.last)) return 'EINVAL';
    spans.push(span);
  }
  return undefined;
}

function check(profile: typeof linux, pageSize: bigint, ranges: readonly IovaRange[]): string | undefined {
  try {
    const checker = new RangeChecker(profile, pageSize, ranges.length);
    for (const range of ranges) checker.add(() => range);
    expect(checker.finish()).toEqual(ranges);
    return undefined;
  } catch (error) {
    return (error as VfioError).errno;
  }
}

const small = fc.record({ iova: fc.bigInt(1n, 40n), length: fc.bigInt(0n, 8n) });
const pages = small.map(({ iova, length }) => ({ iova: iova * 4096n, length: length * 4096n }));
const high = fc.record({ iova: fc.bigInt(SPACE - 40n, SPACE - 1n), length: fc.bigInt(0n, 50n) });

describe("START's ranges", () => {
  for (const profile of [linux, rfc, vfioUser]) {
    test(`${profile.name}: any ranges are judged as one by one against all others`, () => {
      fc.assert(
        fc.property(
          fc.constantFrom(1n, 2n, 3n, 4096n),
          fc.array(fc.oneof(pages, pages, small, high), { minLength: 1, maxLength: 6 }),
          (pageSize, ranges) => {
            expect(check(profile, pageSize, ranges)).toBe(naiveCheck(pageSize, ranges, profile.alignedRanges));
          },
        ),
        { numRuns: 5000 },
      );
    });
  }

  test('hundreds of thousands of ranges in any order, the descending one too, are judged at once', () => {
    const many = 300_000;
    const descending = Array.from({ length: many }, (_, index) => ({ iova: BigInt(many - index) * 8192n, length: 1n }));
    expect(check(vfioUser, 4096n, descending)).toBeUndefined();
    const ranges = Array.from({ length: 10_000 }, (_, index) => ({
      iova: BigInt((index * 7919) % 10_000) * 8192n,
      length: 4096n,
    }));
    expect(check(vfioUser, 4096n, ranges)).toBeUndefined();
    expect(check(vfioUser, 4096n, [...ranges, { iova: 4095n, length: 1n }])).toBe('EINVAL');
  });
});

describe("REPORT's interval", () => {
  test('ends below 2^64, with a page size that the profile takes', () => {
    const errno = (profile: typeof linux, pageSize: bigint, iova: bigint, length: bigint) => {
      try {
        checkReport(profile, { iova, length, pageSize });
        return undefined;
      } catch (error) {
        return (error as VfioError).errno;
      }
    };
    for (const profile of [linux, rfc, vfioUser]) {
      expect(errno(profile, 4096n, SPACE - 2n, 1n)).toBeUndefined();
      expect(errno(profile, 4096n, SPACE - 1n, 1n)).toBe('EOVERFLOW');
      expect(errno(profile, 4096n, 1n, SPACE - 1n)).toBe('EOVERFLOW');
      expect(errno(profile, 2048n, 0n, 1n)).toBe(profile === linux ? 'EINVAL' : undefined);
      for (const pageSize of [0n, 3n, 6144n]) expect(errno(profile, pageSize, 0n, 1n)).toBe('EINVAL');
    }
  });
});
