import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DirtySet } from '../../src/tracker/index.js';

const ranges = [
  { iova: 0x10000n, length: 0x4000n },
  { iova: 0x1_0000_0000n, length: 0x3000n },
];

/** The pages of an interval that lie in the ranges, one by one. */
function naivePages(interval: { iova: bigint; length: bigint }): bigint[] {
  const pages: bigint[] = [];
  for (const range of ranges) {
    for (let page = range.iova; page < range.iova + range.length; page += 4096n) {
      if (interval.length > 0n && interval.iova < page + 4096n && page < interval.iova + interval.length)
        pages.push(page);
    }
  }
  return pages;
}

function pagesOf(set: DirtySet): bigint[] {
  const pages: bigint[] = [];
  for (const { iova, length } of set.runs()) for (let at = iova; at < iova + length; at += 4096n) pages.push(at);
  return pages;
}

const interval = fc.record({
  iova: fc.oneof(fc.bigInt(0xe000n, 0x16000n), fc.bigInt(0xffff_e000n, 0x1_0000_5000n)),
  length: fc.bigInt(0n, 0x5000n),
});

describe('DirtySet', () => {
  it('marks the pages that an interval touches, as a naive set of pages does', () => {
    fc.assert(
      fc.property(fc.array(interval, { maxLength: 6 }), intervals => {
        const set = new DirtySet(ranges);
        const naive = new Set<bigint>();
        for (const each of intervals) {
          set.mark(each);
          for (const page of naivePages(each)) naive.add(page);
        }
        expect(pagesOf(set)).toEqual([...naive].sort((a, b) => (a < b ? -1 : 1)));
        expect(set.count()).toBe(naive.size);
      }),
      { numRuns: 2000 },
    );
  });

  it('is the union of two sets after or, and empty after clear', () => {
    fc.assert(
      fc.property(fc.array(interval), fc.array(interval), (left, right) => {
        const [a, b, both] = [new DirtySet(ranges), new DirtySet(ranges), new DirtySet(ranges)];
        for (const each of left) a.mark(each);
        for (const each of right) b.mark(each);
        for (const each of [...left, ...right]) both.mark(each);
        a.or(b);
        expect(pagesOf(a)).toEqual(pagesOf(both));
        a.clear();
        expect(a.count()).toBe(0);
      }),
      { numRuns: 500 },
    );
  });

  it('counts every page once when everything is dirty', () => {
    const set = new DirtySet(ranges);
    set.markAll();
    expect(set.count()).toBe(7);
    expect(set.pages).toBe(7);
  });

  it.each([
    ['ranges that overlap', [ranges[0]!, { iova: 0x13000n, length: 0x1000n }], 4096n],
    ['a range that is not whole pages', [{ iova: 0x800n, length: 0x1000n }], 4096n],
    ['a page size that is no power of two', ranges, 6144n],
  ])('refuses %s', (_, bad, pageSize) => {
    expect(() => new DirtySet(bad, pageSize)).toThrow('EINVAL');
  });
});
