import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DmaLog } from '../../src/log/index.js';
import { bitmapFor, errnoOf, reportBits, setBits } from './bitmaps.js';
import { keepings } from './keepings.js';

/* Values at the ends of 64 bits: exact where floating point is not, and answered at once where they are absurd. */

const LIMIT = 2n ** 64n;

/** What a report must set and what it must leave dirty, page by page in bigint, for one range of whole pages. */
function naiveReport(
  dirty: ReadonlySet<bigint>,
  logPageSize: bigint,
  range: { start: bigint; end: bigint },
  report: { start: bigint; end: bigint; pageSize: bigint },
): { bits: number[]; dirty: bigint[] } {
  const bits = new Set<number>();
  const left: bigint[] = [];
  for (const page of [...dirty].sort((a, b) => (a < b ? -1 : 1))) {
    const start = page * logPageSize;
    const end = start + logPageSize;
    const from = start > report.start ? start : report.start;
    const to = end < report.end ? end : report.end;
    if (from >= to) {
      left.push(page);
      continue;
    }
    const last = (to - 1n - report.start) / report.pageSize;
    for (let bit = (from - report.start) / report.pageSize; bit <= last; bit++) bits.add(Number(bit));
    const before = start > range.start ? start : range.start;
    const behind = end < range.end ? end : range.end;
    if (before < report.start || behind > report.end) left.push(page);
  }
  return { bits: [...bits].sort((a, b) => a - b), dirty: left };
}

describe('any place and any page sizes in 64 bits', () => {
  const scene = fc
    .record({
      logLog2: fc.nat(63),
      reportLog2: fc.nat(63),
      place: fc.oneof(
        fc.bigInt({ min: 0n, max: LIMIT - 1n }),
        fc.integer({ min: 0, max: 63 }).map(log2 => 2n ** BigInt(log2)),
      ),
      pages: fc.bigInt({ min: 1n, max: 300n }),
      writes: fc.array(fc.nat(299), { maxLength: 10 }),
      ahead: fc.bigInt({ min: 0n, max: 3000n }),
      aheadUnit: fc.constantFrom<'byte' | 'log page' | 'report page'>('byte', 'log page', 'report page'),
      bits: fc.bigInt({ min: 1n, max: 3000n }),
      missing: fc.bigInt({ min: 0n, max: LIMIT }),
      everything: fc.boolean(),
      keeping: fc.constantFrom(...keepings),
    })
    .map(({ logLog2, reportLog2, ...rest }) => ({
      ...rest,
      logPage: 2n ** BigInt(logLog2),
      reportPage: 2n ** BigInt(reportLog2),
    }));

  test('a report sets the bits that exact arithmetic says, and leaves what it must', () => {
    fc.assert(
      fc.property(
        scene,
        ({ logPage, reportPage, place, pages, writes, ahead, aheadUnit, bits, missing, everything, keeping }) => {
          const lastPage = (LIMIT - 1n) / logPage;
          const firstPage = place / logPage;
          const endPage = firstPage + pages > lastPage ? lastPage : firstPage + pages;
          const range = { start: firstPage * logPage, end: endPage * logPage };
          fc.pre(range.start < range.end);
          const unit = { byte: 1n, 'log page': logPage, 'report page': reportPage }[aheadUnit];
          const from = range.start > ahead * unit ? range.start - ahead * unit : 0n;
          const wanted = from + bits * reportPage - (missing % reportPage);
          const report = { start: from, end: wanted < LIMIT ? wanted : LIMIT - 1n, pageSize: reportPage };
          const log = new DmaLog({ pageSizes: [logPage], keeping });
          log.start(logPage, everything ? 'everything' : [{ iova: range.start, length: range.end - range.start }]);
          const dirty = new Set<bigint>();
          for (const write of writes) {
            const page = firstPage + BigInt(write);
            if (page >= endPage) continue;
            dirty.add(page);
            // Numbers where they are exact: all but the first go by the remembered range.
            const iova = page * logPage + (missing % logPage);
            log.record(iova < 2n ** 53n ? Number(iova) : iova, 1);
          }
          const requested = everything ? { start: 0n, end: LIMIT } : range;
          const expected = naiveReport(dirty, logPage, requested, report);
          expect(reportBits(log, report.start, report.end - report.start, reportPage)).toEqual(expected.bits);
          expect(log.dirtyPages()).toBe(expected.dirty.length);
          const rest = naiveReport(new Set(expected.dirty), logPage, requested, { ...range, pageSize: logPage });
          expect(reportBits(log, range.start, range.end - range.start, logPage)).toEqual(rest.bits);
        },
      ),
      { numRuns: 3000 },
    );
  });

  test('log pages of one byte under report pages of 2^54 bytes: the byte before a boundary and the byte at it differ', () => {
    const boundary = 2n ** 54n;
    for (const start of [0n, 1n, 4095n]) {
      const log = new DmaLog({ pageSizes: [1n] });
      log.start(1n, [{ iova: boundary + start - 64n, length: 128n }]);
      log.record(boundary + start - 1n, 1);
      expect(reportBits(log, start, 3n * boundary, boundary)).toEqual([0]);
      log.record(boundary + start, 1);
      expect(reportBits(log, start, 3n * boundary, boundary)).toEqual([1]);
      log.record(boundary + start - 1n, 2);
      expect(reportBits(log, start, 3n * boundary, boundary)).toEqual([0, 1]);
    }
  });

  test('a log page of 2^63 bytes under report pages of one byte: five bytes before its end are five bits', () => {
    const log = new DmaLog({ pageSizes: [2n ** 63n] });
    log.start(1n, [{ iova: 0n, length: LIMIT - 1n }]);
    log.record(2n ** 63n - 1n, 1);
    expect(reportBits(log, 2n ** 63n - 5n, 10n, 1n)).toEqual([0, 1, 2, 3, 4]);
    log.record(2n ** 63n, 1);
    log.stop();
    log.start(1n, [{ iova: 0n, length: LIMIT - 1n }]);
    log.record(2n ** 63n, 1);
    expect(reportBits(log, 2n ** 63n - 5n, 10n, 1n)).toEqual([5, 6, 7, 8, 9]);
  });
});

