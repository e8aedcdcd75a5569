import { expect, test } from 'vitest';
import {
  encodeGetDirtyBitmap,
  encodeHwptAlloc,
  encodeIoasMap,
  encodeIoasUnmap,
  encodeSetDirtyTracking,
} from '../../src/kernel/iommufd-abi.js';
import {
  decodeIommuInfo,
  decodeRegionInfo,
  encodeDirtyPages,
  encodeDirtyPagesGet,
  encodeIrqSet,
  encodeMapDma,
  encodeRegionInfo,
  encodeUnmapDma,
} from '../../src/kernel/vfio-abi.js';
import { errnoOf } from '../native/helpers.js';
import { bytesOf } from '../uapi/hex.js';

const toHex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

const range = { iova: 0x1122334455667000n, length: 0x20000n };
const rights = { readable: true, writable: false };

test('structures have the layout of linux/vfio.h', () => {
  expect(toHex(encodeRegionInfo(1))).toBe(`20000000000000000100000000000000${'00'.repeat(16)}`);
  expect(toHex(encodeMapDma(range, 0x7f0000001000n, rights))).toBe(
    `2000000001000000${'0010000000 7f0000'.replaceAll(' ', '')}00706655443322110000020000000000`,
  );
  expect(toHex(encodeUnmapDma(range))).toBe('1800000000000000' + '0070665544332211' + '0000020000000000');
  const bitmap = { pageSize: 4096n, size: 8, address: 0x7f0000001000 };
  const described = `00100000000000000800000000000000${'0010000000 7f0000'.replaceAll(' ', '')}`;
  expect(toHex(encodeUnmapDma(range, bitmap))).toBe(`300000000100000000706655443322110000020000000000${described}`);
  expect(toHex(encodeDirtyPages(1))).toBe('0800000001000000');
  expect(toHex(encodeDirtyPagesGet(range, bitmap))).toBe(
    `300000000400000000706655443322110000020000000000${described}`,
  );
  expect(toHex(encodeIrqSet({ flags: 0x24, type: 2, start: 3, count: 2 }, [7, -1]))).toBe(
    '1c000000240000000200000003000000' + '02000000' + '07000000ffffffff',
  );
});

test('structures have the layout of linux/iommufd.h', () => {
  expect(toHex(encodeIoasMap(5, range, 0x7f0000001000n, rights))).toBe(
    '28000000050000000500000000000000' +
      '0010000000 7f0000'.replaceAll(' ', '') +
      '0000020000000000' +
      '0070665544332211',
  );
  expect(toHex(encodeIoasUnmap(5, range))).toBe('1800000005000000' + '0070665544332211' + '0000020000000000');
  expect(toHex(encodeHwptAlloc(2, 7, 5))).toBe(`28000000020000000700000005000000${'00'.repeat(24)}`);
  expect(toHex(encodeSetDirtyTracking(9, true))).toBe('10000000010000000900000000000000');
  expect(toHex(encodeGetDirtyBitmap(9, { ...range, flags: 1, pageSize: 4096n, address: 0x1000 }))).toBe(
    '30000000090000000100000000000000' +
      '0070665544332211' +
      '0000020000000000' +
      '0010000000000000' +
      '0010000000000000',
  );
});

/* GET_REGION_INFO of region 9 with a type (0x8086 of a PCI vendor, subtype 1) and two areas, one of them empty. */
const REGION_WITH_CAPABILITIES =
  '60000000' +
  '0f000000' +
  '09000000' +
  '20000000' +
  '0000100000000000' +
  '0000000000090000' +
  '02000100' +
  '30000000' +
  '86800080' +
  '01000000' +
  '01000100' +
  '00000000' +
  '02000000' +
  '00000000' +
  '0010000000000000' +
  '0040000000000000' +
  '0080000000000000' +
  '0000000000000000';

test('a region tells what it is, and what of it may be mapped', () => {
  expect(decodeRegionInfo(bytesOf(REGION_WITH_CAPABILITIES))).toEqual({
    flags: 15,
    size: 0x100000,
    offset: 9 * 2 ** 40,
    type: { type: 0x80008086, subtype: 1 },
    areas: [{ offset: 0x1000, size: 0x4000 }],
  });
});

test('a chain of capabilities that leaves its bytes, goes in circles or is cut is EPROTO', () => {
  const bytes = bytesOf(REGION_WITH_CAPABILITIES);
  for (let length = 33; length < bytes.length; length++) {
    expect(errnoOf(() => decodeRegionInfo(bytes.subarray(0, length)))).toBe('EPROTO');
  }
  const circle = bytes.slice();
  circle[0x34] = 0x20;
  expect(errnoOf(() => decodeRegionInfo(circle))).toBe('EPROTO');
  const many = bytes.slice();
  many[0x38] = 3;
  expect(errnoOf(() => decodeRegionInfo(many))).toBe('EPROTO');
});

test('an IOMMU tells its page sizes, where memory may go, and whether it tracks', () => {
  const info =
    '68000000' +
    '03000000' +
    '0010204000000000' +
    '18000000' +
    '00000000' +
    '01000100' +
    '38000000' +
    '01000000' +
    '00000000' +
    '0000000000000000' +
    'ffffdffe00000000' +
    '02000100' +
    '58000000' +
    '00000000' +
    '00000000' +
    '0010000000000000' +
    '0000001000000000' +
    '03000100' +
    '00000000' +
    'ffff0000' +
    '00000000';
  expect(decodeIommuInfo(bytesOf(info))).toEqual({
    pageSizes: 0x40201000n,
    iovaRanges: [{ iova: 0n, length: 0xfee00000n }],
    dirtyTracking: { pageSizes: 4096n, maxBitmapBytes: 0x10000000n },
  });
  expect(decodeIommuInfo(bytesOf(`1800000001000000${'0010000000000000'}${'00'.repeat(8)}`))).toEqual({
    pageSizes: 4096n,
    iovaRanges: undefined,
    dirtyTracking: undefined,
  });
});
