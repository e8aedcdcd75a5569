import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeRanges,
  decodeReportInline,
  decodeReportPointer,
  decodeStartInline,
  decodeStartPointer,
  encodeFeatureRequest,
  encodeRanges,
  encodeReport,
  encodeStartInline,
  encodeStartPointer,
  linux,
  type Profile,
  RANGE_SIZE,
  REPORT_INLINE_SIZE,
  REPORT_POINTER_SIZE,
  rfc,
  START_INLINE_SIZE,
  START_POINTER_SIZE,
  vfioUser,
} from '../../src/uapi/index.js';
import { errnoOf } from '../log/bitmaps.js';
import { bytesOf, unaligned } from './hex.js';

/* Every structure against bytes written by hand from the texts; all integers are little-endian. */

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const u32 = fc.integer({ min: 0, max: 0xffffffff });

const startPointerBytes = bytesOf(`
  00 10 00 00 00 00 00 00
  02 00 00 00  00 00 00 00
  f0 de bc 9a 78 56 34 12`);
const startPointer = { pageSize: 4096n, numRanges: 2, rangesPointer: 0x123456789abcdef0n };

const ranges = [
  { iova: 0x100000n, length: 0x40000n },
  { iova: 0xffff_ffff_ffff_0000n, length: 0x1000n },
];
const rangesBytes = bytesOf(`
  00 00 10 00 00 00 00 00  00 00 04 00 00 00 00 00
  00 00 ff ff ff ff ff ff  00 10 00 00 00 00 00 00`);
const startInlineBytes = bytesOf(`
  00 00 01 00 00 00 00 00
  02 00 00 00  00 00 00 00
  00 00 10 00 00 00 00 00  00 00 04 00 00 00 00 00
  00 00 ff ff ff ff ff ff  00 10 00 00 00 00 00 00`);

const reportPointerBytes = bytesOf(`
  00 38 10 00 00 00 00 00
  00 18 00 00 00 00 00 00
  00 10 00 00 00 00 00 00
  08 00 ff ff ff 7f 00 00`);
const report = { iova: 0x103800n, length: 0x1800n, pageSize: 4096n };