describe('around 2^53, where numbers end', () => {
  test('a write that crosses it marks both sides, given as number or as bigint', () => {
    const edge = 2n ** 53n;
    for (const everything of [true, false]) {
      for (const iova of [Number(edge - 4n), edge - 4n]) {
        const log = new DmaLog({ pageSizes: [1n] });
        log.start(
          1n,
          everything
            ? 'everything'
            : [
                { iova: edge - 100n, length: 100n },
                { iova: edge, length: 100n },
              ],
        );
        log.record(iova, 8);
        expect(reportBits(log, edge - 8n, 16n, 1n)).toEqual([4, 5, 6, 7, 8, 9, 10, 11]);
      }
    }
  });

  test('a write that crosses it finds ranges on both sides that do not touch it', () => {
    const edge = 2n ** 53n;
    const log = new DmaLog({ pageSizes: [1n] });
    log.start(1n, [
      { iova: edge - 10n, length: 2n },
      { iova: edge + 5n, length: 2n },
    ]);
    log.record(Number(edge - 20n), 40);
    expect(reportBits(log, edge - 20n, 40n, 1n)).toEqual([10, 11, 25, 26]);
  });

  test('a list marks the pages below it of a range that crosses it', () => {
    const edge = 2n ** 53n;
    for (const keeping of ['one-writer', 'exchange', 'generations'] as const) {
      const log = new DmaLog({ pageSizes: [1n], keeping });
      log.start(1n, [{ iova: edge - 100n, length: 200n }]);
      log.recordPages(Float64Array.of(Number(edge) - 1, Number(edge) - 100, Number(edge) - 101, Number(edge)));
      expect(reportBits(log, edge - 150n, 300n, 1n)).toEqual([50, 149]);
    }
  });

  test('a list for a log of everything marks no page behind the last address', () => {
    const log = new DmaLog({ pageSizes: [4096n, 2n ** 63n] });
    log.start(4096n, 'everything');
    log.recordPages(Float64Array.of(2 ** 52, 2 ** 52 - 1, 2 ** 52 + 1));
    expect(log.dirtyPages()).toBe(1);
    expect(reportBits(log, LIMIT - 8192n, 8191n, 4096n)).toEqual([1]);
    log.stop();
    log.start(2n ** 63n, 'everything');
    log.recordPages(Float64Array.of(0, 1, 2));
    expect(log.dirtyPages()).toBe(2);
  });

  test('the first and the last byte of a large page are its own, though its bit lies far behind its number', () => {
    // Each page has a range of its own, so that its bit is 512 behind the one before: in bytes beyond what numbers hold.
    for (let log2 = 36; log2 <= 51; log2++) {
      const size = 2n ** BigInt(log2);
      const log = new DmaLog({ pageSizes: [size] });
      const numbers = [0n, 2n, 4n].filter(page => (page + 1n) * size <= 2n ** 53n);
      log.start(
        size,
        numbers.map(page => ({ iova: page * size, length: size })),
      );
      for (const page of numbers) {
        for (const iova of [page * size, (page + 1n) * size - 1n]) {
          // The first of a range is remembered, the second goes by what is remembered.
          for (let turn = 0; turn < 2; turn++) {
            log.record(Number(iova), 1);
            expect(reportBits(log, 0n, 8n * size, size)).toEqual([Number(page)]);
          }
        }
      }
    }
  });

  test('a number that is no safe integer is EINVAL, for it names another byte than was meant', () => {
    const log = new DmaLog();
    log.start(4096n, 'everything');
    for (const iova of [2 ** 53, 1.5, -1, Number.NaN, Number.POSITIVE_INFINITY, -1n]) {
      expect(errnoOf(() => log.record(iova, 1))).toBe('EINVAL');
    }
    for (const length of [2 ** 53, 1.5, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(errnoOf(() => log.record(0, length))).toBe('EINVAL');
    }
    expect(log.dirtyPages()).toBe(0);
  });

  test('a write that runs out of the address space marks what lies inside it', () => {
    const log = new DmaLog({ pageSizes: [4096n] });
    log.start(4096n, 'everything');
    log.record(LIMIT - 4096n, 8192);
    log.record(LIMIT, 10);
    log.record(LIMIT + 4096n, 10);
    expect(log.dirtyPages()).toBe(1);
    expect(reportBits(log, LIMIT - 8192n, 8191n, 4096n)).toEqual([1]);
  });
});

describe('more bits than 32 bits count', () => {
  test.each(keepings)(
    'kept as %s, pages are marked by number and by list on both sides of bit 2^31 and 2^32',
    keeping => {
      const log = new DmaLog({ pageSizes: [1n], keeping, maxBytes: 2 ** 31, reportBytes: 0 });
      // The first range ends beyond bit 2^32, the second one begins there.
      const first = 2n ** 32n + 2n ** 20n;
      log.start(1n, [
        { iova: 0n, length: first },
        { iova: 2n ** 40n, length: 1000n },
      ]);
      const places = [2n ** 31n, 2n ** 32n, first, 2n ** 40n, 2n ** 40n + 1000n].map(edge => edge - 8n);
      const around = places.flatMap(place => [1n, 7n, 8n, 13n].map(ahead => Number(place + ahead)));
      const expected = [
        [1, 7, 8, 13],
        [1, 7, 8, 13],
        [1, 7],
        [8, 13],
        [1, 7],
      ];
      for (let turn = 0; turn < 2; turn++) {
        for (const iova of around) log.record(iova, 1);
        expect(places.map(place => reportBits(log, place, 16n, 1n))).toEqual(expected);
        log.recordPages(Float64Array.from(around));
        expect(places.map(place => reportBits(log, place, 16n, 1n))).toEqual(expected);
        expect(places.map(place => reportBits(log, place, 16n, 1n))).toEqual(places.map(() => []));
      }
      expect(reportBits(log, 0n, 100n, 1n)).toEqual([]);
    },
  );
});

describe('absurd requests', () => {
  test('the whole address space at 4 KiB is ENOMEM, and nothing is started', () => {
    const log = new DmaLog();
    expect(errnoOf(() => log.start(4096n, [{ iova: 0n, length: LIMIT - 4096n }]))).toBe('ENOMEM');
    expect(log.active).toBe(false);
    expect(log.pageSize).toBe(0n);
    expect(log.start(4096n, [{ iova: 0n, length: 4096n }])).toBe(4096n);
  });

  test('more memory than the engine can give is ENOMEM too, whatever the limit says', () => {
    const log = new DmaLog({ pageSizes: [1n], maxBytes: Number.MAX_SAFE_INTEGER });
    expect(errnoOf(() => log.start(1n, [{ iova: 0n, length: 2n ** 50n }]))).toBe('ENOMEM');
    expect(log.active).toBe(false);
  });

  test('maxBytes is a limit on all bitmaps together, to the byte', () => {
    const ranges = [
      { iova: 0n, length: 65n * 4096n },
      { iova: 2n ** 40n, length: 1n },
    ];
    expect(errnoOf(() => new DmaLog({ maxBytes: 23 }).start(4096n, ranges))).toBe('ENOMEM');
    expect(new DmaLog({ maxBytes: 24 }).start(4096n, ranges)).toBe(4096n);
  });

  test('a report whose bitmap could not exist is EINVAL for the bitmap that was given', () => {
    const log = new DmaLog();
    log.start(4096n, [{ iova: 0n, length: 2n ** 30n }]);
    log.record(0, 1);
    expect(errnoOf(() => log.report(0n, LIMIT - 4096n, 1n, new Uint32Array(2)))).toBe('EINVAL');
    expect(log.dirtyPages()).toBe(1);
  });

  test('a report page of 2^63 bytes takes two bits for the whole address space', () => {
    const log = new DmaLog();
    log.start(4096n, [
      { iova: 0x1000n, length: 0x1000n },
      { iova: LIMIT - 0x2000n, length: 0x1000n },
    ]);
    log.record(LIMIT - 0x1001n, 1);
    expect(reportBits(log, 0n, LIMIT - 1n, 2n ** 63n)).toEqual([1]);
    log.record(0x1fff, 1);
    expect(reportBits(log, 0n, LIMIT - 1n, 2n ** 63n)).toEqual([0]);
  });

  test('a million ranges are E2BIG before one of them is looked at', () => {
    const log = new DmaLog();
    const untouched = new Proxy(new Array(1_000_000), {
      get(target, key) {
        if (key === 'length') return target.length;
        throw new Error(`${String(key)} was read`);
      },
    });
    expect(errnoOf(() => log.start(4096n, untouched))).toBe('E2BIG');
    expect(log.active).toBe(false);
    expect(errnoOf(() => new DmaLog({ maxRangesAsked: 0 }))).toBe('EINVAL');
    expect(errnoOf(() => new DmaLog({ maxRangesAsked: 999_999 }).start(4096n, untouched))).toBe('E2BIG');
  });

  test('65536 ranges become as many as the log keeps, and every one of them is logged', () => {
    const log = new DmaLog();
    const ranges = Array.from({ length: 65536 }, (_, index) => ({
      iova: BigInt((index * 7919) % 65536) * 8192n,
      length: 4096n,
    }));
    log.start(4096n, ranges);
    expect(log.ranges.length).toBe(256);
    log.record(65535 * 8192, 1);
    log.record(8192, 1);
    expect(log.dirtyPages()).toBe(2);
  });

  test("beyond WebAssembly's 4 GiB START is ENOMEM and names the limit, in every way of keeping", () => {
    for (const keeping of ['one-writer', 'exchange', 'generations'] as const) {
      const log = new DmaLog({ keeping, maxBytes: Number.MAX_SAFE_INTEGER });
      expect(() => log.start(4096n, [{ iova: 0n, length: 2n ** 47n }])).toThrow(/4 GiB: the bits of 128 TiB at 4 KiB/);
      expect(log.active).toBe(false);
      expect(log.start(4096n, [{ iova: 0n, length: 2n ** 30n }])).toBe(4096n);
    }
  });

  test('a report over the whole space of an everything log costs what is dirty', () => {
    const log = new DmaLog();
    log.start(4096n, 'everything');
    log.record(2n ** 63n + 5n, 1);
    const bitmap = bitmapFor(LIMIT - 1n, 2n ** 57n);
    log.report(0n, LIMIT - 1n, 2n ** 57n, bitmap);
    expect(setBits(bitmap)).toEqual([64]);
    expect(log.dirtyPages()).toBe(0);
  });
});
