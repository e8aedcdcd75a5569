import { beforeEach, describe, expect, test } from 'vitest';
import { dispatchFeature, LentMemory } from '../../src/device/index.js';
import {
  decodeStartPointer,
  encodeRanges,
  encodeReport,
  encodeStartPointer,
  FEATURE_GET,
  FEATURE_PROBE,
  FEATURE_SET,
  type IovaRange,
  linux,
  VfioError,
  viewOf,
} from '../../src/uapi/index.js';
import { TestDevice } from './test-device.js';

/*
 * What Linux answers to a feature request, row by row, as it was measured of a 6.1 kernel with a test device that keeps the rules of mlx5.
 * Rows are named by their numbers there. Where our device answers something else, the row says so:
 *
 *   B05  STOP without START is 0 there, EINVAL here: contract rule 6.
 *   B23  A range of the whole space is EOPNOTSUPP of that device; ours runs out of room for the bitmap: ENOMEM.
 *   B27  {0, 0} is the whole space for that device, by an overflow; ours logs nothing for a range of no bytes.
 *   B45  The same overflow with a page size of 0; a hint of 0 is EINVAL here, in every profile.
 *   B37, B39  That device rounds a hint down; ours takes the closest size in log2: 0x1800 is closer to 8 KiB, 0x3000 to 16 KiB.
 *   C41  Linux touches as many bytes of the bitmap as it has bits for; ours wants whole 64-bit words, as the size formula says: EFAULT.
 *   C54  6.1 looks at the bitmap before the device is asked, newer kernels after; ours is like the newer: EINVAL.
 *
 * Not to be had in one process, where the request is bytes and not an address: A46, A47, A52 (the request itself is not readable), B62, C49
 * (it is not writable) and C33 to C36 as kinds of memory; all four are memory that is not there.
 */

const { start, stop, report } = linux;
const MIB = 0x10_0000n;
const TRACKED: IovaRange = { iova: MIB, length: 0x1_0000n };
const SPACE = 1n << 64n;
const ALL_FLAGS = FEATURE_GET | FEATURE_SET;

let device: TestDevice;
let memory: LentMemory;
beforeEach(() => {
  device = new TestDevice({ migrationFlags: 0, log: { pageSizes: [0x1000n, 0x2000n, 0x4000n, 0x8000n, 0x10000n] } });
  memory = new LentMemory();
});

/** The ioctl: `data` is what is readable behind the header. @returns the errno, or 0 */
async function request(
  index: number,
  flags: number,
  { argsz, data = new Uint8Array(0) }: { argsz?: number; data?: Uint8Array } = {},
): Promise<string | 0> {
  return (await exchange(index, flags, { argsz: argsz ?? 8 + data.length, data })).errno;
}

async function exchange(
  index: number,
  flags: number,
  { argsz, data }: { argsz: number; data: Uint8Array },
): Promise<{ errno: string | 0; reply: Uint8Array }> {
  const message = new Uint8Array(8 + data.length);
  viewOf(message).setUint32(0, argsz, true);
  viewOf(message).setUint32(4, (index | flags) >>> 0, true);
  message.set(data, 8);
  try {
    return { errno: 0, reply: await dispatchFeature(device, linux, message, memory) };
  } catch (error) {
    if (!(error instanceof VfioError)) throw error;
    return { errno: error.errno, reply: message };
  }
}

