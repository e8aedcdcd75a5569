import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MOST_PAGES, SharedPageList } from '../../src/migration/source/shared-page-list.js';
import { PageList } from '../../src/migration/stream/page-list.js';

/** Every page of a list on its own, in order. */
function pagesOf({ extents, ranges, firstPages, pageCounts }: PageList): string[] {
  const pages: string[] = [];
  for (let extent = 0; extent < extents; extent++) {
    for (let page = 0; page < pageCounts[extent]!; page++)
      pages.push(`${ranges[extent]}:${firstPages[extent]! + page}`);
  }
  return pages;
}

describe('a page list that two threads see', () => {
  it('gives every page once and in order, by pieces that are full but for the last', () => {
    const range = fc.nat({ max: 0xffffffff });
    const firstPage = fc.nat({ max: 2 ** 52 });
    const extent = fc.record({ range, firstPage, pages: fc.integer({ min: 1, max: 700 }) });
    const extents = fc.array(extent, { maxLength: 40 });
    fc.assert(
      fc.property(extents, fc.integer({ min: 1, max: 300 }), (wanted, most) => {
        const list = new PageList(MOST_PAGES);
        for (const { range, firstPage, pages } of wanted) list.add(range, firstPage, pages);
        const here = new SharedPageList();
        here.put(list);
        const there = new SharedPageList(here.buffer);
        const sizes: number[] = [];
        const pages: string[] = [];
        for (const piece of there.takeBy(new PageList(most))) {
          sizes.push(piece.pages);
          pages.push(...pagesOf(piece));
        }
        expect(pages).toEqual(pagesOf(list));
        expect(sizes.slice(0, -1).every(size => size === most)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});
