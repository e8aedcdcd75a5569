import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DmaLog } from '../../src/log/index.js';
import { bitmapFor, setBits } from './bitmaps.js';
import { keepings } from './keepings.js';

/* Writes of single pages, which take the short way, among writes and reports that do not, over three groups of pages. */

const PAGES = 2 * 32768 + 3 * 512;

const page = fc.oneof(fc.nat(PAGES - 1), fc.nat(100), fc.constantFrom(511, 512, 32767, 32768, 65535, PAGES - 1));

const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant<'record'>('record'),
      pages: fc.array(page, { minLength: 1, maxLength: 40 }),
      /** Where in its page a write begins, and what it leaves of the page or takes of the next. */
      head: fc.nat(4095),
      beyond: fc.constantFrom(-4095, -1, 0, 0, 1, 4096, 4097),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant<'range'>('range'), first: page, pages: fc.nat(2000) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant<'report'>('report'), first: page, last: page }) },
);

/** Where the range lies: low, across 2^31 and 2^32 pages, so that the low bits of numbers start anew amid it, and high. */
const bases = [0, 3 * 4096, (2 ** 31 - 700) * 4096, (2 ** 32 - 700) * 4096, 2 ** 53 - PAGES * 4096];

describe.each(keepings)('kept as %s, records of single pages', keeping => {
  test('mark what a set of page numbers holds, whatever is recorded and reported in between', () => {
    fc.assert(
      fc.property(fc.constantFrom(...bases), fc.array(step, { minLength: 1, maxLength: 12 }), (base, steps) => {
        const log = new DmaLog({ keeping });
        log.start(4096n, [{ iova: BigInt(base), length: BigInt(PAGES) * 4096n }]);
        const marked = new Set<number>();
        const record = (iova: number, length: number) => {
          log.record(iova, length);
          const last = Math.floor((iova - base + length - 1) / 4096);
          for (let at = Math.floor((iova - base) / 4096); at <= last && at < PAGES; at++) marked.add(at);
        };
        for (const step of steps) {
          if (step.kind === 'record') {
            for (const at of step.pages) {
              const length = 4096 - step.head + step.beyond;
              if (length > 0) record(base + at * 4096 + step.head, length);
            }
          } else if (step.kind === 'range') {
            record(base + step.first * 4096, step.pages * 4096 + 1);
          } else {
            const first = Math.min(step.first, step.last);
            const count = Math.abs(step.first - step.last) + 1;
            const bitmap = bitmapFor(BigInt(count) * 4096n, 4096n);
            log.report(BigInt(base) + BigInt(first) * 4096n, BigInt(count) * 4096n, 4096n, bitmap);
            const expected = [...marked].filter(at => at >= first && at < first + count).sort((a, b) => a - b);
            expect(setBits(bitmap)).toEqual(expected.map(at => at - first));
            for (const at of expected) marked.delete(at);
          }
        }
        expect(log.dirtyPages()).toBe(marked.size);
      }),
      { numRuns: 150 },
    );
  });

  test('mark nothing below, behind and 2^32 pages from their range, nor for what is no whole number', () => {
    const base = 100 * 4096;
    const log = new DmaLog({ keeping });
    log.start(4096n, [{ iova: BigInt(base), length: 200n * 4096n }]);
    log.record(base, 1);
    const bitmap = bitmapFor(200n * 4096n, 4096n);
    log.report(BigInt(base), 200n * 4096n, 4096n, bitmap);
    for (const away of [2 ** 32, 2 ** 33, 3 * 2 ** 32]) log.record(base + away * 4096, 4096);
    log.record(base - 4096, 4096);
    log.record(base - 1, 1);
    log.record(base + 200 * 4096, 4096);
    for (const [iova, length] of [
      [base + 0.5, 1],
      [base, 0.5],
      [base, -1],
      [base - 2 ** 44, 1],
      [Number.NaN, 1],
      [base + 2 ** 60, 1],
      [base, Number.NaN],
    ]) {
      expect(() => log.record(iova, length)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    }
    expect(log.dirtyPages()).toBe(0);
    log.record(base + 199 * 4096 + 4095, 1);
    expect(log.dirtyPages()).toBe(1);
  });
});
