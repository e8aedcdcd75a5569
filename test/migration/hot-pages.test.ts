import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HotPages, withhold } from '../../src/migration/index.js';
import { DirtySet } from '../../src/tracker/index.js';

const ranges = [
  { iova: 0n, length: 4096n * 40n },
  { iova: 0x10_0000n, length: 4096n * 7n },
];
const PAGES = 47;

function pagesOf(set: DirtySet): number[] {
  const pages: number[] = [];
  for (const { iova, length } of set.runs()) {
    for (let at = iova; at < iova + length; at += 4096n) {
      pages.push(Number(at >= 0x10_0000n ? (at - 0x10_0000n) / 4096n + 40n : at / 4096n));
    }
  }
  return pages;
}

function mark(set: DirtySet, page: number): void {
  set.mark({ iova: page < 40 ? BigInt(page) * 4096n : 0x10_0000n + BigInt(page - 40) * 4096n, length: 1n });
}

describe('hot pages', () => {
  it('are exactly those that the last two collections have found', () => {
    fc.assert(
      fc.property(fc.array(fc.uniqueArray(fc.nat(PAGES - 1)), { maxLength: 8 }), collections => {
        const hot = new HotPages(ranges);
        let before: number[] = [];
        for (const pages of collections) {
          const fresh = hot.begin();
          expect(fresh.count()).toBe(0);
          for (const page of pages) mark(fresh, page);
          hot.learn();
          const both = pages.filter(page => before.includes(page)).sort((a, b) => a - b);
          expect(pagesOf(hot.pages)).toEqual(both);
          before = pages;
        }
      }),
    );
  });

  it('are taken out of what is sent, and only those that were in it', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(PAGES - 1)), fc.uniqueArray(fc.nat(PAGES - 1)), (dirtyPages, hotPages) => {
        const [dirty, hot] = [new DirtySet(ranges), new DirtySet(ranges)];
        for (const page of dirtyPages) mark(dirty, page);
        for (const page of hotPages) mark(hot, page);
        withhold(dirty, hot);
        const sorted = (pages: number[]) => pages.sort((a, b) => a - b);
        expect(pagesOf(dirty)).toEqual(sorted(dirtyPages.filter(page => !hotPages.includes(page))));
        expect(pagesOf(hot)).toEqual(sorted(dirtyPages.filter(page => hotPages.includes(page))));
      }),
    );
  });
});