describe('rows A: probing and the header', () => {
  const rows: [string, string | 0, () => Promise<string | 0>][] = [];
  for (let index = 0; index <= 14; index++) {
    const expected = index >= 6 && index <= 8 ? 0 : 'ENOTTY';
    const row = `A${String(index + 1).padStart(2, '0')} PROBE feature ${index}`;
    rows.push([row, expected, () => request(index, FEATURE_PROBE)]);
  }
  rows.push(
    ['A16 PROBE feature 0x7f', 'ENOTTY', () => request(0x7f, FEATURE_PROBE)],
    ['A17 PROBE feature 0xffff', 'ENOTTY', () => request(0xffff, FEATURE_PROBE)],
    ['A18 PROBE START argsz 0', 'EINVAL', () => request(start, FEATURE_PROBE, { argsz: 0 })],
    ['A19 PROBE START argsz 7', 'EINVAL', () => request(start, FEATURE_PROBE, { argsz: 7 })],
    ['A20 PROBE START argsz 8', 0, () => request(start, FEATURE_PROBE, { argsz: 8 })],
    ['A21 PROBE START argsz 0xffffffff', 0, () => request(start, FEATURE_PROBE, { argsz: 0xffff_ffff })],
    ['A22 PROBE START, unknown bit 19', 'EINVAL', () => request(start, FEATURE_PROBE | (1 << 19))],
    ['A23 PROBE START, unknown bit 31', 'EINVAL', () => request(start, FEATURE_PROBE | (1 << 31))],
    ['A24 unknown feature, unknown bit 19', 'EINVAL', () => request(0x7f, FEATURE_PROBE | (1 << 19))],
    ['A25 PROBE GET START', 'EINVAL', () => request(start, FEATURE_PROBE | FEATURE_GET)],
    ['A26 PROBE SET START', 0, () => request(start, FEATURE_PROBE | FEATURE_SET)],
    ['A27 PROBE GET SET START', 'EINVAL', () => request(start, FEATURE_PROBE | ALL_FLAGS)],
    ['A28 GET SET START', 'EINVAL', () => request(start, ALL_FLAGS, { data: new Uint8Array(56) })],
    ['A29 no flag START', 'EINVAL', () => request(start, 0, { data: new Uint8Array(56) })],
    ['A30 GET START', 'EINVAL', () => request(start, FEATURE_GET, { data: new Uint8Array(56) })],
    ['A31 PROBE GET STOP', 'EINVAL', () => request(stop, FEATURE_PROBE | FEATURE_GET)],
    ['A32 PROBE SET STOP', 0, () => request(stop, FEATURE_PROBE | FEATURE_SET)],
    ['A33 PROBE GET SET STOP', 'EINVAL', () => request(stop, FEATURE_PROBE | ALL_FLAGS)],
    ['A34 GET SET STOP', 'EINVAL', () => request(stop, ALL_FLAGS, { data: new Uint8Array(56) })],
    ['A35 no flag STOP', 'EINVAL', () => request(stop, 0, { data: new Uint8Array(56) })],
    ['A36 GET STOP', 'EINVAL', () => request(stop, FEATURE_GET, { data: new Uint8Array(56) })],
    ['A37 PROBE GET REPORT', 0, () => request(report, FEATURE_PROBE | FEATURE_GET)],
    ['A38 PROBE SET REPORT', 'EINVAL', () => request(report, FEATURE_PROBE | FEATURE_SET)],
    ['A39 PROBE GET SET REPORT', 'EINVAL', () => request(report, FEATURE_PROBE | ALL_FLAGS)],
    ['A40 GET SET REPORT', 'EINVAL', () => request(report, ALL_FLAGS, { data: new Uint8Array(56) })],
    ['A41 no flag REPORT', 'EINVAL', () => request(report, 0, { data: new Uint8Array(56) })],
    ['A42 SET REPORT', 'EINVAL', () => request(report, FEATURE_SET, { data: new Uint8Array(56) })],
    ['A43 GET unknown feature', 'ENOTTY', () => request(0x7f, FEATURE_GET, { data: new Uint8Array(56) })],
    ['A44 GET SET unknown feature', 'EINVAL', () => request(0x7f, ALL_FLAGS)],
    ['A45 no flag, unknown feature', 'ENOTTY', () => request(0x7f, 0)],
    ['A48 only the header is there: PROBE START', 0, () => request(start, FEATURE_PROBE, { argsz: 64 })],
    ['A49 only the header is there: SET START', 'EFAULT', () => request(start, FEATURE_SET, { argsz: 64 })],
    ['A50 only the header is there: GET REPORT', 'EFAULT', () => request(report, FEATURE_GET, { argsz: 64 })],
    [
      'A51 only the header is there, argsz 4096: SET STOP',
      0,
      () => {
        device.dma.log.start(4096n, [TRACKED]);
        return request(stop, FEATURE_SET, { argsz: 4096 });
      },
    ],
  );
  test.each(rows)('%s: %s', async (_name, expected, run) => {
    expect(await run()).toBe(expected);
  });
});

