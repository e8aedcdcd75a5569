import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DmaLog } from '../../src/log/index.js';
import type { IovaRange } from '../../src/uapi/index.js';
import { bitmapFor, setBits } from './bitmaps.js';
import { destinations, reportInto } from './destinations.js';
import { keepings } from './keepings.js';
import { NaiveLog, type NaiveRange } from './naive-log.js';

/* The log against the byte-by-byte oracle: any START, then any sequence of operations. */

const SPACE = 1024;

/** Where the small space lies: at 0, amid pages, across the end of exact numbers, at the end of addresses. */
const bases = [0n, 2n ** 20n, 3n * 2n ** 30n + 100n, 2n ** 53n - 512n, 2n ** 53n + 2n ** 40n, 2n ** 64n - 3n * 1024n];

const pageSizeLog2 = fc.nat(10);

const range: fc.Arbitrary<NaiveRange> = fc.record({
  start: fc.nat(SPACE - 1),
  length: fc.oneof(fc.constant(0), fc.nat(10), fc.nat(200), fc.nat(SPACE)),
});

const setup = fc.record({
  base: fc.constantFrom(...bases),
  pageSizes: fc.uniqueArray(pageSizeLog2, { minLength: 1, maxLength: 4 }),
  hint: fc.oneof(
    pageSizeLog2.map(log2 => 2 ** log2),
    fc.integer({ min: 1, max: 3000 }),
  ),
  ranges: fc.oneof(
    { weight: 5, arbitrary: fc.array(range, { minLength: 1, maxLength: 12 }) },
    { weight: 1, arbitrary: fc.constant<'everything'>('everything') },
  ),
  maxRanges: fc.oneof(fc.constant(256), fc.integer({ min: 1, max: 6 })),
  keeping: fc.constantFrom(...keepings),
  into: fc.constantFrom(...destinations),
});

const operation = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant<'record'>('record'),
      start: fc.integer({ min: -50, max: SPACE + 50 }),
      length: fc.oneof(fc.constantFrom(0, 1), fc.nat(40), fc.nat(SPACE)),
      asBigint: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant<'list'>('list'),
      /** Of each page, a byte. */
      bytes: fc.array(fc.integer({ min: -50, max: SPACE + 50 }), { maxLength: 20 }),
      /** A page's number may be a fraction, too. */
      fraction: fc.constantFrom(0, 0, 0.5),
      /** Between the pages, what is none. */
      odd: fc.array(fc.constantFrom(Number.NaN, -1, -0.5, -(2 ** 40), Number.POSITIVE_INFINITY, 2 ** 53, 1e300), {
        maxLength: 4,
      }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant<'report'>('report'),
      start: fc.oneof(
        fc.integer({ min: -50, max: SPACE }),
        pageSizeLog2.chain(log2 => fc.nat(SPACE / 2 ** log2).map(page => page * 2 ** log2)),
      ),
      length: fc.oneof(fc.nat(10), fc.nat(200), fc.nat(SPACE), fc.constant(SPACE)),
      pageSizeLog2: fc.oneof(fc.constant('same' as const), fc.nat(13)),
      stain: fc.integer({ min: 0, max: 0xffffffff }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant<'restart'>('restart') }) },
);

function toIova(base: bigint, ranges: readonly NaiveRange[]): IovaRange[] {
  return ranges.map(({ start, length }) => ({ iova: base + BigInt(start), length: BigInt(length) }));
}

/** Addresses are relative to the base; nothing lies below address 0. */
function clampStart(base: bigint, start: number): number {
  return base === 0n ? Math.max(start, 0) : start;
}

/** Page numbers of a list, with odd ones among them, and where each page begins relative to the base. */
function toPages(
  base: bigint,
  pageSize: bigint,
  { bytes, fraction, odd }: { bytes: number[]; fraction: number; odd: number[] },
): { list: Float64Array; starts: number[] } {
  const pages = bytes.map(byte => (base + BigInt(clampStart(base, byte))) / pageSize);
  const named = pages.filter(page => page < 2n ** 53n);
  const list = named.map(page => (Number(page) < 2 ** 51 ? Number(page) + fraction : Number(page)));
  for (const [index, number] of odd.entries()) list.splice(index * 3, 0, number);
  return { list: Float64Array.from(list), starts: named.map(page => Number(page * pageSize - base)) };
}

