import { describe, expect, test } from 'vitest';
import { countBits, RunCursor } from '../../src/bitmap/index.js';
import { DmaLog } from '../../src/log/index.js';
import { bitmapFor, errnoOf } from './bitmaps.js';
import type { PassWriter } from './pass-thread.js';
import { Crew, translatedPrograms } from './threads.js';
import type { Writer } from './writer-thread.js';

/*
 * Threads write and record while this one reports and copies what it is told, as a migration does. If one write is in no
 * report, or in one only before its bytes, the copy differs from the memory in the end.
 */

const PAGE = 4096;
const PAGES = 2 ** 19 + 12_345;
const BASE = 0n;
const program = translatedPrograms('writer-thread', 'pass-thread', 'crew-member');

type Interval = { first: number; pages: number };

/** What to report in turn: all; all in pieces that fit no border; parts that leave the rest pending. */
const plans: Record<string, Interval[]> = {
  'the whole log': [{ first: 0, pages: PAGES }],
  'pieces of odd sizes': Array.from({ length: 39 }, (_, index) => ({ first: index * 14_001, pages: 14_001 })),
  'overlapping parts': [
    { first: 100, pages: 70_000 },
    { first: 32_768, pages: 65_536 },
    { first: 0, pages: PAGES },
    { first: 200_001, pages: 3 },
  ],
};

describe.each(['exchange', 'generations'] as const)('kept as %s, recorded by threads', keeping => {
  describe.each(Object.keys(plans))('reports of %s', plan => {
    test.each<Writer['job']>(['each page once', 'hot pages', 'runs', 'lists'])('lose no write: %s', async job => {
      const log = new DmaLog({ keeping });
      log.start(4096n, [{ iova: BASE, length: BigInt(PAGES * PAGE) }]);
      const memory = new Uint32Array(new SharedArrayBuffer(PAGES * 4));
      const copy = new Uint32Array(PAGES);
      const everReported = bitmapFor(BigInt(PAGES * PAGE), 4096n);
      const inLog = log.createReportBitmap(PAGES);
      const elsewhere = bitmapFor(BigInt(PAGES * PAGE), 4096n);
      let turn = 0;
      const reportAndCopy = ({ first, pages }: Interval) => {
        const bitmap = turn++ % 3 === 0 ? elsewhere : inLog;
        const count = Math.min(pages, PAGES - first);
        log.report(BASE + BigInt(first * PAGE), BigInt(count * PAGE), 4096n, bitmap);
        const runs = new RunCursor(bitmap, 0, count);
        while (runs.next()) {
          copy.set(memory.subarray(first + runs.start, first + runs.end), first + runs.start);
          for (let bit = runs.start; bit < runs.end; bit++) {
            const page = first + bit;
            everReported[page >>> 5] |= 1 << (page & 31);
          }
        }
        bitmap.fill(0);
      };

      const writers = 2;
      const crew = new Crew(
        program('writer-thread'),
        Array.from({ length: writers }, (_, number): Writer => ({ shared: log.share(), memory, number, writers, job })),
      );
      await crew.start();
      let reports = 0;
      while (!crew.done) {
        for (const interval of plans[plan]) reportAndCopy(interval);
        reports++;
      }
      await crew.join();
      reportAndCopy({ first: 0, pages: PAGES });

      expect(reports).toBeGreaterThan(0);
      const written = memory.reduce((total, value) => total + (value === 0 ? 0 : 1), 0);
      expect(written).toBeGreaterThan(1000);
      expect(countBits(everReported, 0, PAGES)).toBe(written);
      expect(copy.findIndex((value, page) => value !== memory[page])).toBe(-1);
    });
  });
});

describe.each(['exchange', 'generations'] as const)('kept as %s, one group reported again and again', keeping => {
  test('a write that is complete when a report begins is in it or in an earlier one', async () => {
    const pages = 32768;
    const passes = 10;
    const log = new DmaLog({ keeping });
    log.start(4096n, [{ iova: 0n, length: BigInt(pages * PAGE) }]);
    const bitmap = log.createReportBitmap(pages);
    const progress = new Int32Array(new SharedArrayBuffer(8));
    const seen = new Uint8Array(pages);
    const writer: PassWriter = { shared: log.share(), pages, passes, progress };
    const crew = new Crew(program('pass-thread'), [writer]);
    await crew.start();
    const missed: string[] = [];
    for (let pass = 1; pass <= passes; pass++) {
      seen.fill(0);
      Atomics.store(progress, 0, 0);
      Atomics.store(progress, 1, pass);
      Atomics.notify(progress, 1);
      for (let checked = 0; checked < pages; ) {
        const complete = Atomics.load(progress, 0);
        log.report(0n, BigInt(pages * PAGE), 4096n, bitmap);
        const runs = new RunCursor(bitmap, 0, pages);
        while (runs.next()) seen.fill(1, runs.start, runs.end);
        bitmap.fill(0);
        for (; checked < complete; checked++) if (seen[checked] === 0) missed.push(`pass ${pass}, page ${checked}`);
      }
    }
    await crew.join();
    expect(missed).toEqual([]);
  });
});

describe('sharing a log', () => {
  const ranges = [{ iova: 0n, length: 2n ** 30n }];

  test('is refused for one writer, for a log of everything, and before START', () => {
    const refused = (log: DmaLog) => errnoOf(() => log.share());
    const log = new DmaLog({ keeping: 'generations' });
    expect(refused(log)).toBe('EINVAL');
    log.start(4096n, 'everything');
    expect(refused(log)).toBe('EOPNOTSUPP');
    const alone = new DmaLog();
    alone.start(4096n, ranges);
    expect(refused(alone)).toBe('EOPNOTSUPP');
  });

  test('is given to 256 threads and refused to one more', () => {
    const log = new DmaLog({ keeping: 'exchange' });
    log.start(4096n, ranges);
    const shares = Array.from({ length: 256 }, () => log.share());
    expect(new Set(shares.map(share => share.plan.list)).size).toBe(256);
    expect(errnoOf(() => log.share())).toBe('ENOMEM');
  });
});