interface StartRow {
  ranges?: readonly IovaRange[];
  pageSize?: bigint;
  count?: number;
  pointer?: bigint;
  argsz?: number;
  flags?: number;
  reserved?: number;
}

/** START; the ranges are lent unless a pointer is given. @returns the errno, or `0 (ps …)` with the page size that came back */
async function setStart(row: StartRow = {}): Promise<string> {
  const ranges = row.ranges ?? [TRACKED];
  const rangesPointer = row.pointer ?? memory.lend(encodeRanges(ranges));
  const data = encodeStartPointer({
    pageSize: row.pageSize ?? 0x1000n,
    numRanges: row.count ?? ranges.length,
    rangesPointer,
  });
  viewOf(data).setUint32(12, row.reserved ?? 0, true);
  const { errno, reply } = await exchange(start, row.flags ?? FEATURE_SET, { argsz: row.argsz ?? 32, data });
  if (errno !== 0) return errno;
  return `0 (ps 0x${decodeStartPointer(reply.subarray(8)).pageSize.toString(16)})`;
}

function manyRanges(count: number, length = 0x1000n, step = 0x2000n): IovaRange[] {
  return Array.from({ length: count }, (_, index) => ({ iova: MIB + BigInt(index) * step, length }));
}

const DONE = '0 (ps 0x1000)';