describe('START', () => {
  test('rfc and linux: 24 bytes with the address of the ranges', () => {
    expect(START_POINTER_SIZE).toBe(24);
    expect(encodeStartPointer(startPointer)).toEqual(startPointerBytes);
    expect(decodeStartPointer(unaligned(startPointerBytes))).toEqual(startPointer);
  });

  test('vfio-user: 16 bytes and the ranges behind them', () => {
    expect([START_INLINE_SIZE, RANGE_SIZE]).toEqual([16, 16]);
    expect(encodeStartInline(0x10000n, ranges)).toEqual(startInlineBytes);
    expect(decodeStartInline(unaligned(startInlineBytes))).toEqual({ pageSize: 0x10000n, ranges });
  });

  test('vfio-user: no ranges are the head alone', () => {
    const head = bytesOf('00 10 00 00 00 00 00 00  00 00 00 00  00 00 00 00');
    expect(encodeStartInline(4096n, [])).toEqual(head);
    expect(decodeStartInline(head)).toEqual({ pageSize: 4096n, ranges: [] });
  });

  test('the reserved word is written as 0 and ignored when read (Linux, row B54)', () => {
    const stained = startPointerBytes.slice();
    stained.fill(0xff, 12, 16);
    expect(decodeStartPointer(stained)).toEqual(startPointer);
    const inline = startInlineBytes.slice();
    inline.fill(0xff, 12, 16);
    expect(decodeStartInline(inline).ranges).toEqual(ranges);
  });

  test('bytes behind the structure are ignored', () => {
    expect(decodeStartPointer(Uint8Array.of(...startPointerBytes, 1, 2, 3))).toEqual(startPointer);
    expect(decodeStartInline(Uint8Array.of(...startInlineBytes, 1, 2, 3)).ranges).toEqual(ranges);
  });

  test('cut at any length it is EINVAL', () => {
    for (let length = 0; length < startPointerBytes.length; length++) {
      expect(errnoOf(() => decodeStartPointer(startPointerBytes.subarray(0, length)))).toBe('EINVAL');
    }
    for (let length = 0; length < startInlineBytes.length; length++) {
      expect(errnoOf(() => decodeStartInline(startInlineBytes.subarray(0, length)))).toBe('EINVAL');
    }
  });

  test('a count that the bytes do not hold is EINVAL, and takes no memory', () => {
    const lying = startInlineBytes.slice();
    for (const count of [3, 0x10000000, 0xffffffff]) {
      new DataView(lying.buffer).setUint32(8, count, true);
      expect(() => decodeStartInline(lying)).toThrow('DMA_LOGGING_START: num_ranges:');
      expect(errnoOf(() => decodeStartInline(lying))).toBe('EINVAL');
    }
  });

  test('any values survive encoding and decoding', () => {
    const anyRanges = fc.array(fc.record({ iova: u64, length: u64 }), { maxLength: 20 });
    fc.assert(
      fc.property(u64, u32, u64, anyRanges, (pageSize, numRanges, rangesPointer, list) => {
        const start = { pageSize, numRanges, rangesPointer };
        expect(decodeStartPointer(encodeStartPointer(start))).toEqual(start);
        expect(decodeStartInline(encodeStartInline(pageSize, list))).toEqual({ pageSize, ranges: list });
        expect(decodeRanges(encodeRanges(list), list.length)).toEqual(list);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('ranges', () => {
  test('are 16 bytes each: iova, length', () => {
    expect(encodeRanges(ranges)).toEqual(rangesBytes);
    expect(decodeRanges(unaligned(rangesBytes), 2)).toEqual(ranges);
    expect(decodeRanges(rangesBytes, 1)).toEqual(ranges.slice(0, 1));
    expect(encodeRanges([])).toEqual(new Uint8Array(0));
  });
});

describe('REPORT', () => {
  test('rfc and linux: 32 bytes with the address of the bitmap', () => {
    expect(REPORT_POINTER_SIZE).toBe(32);
    const withPointer = { ...report, bitmapPointer: 0x7fffffff0008n };
    expect(encodeReport(withPointer)).toEqual(reportPointerBytes);
    expect(decodeReportPointer(unaligned(reportPointerBytes))).toEqual(withPointer);
  });

  test('vfio-user: the first 24 bytes of the same', () => {
    expect(REPORT_INLINE_SIZE).toBe(24);
    expect(encodeReport(report)).toEqual(reportPointerBytes.subarray(0, 24));
    expect(decodeReportInline(unaligned(reportPointerBytes.subarray(0, 24)))).toEqual(report);
  });

  test('a bitmap at address 0 is a pointer all the same', () => {
    expect(encodeReport({ ...report, bitmapPointer: 0n }).length).toBe(32);
  });

  test('cut at any length it is EINVAL', () => {
    for (let length = 0; length < 32; length++) {
      expect(errnoOf(() => decodeReportPointer(reportPointerBytes.subarray(0, length)))).toBe('EINVAL');
    }
    for (let length = 0; length < 24; length++) {
      expect(errnoOf(() => decodeReportInline(reportPointerBytes.subarray(0, length)))).toBe('EINVAL');
    }
  });

  test('any values survive encoding and decoding', () => {
    fc.assert(
      fc.property(u64, u64, u64, u64, (iova, length, pageSize, bitmapPointer) => {
        const any = { iova, length, pageSize };
        expect(decodeReportInline(encodeReport(any))).toEqual(any);
        expect(decodeReportPointer(encodeReport({ ...any, bitmapPointer }))).toEqual({ ...any, bitmapPointer });
      }),
      { numRuns: 1000 },
    );
  });
});

describe('whole requests, in the three profiles', () => {
  const cases: [Profile, start: string, stop: string, report: string][] = [
    [rfc, '20 00 00 00 03 00 02 00', '08 00 00 00 04 00 02 00', '28 00 00 00 05 00 01 00'],
    [linux, '20 00 00 00 06 00 02 00', '08 00 00 00 07 00 02 00', '28 00 00 00 08 00 01 00'],
    [vfioUser, '38 00 00 00 06 00 02 00', '08 00 00 00 07 00 02 00', '20 00 00 00 08 00 01 00'],
  ];

  for (const [profile, start, stop, reportHead] of cases) {
    test(`${profile.name}: START, STOP and REPORT are these bytes`, () => {
      const startData = profile.pointers ? startPointerBytes : startInlineBytes;
      const reportData = profile.pointers ? reportPointerBytes : reportPointerBytes.subarray(0, 24);
      expect(encodeFeatureRequest({ index: profile.start, set: true, data: startData })).toEqual(
        Uint8Array.of(...bytesOf(start), ...startData),
      );
      expect(encodeFeatureRequest({ index: profile.stop, set: true })).toEqual(bytesOf(stop));
      expect(encodeFeatureRequest({ index: profile.report, get: true, data: reportData })).toEqual(
        Uint8Array.of(...bytesOf(reportHead), ...reportData),
      );
    });
  }
});
