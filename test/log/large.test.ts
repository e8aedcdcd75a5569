import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Keeping } from '../../src/bitmap/index.js';
import { DmaLog } from '../../src/log/index.js';
import { bitmapFor, setBits } from './bitmaps.js';
import { type Destination, destinations, reportInto } from './destinations.js';
import { keepings } from './keepings.js';

/* Logs of many groups and pieces against a set of page numbers: reports of any interval, in any page size, anywhere. */

/** The log's page: a report's may be a sixteenth, or sixteen times as large. */
const PAGE = 4096;
/** In pages. The first two share a group of the bitmap, the last ones fill several. */
const ranges = [
  { first: 10, end: 1300 },
  { first: 5000, end: 5001 },
  { first: 8192, end: 8192 + 150_000 },
  { first: 200_000, end: 370_001 },
];
const TOP = 380_000;

const isLogged = (page: number) => ranges.some(range => page >= range.first && page < range.end);

const page = fc.oneof(
  fc.nat(TOP),
  fc.constantFrom(9, 10, 1299, 1300, 5000, 8191, 8192, 158_191, 158_192, 200_000, 369_999, 370_000),
);

const step = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant<'list'>('list'), pages: fc.array(page, { maxLength: 40 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant<'comb'>('comb'),
      from: page,
      step: fc.integer({ min: 1, max: 100 }),
      count: fc.nat(3000),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant<'run'>('run'), from: page, length: fc.nat(30_000) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant<'report'>('report'),
      from: fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: page }),
      pages: fc.oneof({ weight: 2, arbitrary: fc.constant(TOP) }, { weight: 1, arbitrary: page }),
      shift: fc.oneof(
        { weight: 3, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.constantFrom(1, 512, 2048) },
      ),
      pageSizeLog2: fc.oneof(
        { weight: 2, arbitrary: fc.constant(12) },
        { weight: 2, arbitrary: fc.constantFrom(6, 7, 8, 9, 15, 16, 17, 18) },
        { weight: 1, arbitrary: fc.integer({ min: 10, max: 30 }) },
      ),
      into: fc.constantFrom<Destination>(...destinations),
    }),
  },
);

type Report = Extract<typeof step extends fc.Arbitrary<infer Step> ? Step : never, { kind: 'report' }>;

/** What a report must set, and which pages it must leave marked. */
function naiveReport(dirty: ReadonlySet<number>, report: Report): { bits: number[]; left: Set<number> } {
  const start = report.from * PAGE + report.shift;
  const end = start + report.pages * PAGE;
  const pageSize = 2 ** report.pageSizeLog2;
  const bits = new Set<number>();
  const left = new Set<number>();
  for (const page of dirty) {
    const from = Math.max(page * PAGE, start);
    const to = Math.min((page + 1) * PAGE, end);
    if (from < to) {
      const last = Math.floor((to - 1 - start) / pageSize);
      for (let bit = Math.floor((from - start) / pageSize); bit <= last; bit++) bits.add(bit);
    }
    if (from >= to || to - from < PAGE) left.add(page);
  }
  return { bits: [...bits].sort((a, b) => a - b), left };
}

describe.each<Keeping>(keepings)('a large log kept as %s', keeping => {
  test('reports and keeps exactly what it must', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 2, maxLength: 10 }), steps => {
        const log = new DmaLog({ keeping, reportBytes: 2 ** 24 });
        log.start(
          4096n,
          ranges.map(({ first, end }) => ({ iova: BigInt(first * PAGE), length: BigInt((end - first) * PAGE) })),
        );
        let dirty = new Set<number>();
        for (const step of steps) {
          if (step.kind === 'report') {
            const length = BigInt(step.pages * PAGE);
            const pageSize = 2n ** BigInt(step.pageSizeLog2);
            const clean = bitmapFor(length, pageSize);
            const after = reportInto(log, step.into, BigInt(step.from * PAGE + step.shift), length, pageSize, clean);
            const expected = naiveReport(dirty, step);
            expect(setBits(after)).toEqual(expected.bits);
            dirty = expected.left;
          } else if (step.kind === 'run') {
            log.record(step.from * PAGE, step.length * PAGE);
            for (let page = step.from; page < step.from + step.length; page++) if (isLogged(page)) dirty.add(page);
          } else {
            const pages =
              step.kind === 'list'
                ? step.pages
                : Array.from({ length: step.count }, (_, index) => step.from + index * step.step);
            log.recordPages(step.kind === 'list' ? Uint32Array.from(pages) : Float64Array.from(pages));
            for (const page of pages) if (isLogged(page)) dirty.add(page);
          }
          expect(log.dirtyPages()).toBe(dirty.size);
        }
      }),
      { numRuns: 100 },
    );
  });
});

describe('a list of pages', () => {
  test('marks what lies in a range, whatever else it names, and only as many as it is told', () => {
    for (const keeping of keepings) {
      const log = new DmaLog({ keeping });
      log.recordPages(Float64Array.of(1));
      log.start(4096n, [
        { iova: 0x10000n, length: 0x4001n },
        { iova: 2n ** 60n, length: 4096n },
      ]);
      const odd = [Number.NaN, -1, Number.POSITIVE_INFINITY, 2 ** 53, 1e300, 15, 21];
      log.recordPages(Float64Array.from([...odd, 16, 20, 18]), odd.length + 2);
      expect(log.dirtyPages()).toBe(2);
      log.recordPages(Float64Array.of(2 ** 48));
      expect(log.dirtyPages()).toBe(3);
      expect(() => log.recordPages(new Uint32Array(3), 4)).toThrow('EINVAL');
      expect(() => log.recordPages(new Uint32Array(3), -1)).toThrow('EINVAL');
    }
  });

  test('marks in a log of everything, too', () => {
    const log = new DmaLog();
    log.start(4096n, 'everything');
    log.recordPages(Float64Array.of(5, Number.NaN, -1, 2 ** 50, 2 ** 53));
    expect(log.dirtyPages()).toBe(2);
  });
});