describe('rows B: START and STOP', () => {
  const overflowing = { iova: SPACE - 0x2000n, length: 0x4000n };
  const rows: [string, StartRow, string][] = [
    ['B01 one range', {}, DONE],
    ['B06 3 ranges, not sorted', { ranges: manyRanges(3).reverse() }, DONE],
    ['B07 2 adjacent ranges', { ranges: manyRanges(2, 0x1000n, 0x1000n) }, DONE],
    ['B08 num_ranges 0', { count: 0 }, 'EINVAL'],
    ['B09 num_ranges 0, ranges NULL', { count: 0, pointer: 0n }, 'EINVAL'],
    ['B10 256 ranges', { ranges: manyRanges(256) }, DONE],
    ['B11 257 ranges', { ranges: manyRanges(257) }, 'E2BIG'],
    ['B12 257 ranges, pointer NULL', { count: 257, pointer: 0n }, 'E2BIG'],
    ['B13 num_ranges 0xffffffff', { count: 0xffff_ffff }, 'E2BIG'],
    ['B14 iova not aligned', { ranges: [{ iova: MIB + 0x800n, length: 0x1000n }] }, 'EINVAL'],
    ['B15 length not aligned', { ranges: [{ iova: MIB, length: 0x1800n }] }, 'EINVAL'],
    ['B16 second of 2 ranges unaligned', { ranges: [TRACKED, { iova: 2n * MIB, length: 1n }] }, 'EINVAL'],
    ['B17 2 ranges overlap by a page', { ranges: manyRanges(2, 0x2000n, 0x1000n) }, 'EINVAL'],
    ['B18 2 equal ranges', { ranges: [TRACKED, TRACKED] }, 'EINVAL'],
    ['B19 second range inside the first', { ranges: [TRACKED, { iova: MIB + 0x1000n, length: 0x1000n }] }, 'EINVAL'],
    ['B20 beyond 2^64', { ranges: [overflowing] }, 'EOVERFLOW'],
    ['B21 ends at 2^64', { ranges: [{ iova: SPACE - 0x2000n, length: 0x2000n }] }, 'EOVERFLOW'],
    ['B22 ends at 2^64 - 4096', { ranges: [{ iova: SPACE - 0x2000n, length: 0x1000n }] }, DONE],
    ['B23 whole space (differs)', { ranges: [{ iova: 0n, length: SPACE - 0x1000n }] }, 'ENOMEM'],
    ['B24 512 GiB', { ranges: [{ iova: 0n, length: 512n << 30n }] }, DONE],
    ['B25 unaligned and beyond 2^64', { ranges: [{ ...overflowing, length: 0x4001n }] }, 'EINVAL'],
    ['B26 length 0', { ranges: [{ iova: MIB, length: 0n }] }, DONE],
    ['B27 length 0 at 0 (differs)', { ranges: [{ iova: 0n, length: 0n }] }, DONE],
    ['B28 2 equal ranges of length 0', { ranges: manyRanges(2, 0n, 0n) }, DONE],
    ['B29 length 0 inside another', { ranges: [TRACKED, { iova: MIB + 0x1000n, length: 0n }] }, 'EINVAL'],
    ['B30 page_size 0', { pageSize: 0n }, 'EINVAL'],
    ['B31 page_size 1', { pageSize: 1n }, DONE],
    ['B32 page_size 2', { pageSize: 2n }, DONE],
    ['B33 page_size 3', { pageSize: 3n }, DONE],
    ['B34 page_size 5', { pageSize: 5n }, DONE],
    ['B35 page_size 0x200', { pageSize: 0x200n }, DONE],
    ['B36 page_size 0x800', { pageSize: 0x800n }, DONE],
    ['B37 page_size 0x1800 (differs)', { pageSize: 0x1800n }, '0 (ps 0x2000)'],
    ['B38 page_size 0x2000', { pageSize: 0x2000n }, '0 (ps 0x2000)'],
    ['B39 page_size 0x3000 (differs)', { pageSize: 0x3000n }, '0 (ps 0x4000)'],
    ['B40 page_size 0x10000', { pageSize: 0x1_0000n }, '0 (ps 0x10000)'],
    ['B41 page_size 0x100000', { pageSize: 0x10_0000n }, 'EINVAL'],
    ['B42 page_size 2^63', { pageSize: 1n << 63n }, 'EINVAL'],
    ['B43 page_size 2^64 - 1', { pageSize: SPACE - 1n }, 'EINVAL'],
    ['B44 page_size 0, iova 0', { pageSize: 0n, ranges: [{ iova: 0n, length: 0x1_0000n }] }, 'EINVAL'],
    ['B45 page_size 0, length 0 (differs)', { pageSize: 0n, ranges: [{ iova: 0n, length: 0n }] }, 'EINVAL'],
    ['B46 page_size 1, odd range', { pageSize: 1n, ranges: [{ iova: 0x1001n, length: 0x2001n }] }, DONE],
    ['B47 page_size 3, odd range', { pageSize: 3n, ranges: [{ iova: 0x1001n, length: 0x2001n }] }, DONE],
    ['B48 page_size 2048', { pageSize: 2048n, ranges: [{ iova: 0x1800n, length: 0x800n }] }, DONE],
    [
      'B49 page_size 64 KiB, range aligned to 4 KiB only',
      { pageSize: 0x1_0000n, ranges: [{ iova: MIB + 0x1000n, length: 0x1_0000n }] },
      'EINVAL',
    ],
    ['B50 ranges NULL', { pointer: 0n }, 'EFAULT'],
    ['B51 ranges unmapped', { pointer: 0x7fff_0000_0000n }, 'EFAULT'],
    ['B52 second range unmapped', { count: 2 }, 'EFAULT'],
    ['B53 first range unaligned, second unmapped', { ranges: [{ iova: 1n, length: 1n }], count: 2 }, 'EINVAL'],
    ['B54 reserved not 0', { reserved: 0xdead }, DONE],
    ['B55 argsz 31', { argsz: 31 }, 'EINVAL'],
    ['B56 argsz 8', { argsz: 8 }, 'EINVAL'],
    ['B57 argsz 7', { argsz: 7 }, 'EINVAL'],
    ['B58 argsz 32', { argsz: 32 }, DONE],
    ['B59 argsz 4096', { argsz: 4096 }, DONE],
    ['B60 argsz 31, unknown bit 20', { argsz: 31, flags: FEATURE_SET | (1 << 20) }, 'EINVAL'],
    ['B61 PROBE SET with a valid payload', { flags: FEATURE_PROBE | FEATURE_SET }, DONE],
    ['B63 256 adjacent ranges of 1 MiB', { ranges: manyRanges(256, MIB, MIB) }, DONE],
  ];
  test.each(rows)('%s', async (name, row, expected) => {
    expect(await setStart(row)).toBe(expected);
    expect(device.dma.log.active).toBe(expected.startsWith('0') && !name.startsWith('B61'));
  });

  test('B02 START while started, B03 a bad START while started: EINVAL, and the log goes on', async () => {
    expect(await setStart()).toBe(DONE);
    device.dma.log.record(MIB, 1);
    expect(await setStart()).toBe('EINVAL');
    expect(await setStart({ count: 0 })).toBe('EINVAL');
    expect(device.dma.log.dirtyPages()).toBe(1);
  });

  test('B04 STOP, B05 STOP again (differs)', async () => {
    await setStart();
    expect(await request(stop, FEATURE_SET)).toBe(0);
    expect(await request(stop, FEATURE_SET)).toBe('EINVAL');
  });
});

