import { describe, expect, test } from 'vitest';
import type { DmaLog as Log } from '../../src/log/index.js';
import { errnoOf, reportBits } from './bitmaps.js';
import { keepings, logKept, logStarter } from './keepings.js';

const PAGE = 4096n;
const MIB = 2n ** 20n;

describe.each(keepings)('kept as %s', keeping => {
  const DmaLog = logKept(keeping);
  const started = logStarter(DmaLog);

  describe('contract rule 1: what a write marks', () => {
    test('every page that it touches', () => {
      const log = started([MIB, MIB]);
      log.record(MIB + 0xfffn, 2);
      log.record(MIB + 0x5000n, 0x1000);
      log.record(MIB + 0x7001n, 0x2000);
      expect(reportBits(log, MIB, MIB, PAGE)).toEqual([0, 1, 5, 7, 8, 9]);
    });

    test('nothing when its length is 0', () => {
      const log = started([MIB, MIB]);
      log.record(MIB, 0);
      log.record(Number(MIB), 0);
      expect(log.dirtyPages()).toBe(0);
    });

    test('only what lies in a range, when it straddles the ends of several', () => {
      const log = started([MIB, PAGE], [MIB + 4n * PAGE, 2n * PAGE], [MIB + 9n * PAGE, PAGE]);
      log.record(MIB - 100n, Number(9n * PAGE + 200n));
      expect(reportBits(log, MIB, 16n * PAGE, PAGE)).toEqual([0, 4, 5, 9]);
    });

    test('nothing outside all ranges, even within a page that a range shares', () => {
      const log = started([MIB + 100n, 100n]);
      log.record(MIB, 100);
      log.record(MIB + 200n, 100);
      log.record(2n * MIB, 100);
      expect(log.dirtyPages()).toBe(0);
      log.record(MIB + 199n, 1);
      expect(log.dirtyPages()).toBe(1);
    });

    test('nothing when logging is not started', () => {
      const log = new DmaLog();
      log.record(0, 10);
      log.record(Number.NaN, 10);
      log.start(PAGE, [{ iova: 0n, length: PAGE }]);
      expect(log.dirtyPages()).toBe(0);
    });
  });

  describe('contract rule 3: what a report returns and clears', () => {
    test('a report clears its interval only', () => {
      const log = started([MIB, MIB]);
      for (const page of [0, 9, 10, 19, 20, 255]) log.record(MIB + BigInt(page) * PAGE, 1);
      expect(reportBits(log, MIB + 10n * PAGE, 10n * PAGE, PAGE)).toEqual([0, 9]);
      expect(reportBits(log, MIB, MIB, PAGE)).toEqual([0, 9, 20, 255]);
      expect(reportBits(log, MIB, MIB, PAGE)).toEqual([]);
    });

    test('holes between ranges read 0', () => {
      const log = started([MIB, PAGE], [MIB + 100n * PAGE, PAGE], [2n ** 53n + MIB, PAGE]);
      log.record(MIB, 1);
      log.record(MIB + 50n * PAGE, 1);
      log.record(MIB + 100n * PAGE, 1);
      expect(reportBits(log, 0n, 4n * MIB, PAGE)).toEqual([256, 356]);
    });

    test('bits that are set already stay, bits beyond the interval are never set', () => {
      const log = started([MIB, MIB]);
      log.record(MIB, Number(MIB));
      const bitmap = Uint32Array.of(0, 0x80000000);
      log.report(MIB, 5n * PAGE, PAGE, bitmap);
      expect([...bitmap]).toEqual([0x1f, 0x80000000]);
      expect(log.dirtyPages()).toBe(251);
    });

    test('a report of length 0 is nothing, and takes no bitmap', () => {
      const log = started([MIB, MIB]);
      log.record(MIB, 1);
      log.report(MIB, 0n, PAGE, new Uint32Array(0));
      log.report(0n, 0n, PAGE, new Uint32Array(0));
      expect(log.dirtyPages()).toBe(1);
    });
  });

  describe('contract rule 4: pages that a report cuts', () => {
    test('the bit is reported and kept while requested bytes of the page lie outside the report', () => {
      const log = started([MIB, 4n * PAGE]);
      log.record(MIB + PAGE, 1);
      expect(reportBits(log, MIB, PAGE + 100n, PAGE)).toEqual([1]);
      expect(reportBits(log, MIB + PAGE + 100n, PAGE, PAGE)).toEqual([0]);
      expect(reportBits(log, MIB + PAGE + 1n, 1n, 1n)).toEqual([0]);
      expect(reportBits(log, MIB + PAGE, PAGE, PAGE)).toEqual([0]);
      expect(log.dirtyPages()).toBe(0);
    });

    test('the bit is cleared when all requested bytes of the page lie in the report', () => {
      const log = started([MIB + 100n, 5000n]);
      log.record(MIB + 100n, 5000);
      expect(reportBits(log, MIB + 100n, 5000n, PAGE)).toEqual([0, 1]);
      expect(log.dirtyPages()).toBe(0);
    });
  });

  describe('contract rules 6 to 8: the session', () => {
    test('a second START is EINVAL and disturbs nothing, whatever it asks for', () => {
      const log = started([MIB, MIB]);
      log.record(MIB, 1);
      for (const hint of [PAGE, 0n]) {
        expect(errnoOf(() => log.start(hint, [{ iova: 0n, length: PAGE }]))).toBe('EINVAL');
        expect(errnoOf(() => log.start(hint, 'everything'))).toBe('EINVAL');
        expect(errnoOf(() => log.start(hint, []))).toBe('EINVAL');
      }
      expect(log.ranges).toEqual([{ iova: MIB, length: MIB }]);
      expect(reportBits(log, MIB, MIB, PAGE)).toEqual([0]);
    });

    test('STOP and REPORT without START are EINVAL', () => {
      const log = new DmaLog();
      const both = () => {
        expect(errnoOf(() => log.stop())).toBe('EINVAL');
        expect(errnoOf(() => log.report(MIB, PAGE, PAGE, new Uint32Array(2)))).toBe('EINVAL');
        expect(log.dirtyPages()).toBe(0);
        expect(log.ranges).toEqual([]);
        expect([log.active, log.pageSize]).toEqual([false, 0n]);
      };
      both();
      log.start(PAGE, 'everything');
      log.stop();
      both();
    });

    test('a START after STOP begins clean', () => {
      const log = started([MIB, MIB]);
      log.record(MIB, 1);
      log.stop();
      log.record(MIB, 1);
      log.start(PAGE, [{ iova: MIB, length: MIB }]);
      expect(reportBits(log, MIB, MIB, PAGE)).toEqual([]);
    });

    test('a START that fails changes nothing', () => {
      const log = new DmaLog();
      const bad: [bigint, bigint][] = [
        [2n ** 64n - PAGE, PAGE],
        [2n ** 64n - 1n, 2n],
        [2n ** 64n, 0n],
        [0n, 2n ** 64n],
      ];
      for (const [iova, length] of bad) {
        expect(
          errnoOf(() =>
            log.start(PAGE, [
              { iova: 0n, length: PAGE },
              { iova, length },
            ]),
          ),
        ).toBe('EOVERFLOW');
        expect(log.active).toBe(false);
      }
      for (const range of [
        { iova: -1n, length: PAGE },
        { iova: PAGE, length: -1n },
      ]) {
        expect(errnoOf(() => log.start(PAGE, [range]))).toBe('EINVAL');
      }
      expect(errnoOf(() => log.start(PAGE, []))).toBe('EINVAL');
      expect(log.start(PAGE, [{ iova: 2n ** 64n - 2n * PAGE, length: PAGE }])).toBe(PAGE);
    });

    test('a report that fails changes nothing', () => {
      const log = started([MIB, MIB]);
      log.record(MIB, 1);
      const bitmap = new Uint32Array(8);
      for (const pageSize of [0n, 3n, 4095n, 6144n, -4096n, 2n ** 64n]) {
        expect(errnoOf(() => log.report(MIB, MIB, pageSize, bitmap))).toBe('EINVAL');
      }
      expect(errnoOf(() => log.report(2n ** 64n - PAGE, PAGE, PAGE, bitmap))).toBe('EOVERFLOW');
      expect(errnoOf(() => log.report(2n ** 64n - 1n, 2n, 3n, bitmap))).toBe('EINVAL');
      expect(errnoOf(() => log.report(-1n, PAGE, PAGE, bitmap))).toBe('EINVAL');
      expect(errnoOf(() => log.report(MIB, -1n, PAGE, bitmap))).toBe('EINVAL');
      expect(errnoOf(() => log.report(MIB, MIB, PAGE, bitmap.subarray(0, 7)))).toBe('EINVAL');
      expect(bitmap.every(word => word === 0)).toBe(true);
      expect(reportBits(log, MIB, MIB, PAGE)).toEqual([0]);
    });

    test('a bitmap is whole 64-bit words: one word short for 65 bits is EINVAL', () => {
      const log = started([MIB, MIB]);
      log.record(MIB + 64n * PAGE, 1);
      expect(errnoOf(() => log.report(MIB, 65n * PAGE, PAGE, new Uint32Array(3)))).toBe('EINVAL');
      expect(reportBits(log, MIB, 65n * PAGE, PAGE)).toEqual([64]);
    });

    test('errors name the operation and the field', () => {
      const log = new DmaLog();
      expect(() => log.stop()).toThrow('DMA_LOGGING_STOP: logging is not started (EINVAL)');
      expect(() => log.start(0n, 'everything')).toThrow('DMA_LOGGING_START: page_size: must be above 0 (EINVAL)');
      log.start(PAGE, 'everything');
      expect(() => log.report(0n, PAGE, 3n, new Uint32Array(2))).toThrow(
        'DMA_LOGGING_REPORT: page_size: 3 is not a power of two below 2^64 (EINVAL)',
      );
    });
  });

  describe('contract rule 11: fewer ranges than asked for', () => {
    test('the neighbours with the smallest gap are merged, and what lies in the gap is logged', () => {
      const log = new DmaLog({ maxRanges: 2 });
      log.start(PAGE, [
        { iova: 0n, length: PAGE },
        { iova: 100n * PAGE, length: PAGE },
        { iova: 110n * PAGE, length: PAGE },
      ]);
      expect(log.ranges).toEqual([
        { iova: 0n, length: PAGE },
        { iova: 100n * PAGE, length: 11n * PAGE },
      ]);
      log.record(105n * PAGE, 1);
      log.record(50n * PAGE, 1);
      expect(reportBits(log, 0n, 200n * PAGE, PAGE)).toEqual([105]);
    });
  });

  describe('contract rule 12: everything', () => {
    test('every address is logged, wherever it lies', () => {
      const log = new DmaLog();
      log.start(PAGE, 'everything');
      const places = [0n, 2n ** 40n, 2n ** 53n, 2n ** 64n - 2n * PAGE];
      for (const place of places) log.record(place, 1);
      for (const place of places) expect(reportBits(log, place, PAGE, PAGE)).toEqual([0]);
      expect(log.dirtyPages()).toBe(0);
      expect(log.ranges).toEqual([{ iova: 0n, length: 2n ** 64n }]);
    });

    test('a write over many windows of bits marks all of its pages', () => {
      const log = new DmaLog({ pageSizes: [1n] });
      log.start(1n, 'everything');
      log.record(30_000, 100_000);
      expect(log.dirtyPages()).toBe(100_000);
      expect(reportBits(log, 29_000n, 102_000n, 1024n)).toEqual(Array.from({ length: 99 }, (_, index) => index));
      expect(log.dirtyPages()).toBe(0);
    });

    test('windows that a report leaves clean make room for others', () => {
      const log = new DmaLog({ maxBytes: 2 * 4096 });
      log.start(PAGE, 'everything');
      const window = 2n ** 15n * PAGE;
      for (let number = 0n; number < 20n; number += 2n) {
        log.record(number * window, 1);
        log.record((number + 1n) * window, 1);
        expect(reportBits(log, number * window, 2n * window, window)).toEqual([0, 1]);
      }
    });

    test('a window that a report leaves dirty stays', () => {
      const log = new DmaLog({ maxBytes: 4096 });
      log.start(PAGE, 'everything');
      log.record(0, 1);
      log.record(20 * 4096, 1);
      expect(reportBits(log, 0n, 10n * PAGE, PAGE)).toEqual([0]);
      expect(reportBits(log, 20n * PAGE, 100n, 128n)).toEqual([0]);
      expect(reportBits(log, 0n, 2n ** 50n, 2n ** 40n)).toEqual([0]);
      expect(log.dirtyPages()).toBe(0);
    });

    test('when memory runs out the log is lost, and says so until STOP', () => {
      const window = 2n ** 15n * PAGE;
      const fill: ((log: Log) => void)[] = [
        log => log.record(2n * window, 1),
        log => log.record(2n ** 60n, 1),
        log => log.record(window - 1n, Number(window) + 2),
        log => log.record(0, Number.MAX_SAFE_INTEGER),
      ];
      for (const overfill of fill) {
        const log = new DmaLog({ maxBytes: 2 * 4096 });
        log.start(PAGE, 'everything');
        log.record(0, 1);
        log.record(window, 1);
        overfill(log);
        log.record(0, 1);
        const bitmap = new Uint32Array(2);
        expect(errnoOf(() => log.report(0n, PAGE, PAGE, bitmap))).toBe('ENOMEM');
        expect(errnoOf(() => log.report(0n, PAGE, PAGE, bitmap))).toBe('ENOMEM');
        expect(bitmap[0]).toBe(0);
        expect(log.active).toBe(true);
        log.stop();
        log.start(PAGE, 'everything');
        expect(reportBits(log, 0n, PAGE, PAGE)).toEqual([]);
      }
    });
  });
});
