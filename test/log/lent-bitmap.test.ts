import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DmaLog } from '../../src/log/index.js';

const PAGES = 4096;
const LENGTH = BigInt(PAGES) * 4096n;

function started(options: ConstructorParameters<typeof DmaLog>[0] = {}, length = LENGTH): DmaLog {
  const log = new DmaLog(options);
  log.start(4096n, [{ iova: 0n, length }]);
  return log;
}

test('a bitmap is lent to one at a time, and is the same one again', () => {
  const log = started();
  const first = log.lendReportBitmap(PAGES)!;
  expect(first.words.length).toBe(PAGES / 32);
  expect(log.lendReportBitmap(64)).toBeUndefined();
  first.giveBack();
  const second = log.lendReportBitmap(64)!;
  expect(second.words.byteOffset).toBe(first.words.byteOffset);
  expect(second.words.length).toBe(2);
  // A borrower of before takes nothing from the one of now.
  first.giveBack();
  expect(log.lendReportBitmap(64)).toBeUndefined();
});

test('a bitmap has room for all pages and a head, and what is larger is not lent', () => {
  const log = started();
  log.lendReportBitmap(64)!.giveBack();
  log.lendReportBitmap(PAGES + 48 * 8)!.giveBack();
  expect(log.lendReportBitmap(PAGES * 2)).toBeUndefined();
  expect(started({ reportBytes: 0 }, 1n << 30n).lendReportBitmap(2 ** 18 + 2 ** 17)).toBeUndefined();
});

test('nothing is lent without a session with ranges; one that is lent outlives its session', () => {
  const log = new DmaLog();
  expect(log.lendReportBitmap(64)).toBeUndefined();
  log.start(4096n, 'everything');
  expect(log.lendReportBitmap(64)).toBeUndefined();
  log.stop();
  log.start(4096n, [{ iova: 0n, length: LENGTH }]);
  const old = log.lendReportBitmap(64)!;
  log.stop();
  log.start(4096n, [{ iova: 0n, length: LENGTH }]);
  const young = log.lendReportBitmap(64)!;
  expect(young.words.buffer).not.toBe(old.words.buffer);
  old.giveBack();
  expect(log.lendReportBitmap(64)).toBeUndefined();
});

test('a bitmap is clean again also after a report that cut a page, and keeps its mark', () => {
  const log = started();
  log.record(0, 1);
  for (let round = 0; round < 2; round++) {
    const lent = log.lendReportBitmap(64)!;
    expect(lent.words[0]).toBe(0);
    log.report(0n, 2048n, 4096n, lent.words);
    expect(lent.words[0]).toBe(1);
    lent.giveBack();
  }
});

test('every report into a lent bitmap is the report into a new one, whatever was in it before', () => {
  const step = fc.record({
    writes: fc.array(fc.nat(PAGES - 1), { maxLength: 6 }),
    // Sizes that are moved, shrunk, expanded and converted run by run, at borders of pages and between them.
    pageSize: fc.constantFrom(1024n, 4096n, 32768n, 65536n),
    start: fc.nat(Number(LENGTH) - 1),
    length: fc.nat(Number(LENGTH)),
  });
  fc.assert(
    fc.property(fc.constantFrom('one-writer', 'generations', 'exchange'), fc.array(step), (keeping, steps) => {
      const lending = started({ keeping, reportBytes: PAGES });
      const other = started({ keeping });
      // The first borrower says how large it is: 4 report pages a log page.
      lending.lendReportBitmap(PAGES * 4)!.giveBack();
      for (const { writes, pageSize, start, length } of steps) {
        for (const page of writes) for (const log of [lending, other]) log.record(page * 4096, 1);
        const bits = Math.ceil(length / Number(pageSize));
        const lent = lending.lendReportBitmap(bits)!;
        expect(lent.words.every(word => word === 0)).toBe(true);
        const expected = new Uint32Array(lent.words.length);
        lending.report(BigInt(start), BigInt(length), pageSize, lent.words);
        other.report(BigInt(start), BigInt(length), pageSize, expected);
        expect(lent.words).toEqual(expected);
        lent.giveBack();
      }
    }),
    { numRuns: 200 },
  );
});