interface ReportRow {
  iova?: bigint;
  length?: bigint;
  pageSize?: bigint;
  pointer?: bigint;
  /** Bytes of the bitmap that are there. */
  lent?: number;
  /** Added to the bitmap's address; so many more bytes are lent. */
  shift?: number;
  argsz?: number;
  flags?: number;
}

async function getReport(row: ReportRow = {}): Promise<string | 0> {
  const { shift = 0, lent = 8 } = row;
  const bitmapPointer = row.pointer ?? memory.lend(new Uint8Array(lent + shift)) + BigInt(shift);
  const { iova = MIB, length = 0x1_0000n, pageSize = 0x1000n } = row;
  const data = encodeReport({ iova, length, pageSize, bitmapPointer });
  const { errno } = await exchange(report, row.flags ?? FEATURE_GET, { argsz: row.argsz ?? 40, data });
  return errno;
}

describe('rows C: REPORT and STOP', () => {
  const rows: [string, ReportRow, string | 0][] = [
    ['C02 valid', {}, 0],
    ['C03 page_size 0', { pageSize: 0n }, 'EINVAL'],
    ['C04 page_size 1', { pageSize: 1n }, 'EINVAL'],
    ['C05 page_size 3', { pageSize: 3n }, 'EINVAL'],
    ['C06 page_size 0x200', { pageSize: 0x200n }, 'EINVAL'],
    ['C07 page_size 0x800', { pageSize: 0x800n }, 'EINVAL'],
    ['C08 page_size 0xfff', { pageSize: 0xfffn }, 'EINVAL'],
    ['C09 page_size 0x1001', { pageSize: 0x1001n }, 'EINVAL'],
    ['C10 page_size 0x1800', { pageSize: 0x1800n }, 'EINVAL'],
    ['C11 page_size 0x2000', { pageSize: 0x2000n }, 0],
    ['C12 page_size 0x3000', { pageSize: 0x3000n }, 'EINVAL'],
    ['C13 page_size 0x10000', { pageSize: 0x1_0000n }, 0],
    ['C14 page_size 0x200000', { pageSize: 0x20_0000n }, 0],
    ['C15 page_size 2^40', { pageSize: 1n << 40n }, 0],
    ['C16 page_size 2^63', { pageSize: 1n << 63n }, 0],
    ['C17 page_size 2^64 - 1', { pageSize: SPACE - 1n }, 'EINVAL'],
    ['C18 iova not aligned', { iova: 0x10_0800n }, 0],
    ['C19 length not aligned', { length: 0x1800n }, 0],
    ['C20 length 1', { length: 1n }, 0],
    ['C21 length 0', { length: 0n }, 0],
    ['C22 iova 0, length 0, bitmap NULL', { iova: 0n, length: 0n, pointer: 0n }, 'EFAULT'],
    ['C23 length 0, bitmap NULL', { length: 0n, pointer: 0n }, 'EFAULT'],
    ['C24 beyond 2^64', { iova: SPACE - 0x1000n, length: 0x2000n }, 'EOVERFLOW'],
    ['C25 ends at 2^64', { iova: SPACE - 0x1000n, length: 0x1000n }, 'EOVERFLOW'],
    ['C26 highest page', { iova: SPACE - 0x2000n, length: 0x1000n }, 0],
    ['C27 page_size 2048 and beyond 2^64', { pageSize: 2048n, iova: SPACE - 1n, length: 2n }, 'EINVAL'],
    ['C28 outside the tracked range', { iova: 16n * MIB }, 0],
    ['C29 covers more than the tracked range', { iova: 0n, length: 4n * MIB, lent: 128 }, 0],
    ['C30 part of the tracked range', { iova: MIB + 0x4000n, length: 0x4000n }, 0],
    ['C31 bitmap NULL', { pointer: 0n }, 'EFAULT'],
    ['C32 bitmap unmapped', { pointer: 0x7fff_0000_0000n }, 'EFAULT'],
    ['C35 bitmap at a kernel address', { pointer: 0xffff_8000_0000_0000n }, 'EFAULT'],
    ['C36 bitmap at a non-canonical address', { pointer: 0x8000_0000_0000_0000n }, 'EFAULT'],
    ['C37 bitmap at an odd address', { shift: 1 }, 0],
    ['C38 bitmap at + 4', { shift: 4 }, 0],
    ['C39 bitmap needs 2 pages, second unmapped', { iova: 0n, length: 256n * MIB, lent: 4096 }, 'EFAULT'],
    ['C40 bitmap of 8 bytes, last 4 unmapped', { length: 0x4_0000n, lent: 4 }, 'EFAULT'],
    ['C41 bitmap of 1 byte (differs)', { length: 0x8000n, lent: 1 }, 'EFAULT'],
    ['C42 argsz 39', { argsz: 39 }, 'EINVAL'],
    ['C43 argsz 8', { argsz: 8 }, 'EINVAL'],
    ['C44 argsz 40', { argsz: 40 }, 0],
    ['C45 argsz 100', { argsz: 100 }, 0],
    ['C46 SET REPORT', { flags: FEATURE_SET }, 'EINVAL'],
    ['C47 GET SET REPORT', { flags: ALL_FLAGS }, 'EINVAL'],
    ['C48 PROBE GET with a bad payload', { flags: FEATURE_PROBE | FEATURE_GET, pageSize: 0n }, 0],
  ];
  test.each(rows)('%s: %s', async (_name, row, expected) => {
    await setStart();
    device.dma.log.record(MIB, 1);
    expect(await getReport(row)).toBe(expected);
    // E20 to E23: a report that fails has not cleared the log.
    if (expected !== 0) expect(device.dma.log.dirtyPages()).toBe(1);
  });

  test('C01 REPORT without START', async () => {
    expect(await getReport()).toBe('EINVAL');
  });

  test('C50 STOP argsz 7, C51 STOP argsz 4096, C52 to C54 REPORT after STOP', async () => {
    await setStart();
    expect(await request(stop, FEATURE_SET, { argsz: 7 })).toBe('EINVAL');
    expect(await request(stop, FEATURE_SET, { argsz: 4096 })).toBe(0);
    expect(await getReport()).toBe('EINVAL');
    expect(await getReport({ pageSize: 2048n })).toBe('EINVAL');
    expect(await getReport({ pointer: 0n })).toBe('EINVAL');
  });
});

describe('rows E: what a report brings', () => {
  test('E12 bits are added, none is cleared; E16 at any alignment of the bitmap', async () => {
    await setStart();
    for (const shift of [0, 1, 2, 3, 4, 5, 6, 7]) {
      const lent = new Uint8Array(8 + shift);
      lent[shift + 1] = 0x0f;
      const bitmapPointer = memory.lend(lent) + BigInt(shift);
      device.dma.log.record(MIB + 0x7000n, 1);
      const data = encodeReport({ iova: MIB, length: 0x1_0000n, pageSize: 0x1000n, bitmapPointer });
      expect(await request(report, FEATURE_GET, { data })).toBe(0);
      expect([...lent.subarray(shift)]).toEqual([0x80, 0x0f, 0, 0, 0, 0, 0, 0]);
    }
  });
});