describe('the log and the byte-by-byte oracle', () => {
  test('agree on every bit of every report, and on how much is dirty in between', () => {
    fc.assert(
      fc.property(setup, fc.array(operation, { maxLength: 25 }), (start, operations) => {
        const { base, ranges, maxRanges, keeping, into } = start;
        const log = new DmaLog({ pageSizes: start.pageSizes.map(log2 => 2n ** BigInt(log2)), maxRanges, keeping });
        const startBoth = () => {
          const chosen = log.start(BigInt(start.hint), ranges === 'everything' ? ranges : toIova(base, ranges));
          return new NaiveLog(Number(chosen), Number(base % 2n ** 20n), ranges, maxRanges);
        };
        let naive = startBoth();
        for (const step of operations) {
          if (step.kind === 'record') {
            const at = clampStart(base, step.start);
            const iova = base + BigInt(at);
            const asNumber = !step.asBigint && iova <= Number.MAX_SAFE_INTEGER;
            log.record(asNumber ? Number(iova) : iova, step.length);
            naive.record(at, step.length);
          } else if (step.kind === 'list') {
            const { list, starts } = toPages(base, log.pageSize, step);
            log.recordPages(list);
            for (const from of starts) naive.record(from, Number(log.pageSize));
          } else if (step.kind === 'report') {
            const at = clampStart(base, step.start);
            const pageSize = step.pageSizeLog2 === 'same' ? log.pageSize : 2n ** BigInt(step.pageSizeLog2);
            const before = bitmapFor(BigInt(step.length), pageSize).fill(step.stain);
            const expected = new Set(setBits(before));
            for (const bit of naive.report(at, step.length, Number(pageSize))) expected.add(bit);
            const after = reportInto(log, into, base + BigInt(at), BigInt(step.length), pageSize, before);
            expect(setBits(after)).toEqual([...expected].sort((a, b) => a - b));
          } else {
            log.stop();
            naive = startBoth();
          }
          expect(log.dirtyPages()).toBe(naive.dirtyPages);
        }
      }),
      { numRuns: 4000 },
    );
  });
});

describe('no dirty byte is ever lost', () => {
  test('a byte written in a range is in the first report that covers it', () => {
    fc.assert(
      fc.property(setup, fc.array(operation, { maxLength: 25 }), (start, operations) => {
        const { base, ranges } = start;
        const log = new DmaLog({
          pageSizes: start.pageSizes.map(log2 => 2n ** BigInt(log2)),
          maxRanges: start.maxRanges,
          keeping: start.keeping,
        });
        log.start(BigInt(start.hint), ranges === 'everything' ? ranges : toIova(base, ranges));
        const isLogged = (byte: number) =>
          ranges === 'everything' || ranges.some(range => byte >= range.start && byte < range.start + range.length);
        const pending = new Set<number>();
        for (const step of operations) {
          if (step.kind === 'restart' || step.kind === 'list') continue;
          const at = clampStart(base, step.start);
          if (step.kind === 'record') {
            log.record(base + BigInt(at), step.length);
            for (let byte = at; byte < at + step.length; byte++) if (isLogged(byte)) pending.add(byte);
          } else {
            const pageSize = step.pageSizeLog2 === 'same' ? log.pageSize : 2n ** BigInt(step.pageSizeLog2);
            const clean = bitmapFor(BigInt(step.length), pageSize);
            const after = reportInto(log, start.into, base + BigInt(at), BigInt(step.length), pageSize, clean);
            const bits = new Set(setBits(after));
            for (const byte of [...pending]) {
              if (byte < at || byte >= at + step.length) continue;
              expect(bits).toContain(Math.floor((byte - at) / Number(pageSize)));
              pending.delete(byte);
            }
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('when the device is quiet, reports of each range end with a clean log', () => {
    fc.assert(
      fc.property(setup, fc.array(fc.nat(SPACE), { maxLength: 20 }), ({ base, ranges, ...start }, writes) => {
        fc.pre(ranges !== 'everything');
        const log = new DmaLog({
          pageSizes: start.pageSizes.map(log2 => 2n ** BigInt(log2)),
          maxRanges: start.maxRanges,
          keeping: start.keeping,
        });
        log.start(BigInt(start.hint), toIova(base, ranges));
        for (const write of writes) log.record(base + BigInt(write), 3);
        const lowest = log.ranges[0];
        const highest = log.ranges.at(-1);
        if (lowest !== undefined && highest !== undefined) {
          const length = highest.iova + highest.length - lowest.iova;
          log.report(lowest.iova, length, 4096n, bitmapFor(length, 4096n));
        }
        expect(log.dirtyPages()).toBe(0);
      }),
      { numRuns: 1000 },
    );
  });
});
