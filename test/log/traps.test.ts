import { describe, expect, test } from 'vitest';
import type { DmaLog as Log } from '../../src/log/index.js';
import { bitmapFor, errnoOf, reportBits, setBits } from './bitmaps.js';
import { keepings, logKept, logStarter } from './keepings.js';

/* Traps that real implementations fell into (contract: "Behaviour of the real implementations"), each by name. */

const PAGE = 4096n;
const MIB = 2n ** 20n;
const GIB = 2n ** 30n;

describe.each(keepings)('kept as %s', keeping => {
  const DmaLog = logKept(keeping);
  const started = logStarter(DmaLog);

  describe('Linux, iova_bitmap', () => {
    test('a record that crosses the end of a window, 64 GiB of IOVA at 4 KiB, stays inside the bitmap and is whole', () => {
      const log = started([0n, 65n * GIB]);
      log.record(64n * GIB - 20n * PAGE, Number(40n * PAGE));
      const bitmap = bitmapFor(65n * GIB, PAGE);
      log.report(0n, 65n * GIB, PAGE, bitmap);
      expect(setBits(bitmap)).toEqual(Array.from({ length: 40 }, (_, index) => 2 ** 24 - 20 + index));
    });

    test('a report whose bitmap ends with the window writes nothing behind it', () => {
      const log = started([0n, 65n * GIB]);
      log.record(64n * GIB - 20n * PAGE, Number(40n * PAGE));
      const memory = new Uint32Array(2 ** 19 + 2);
      log.report(0n, 64n * GIB, PAGE, memory.subarray(0, 2 ** 19));
      expect([...memory.subarray(2 ** 19)]).toEqual([0, 0]);
      expect(log.dirtyPages()).toBe(20);
      expect(reportBits(log, 64n * GIB, GIB, PAGE)).toEqual(Array.from({ length: 20 }, (_, index) => index));
    });

    test('a bitmap that begins at an odd place in memory gets the same bits', () => {
      for (let words = 1; words < 5; words++) {
        const log = started([MIB, MIB]);
        for (const page of [0, 3, 4, 63]) log.record(Number(MIB) + page * 4096, 1);
        const memory = new Uint32Array(16);
        log.report(MIB, 64n * PAGE, PAGE, memory.subarray(words, words + 2));
        expect(setBits(memory)).toEqual([0, 3, 4, 63].map(bit => bit + words * 32));
      }
    });

    test('reports of 1 to 7 bits, from every page, set and clear exactly those', () => {
      for (let count = 1n; count < 8n; count++) {
        for (let from = 0n; from < 64n; from++) {
          const log = started([0n, 80n * PAGE]);
          log.record(0, 80 * 4096);
          expect(reportBits(log, from * PAGE, count * PAGE, PAGE)).toEqual(
            Array.from({ length: Number(count) }, (_, bit) => bit),
          );
          expect(log.dirtyPages()).toBe(80 - Number(count));
        }
      }
    });
  });

  describe('mlx5', () => {
    test('the last byte of a range counts: a range that ends one byte into a page holds that page', () => {
      for (const length of [1n, PAGE, PAGE + 1n, 2n * PAGE - 1n, 2n * PAGE]) {
        const log = started([MIB, length]);
        log.record(MIB + length - 1n, 1);
        expect(reportBits(log, MIB, length, PAGE)).toEqual([Number((length - 1n) / PAGE)]);
        log.record(MIB + length, 1);
        expect(log.dirtyPages()).toBe(0);
      }
    });
  });

  describe('pds', () => {
    test('a report needs no multiple of 64 pages, and no single region', () => {
      const log = started([MIB, 10n * PAGE], [MIB + 20n * PAGE, 10n * PAGE]);
      for (let pages = 1n; pages < 40n; pages++) {
        log.record(MIB, Number(40n * PAGE));
        const expected = Array.from({ length: Number(pages) }, (_, bit) => bit).filter(
          bit => bit < 10 || (bit >= 20 && bit < 30),
        );
        expect(reportBits(log, MIB, pages * PAGE, PAGE)).toEqual(expected);
      }
    });
  });

  describe('libvfio-user', () => {
    test('log page 513, reported at twice the page size, is bit 256', () => {
      const log = started([0n, 1024n * PAGE]);
      log.record(513 * 4096, 1);
      expect(reportBits(log, 0n, 1024n * PAGE, 2n * PAGE)).toEqual([256]);
      expect(log.dirtyPages()).toBe(0);
    });

    test('every log page up to 2048, reported at twice the page size, is the bit of half its number', () => {
      const log = started([0n, 2048n * PAGE]);
      for (let page = 0; page < 2048; page++) {
        log.record(page * 4096, 1);
        expect(reportBits(log, 0n, 2048n * PAGE, 2n * PAGE)).toEqual([Math.floor(page / 2)]);
      }
    });

    test('a report at half the page size with 256 bits and more ends, and says both halves', () => {
      for (const pages of [128, 129, 500]) {
        const log = started([0n, BigInt(pages) * PAGE]);
        log.record((pages - 1) * 4096, 1);
        expect(reportBits(log, 0n, BigInt(pages) * PAGE, PAGE / 2n)).toEqual([2 * pages - 2, 2 * pages - 1]);
      }
    });

    test('a report may start in the middle of a range', () => {
      const log = started([MIB, MIB]);
      log.record(MIB + 77n * PAGE, 1);
      expect(reportBits(log, MIB + 70n * PAGE, 20n * PAGE, PAGE)).toEqual([7]);
    });

    test('a report may cross ranges and the hole between them', () => {
      const log = started([MIB, MIB], [4n * MIB, MIB]);
      log.record(2n * MIB - 1n, 1);
      log.record(4n * MIB, 1);
      expect(reportBits(log, MIB + 200n * PAGE, 4n * MIB, PAGE)).toEqual([55, 568]);
    });

    test('marks stay until a report covers them, whatever else is written and reported (contract rule 10)', () => {
      const log = started([MIB, MIB], [4n * MIB, MIB]);
      log.record(MIB + 5n * PAGE, 1);
      for (let round = 0; round < 10; round++) {
        log.record(4n * MIB, Number(MIB));
        expect(reportBits(log, 4n * MIB, MIB, PAGE).length).toBe(256);
        expect(reportBits(log, 0n, MIB, PAGE)).toEqual([]);
      }
      expect(reportBits(log, MIB, MIB, PAGE)).toEqual([5]);
    });

    test('ranges are heeded: a write to a region that was not asked for is not logged', () => {
      const log = started([MIB, MIB]);
      log.record(3n * MIB, Number(MIB));
      expect(reportBits(log, 0n, 8n * MIB, PAGE)).toEqual([]);
    });

    test('a report clears nothing beyond the asked length', () => {
      const log = started([0n, 256n * PAGE]);
      log.record(0, 256 * 4096);
      expect(reportBits(log, 0n, 65n * PAGE, PAGE).length).toBe(65);
      expect(log.dirtyPages()).toBe(256 - 65);
    });
  });

  describe('Linux, measured (kernel.md, rows E02 to E32)', () => {
    const sizes = [4096n, 8192n, 16384n, 32768n, 65536n];
    const first = { iova: MIB, length: 0x40000n };
    const second = { iova: 2n * MIB, length: 0x20000n };

    function kernelLog(hint: bigint): Log {
      const log = new DmaLog({ pageSizes: sizes });
      log.start(hint, [first, second]);
      return log;
    }

    test('E03 to E12: writes in, across and outside the ranges; clearing; bits that were set before', () => {
      const log = kernelLog(PAGE);
      expect(reportBits(log, first.iova, first.length, PAGE)).toEqual([]);
      log.record(MIB, 1);
      log.record(MIB + 0x3fffn, 2);
      log.record(MIB + 0x3f000n, 0x2000);
      log.record(3n * MIB, 100);
      log.record(2n * MIB + 0x1f000n, 1);
      const bitmap = new BigUint64Array(2);
      log.report(first.iova, first.length, PAGE, new Uint32Array(bitmap.buffer));
      expect([...bitmap]).toEqual([0x8000000000000019n, 0n]);
      expect(reportBits(log, first.iova, first.length, PAGE)).toEqual([]);
      const stained = Uint32Array.of(0xf00, 0);
      log.report(second.iova, second.length, PAGE, stained);
      expect([...stained]).toEqual([0x80000f00, 0]);
    });

    test('E13 to E17: a larger report page, half of a range, the middle of a range, all pages', () => {
      const log = kernelLog(PAGE);
      log.record(MIB, 1);
      log.record(MIB + 0x5000n, 1);
      expect(reportBits(log, first.iova, first.length, 0x4000n)).toEqual([0, 1]);
      log.record(MIB, 1);
      log.record(MIB + 56n * PAGE, 1);
      expect(reportBits(log, first.iova, first.length / 2n, PAGE)).toEqual([0]);
      expect(reportBits(log, first.iova, first.length, PAGE)).toEqual([56]);
      log.record(MIB + 4n * PAGE, 1);
      expect(reportBits(log, MIB + 4n * PAGE, 8n * PAGE, PAGE)).toEqual([0]);
      log.record(MIB, 0x40000);
      expect(reportBits(log, first.iova, first.length, PAGE).length).toBe(64);
    });

    test('E18 and E19: bits count from an unaligned start; one report over both ranges', () => {
      const log = kernelLog(PAGE);
      log.record(MIB + 4n * PAGE, 1);
      expect(reportBits(log, 0x103800n, 0x1800n, PAGE)).toEqual([0, 1]);
      log.record(MIB, 1);
      log.record(2n * MIB, 1);
      expect(reportBits(log, MIB, 2n * MIB, PAGE)).toEqual([0, 256]);
    });

    test('E20 to E25: a failing report and a failing second START keep the log', () => {
      const log = kernelLog(PAGE);
      log.record(MIB, 1);
      expect(errnoOf(() => log.report(MIB, PAGE, 6144n, new Uint32Array(2)))).toBe('EINVAL');
      expect(errnoOf(() => log.report(MIB, PAGE, PAGE, new Uint32Array(0)))).toBe('EINVAL');
      expect(errnoOf(() => log.start(PAGE, [first]))).toBe('EINVAL');
      expect(reportBits(log, first.iova, first.length, PAGE)).toEqual([0]);
    });

    test('E26 to E29: 64 KiB log pages become sixteen bits of 4 KiB, and a cut page is kept', () => {
      const log = new DmaLog({ pageSizes: sizes });
      expect(log.start(MIB, [first])).toBe(65536n);
      log.record(MIB + 0x10000n, 1);
      const bitmap = bitmapFor(first.length, PAGE);
      log.report(first.iova, first.length, PAGE, bitmap);
      expect([...bitmap]).toEqual([0xffff0000, 0]);
      log.record(MIB + 0x10000n, 1);
      expect(reportBits(log, MIB + 0x10000n, PAGE, PAGE)).toEqual([0]);
      expect(reportBits(log, first.iova, first.length, 0x10000n)).toEqual([1]);
      expect(log.dirtyPages()).toBe(0);
    });

    test('E30: a hint below what the device can do gives the smallest size', () => {
      expect(new DmaLog({ pageSizes: sizes }).start(512n, [first])).toBe(4096n);
    });

    test('E31 and E32: 64 GiB at 4 KiB, 2 MiB of bitmap, first, middle and last page', () => {
      const log = new DmaLog({ pageSizes: sizes });
      log.start(PAGE, [{ iova: 0n, length: 64n * GIB }]);
      const pages = [0, 2 ** 23 + 7, 2 ** 24 - 1];
      for (const page of pages) log.record(page * 4096, 1);
      expect(reportBits(log, 0n, 64n * GIB, PAGE)).toEqual(pages);
      expect(log.dirtyPages()).toBe(0);
    });
  });
});
