import { describe, expect, test } from 'vitest';
import {
  type DeviceStatistics,
  decodeBitmapAttach,
  decodeBitmapHandle,
  decodeReportShared,
  decodeStatistics,
  encodeBitmapAttach,
  encodeBitmapHandle,
  encodeReportShared,
  encodeStatistics,
} from '../../src/vfio-user/wire/extension-messages.js';
import { errnoOf } from '../native/helpers.js';
import { words } from './peer.js';

const report = { handle: 3, offset: 8n, iova: 0x1000n, length: 2n ** 40n, pageSize: 4096n };
const statistics: DeviceStatistics = {
  dmaMap: { regions: 2, refused: 1 },
  log: { active: true, pageSize: 4096, dirtyPages: 7, ranges: 1 },
  dma: { reads: 1, writes: 2, bytesRead: 3, bytesWritten: 4, refused: 5 },
  connections: 2,
};

test('have the bytes that they are said to have, and are decoded as they were encoded', () => {
  expect(encodeBitmapAttach({ offset: 4096n, size: 8192n })).toEqual(words(24, 0, 4096n, 8192n));
  expect(decodeBitmapAttach(words(24, 0, 4096n, 8192n))).toEqual({ offset: 4096n, size: 8192n });
  expect(encodeBitmapHandle(7)).toEqual(words(7));
  expect(decodeBitmapHandle(words(7), 'BITMAP_ATTACH')).toBe(7);
  expect(encodeReportShared(report)).toEqual(words(3, 0, 8n, 0x1000n, 2n ** 40n, 4096n));
  expect(decodeReportShared(encodeReportShared(report))).toEqual(report);
  expect(decodeStatistics(encodeStatistics(statistics))).toEqual(statistics);
});

test('of a wrong size are EINVAL', () => {
  const decoders: [Uint8Array, (bytes: Uint8Array) => unknown][] = [
    [words(24, 0, 0n, 8n), decodeBitmapAttach],
    [words(1), bytes => decodeBitmapHandle(bytes, 'BITMAP_DETACH')],
    [encodeReportShared(report), decodeReportShared],
  ];
  for (const [whole, decode] of decoders) {
    expect(errnoOf(() => decode(whole))).toBeUndefined();
    for (let size = 0; size < whole.length; size++) {
      expect(errnoOf(() => decode(whole.subarray(0, size)))).toBe('EINVAL');
    }
    expect(errnoOf(() => decode(Uint8Array.from([...whole, 0])))).toBe('EINVAL');
  }
});

test('with flags, or without 0 where 0 must be, are EINVAL', () => {
  expect(errnoOf(() => decodeBitmapAttach(words(24, 1, 0n, 8n)))).toBe('EINVAL');
  expect(errnoOf(() => decodeBitmapAttach(words(23, 0, 0n, 8n)))).toBe('EINVAL');
  expect(errnoOf(() => decodeReportShared(words(3, 1, 0n, 0n, 0n, 4096n)))).toBe('EINVAL');
});

test('with numbers that their fields do not hold are EINVAL', () => {
  expect(errnoOf(() => encodeBitmapAttach({ offset: -1n, size: 8n }))).toBe('EINVAL');
  expect(errnoOf(() => encodeBitmapAttach({ offset: 0n, size: 2n ** 64n }))).toBe('EINVAL');
  expect(errnoOf(() => encodeBitmapHandle(-1))).toBe('EINVAL');
  expect(errnoOf(() => encodeReportShared({ ...report, handle: 2 ** 32 }))).toBe('EINVAL');
  for (const field of ['offset', 'iova', 'length', 'pageSize']) {
    expect(errnoOf(() => encodeReportShared({ ...report, [field]: 2n ** 64n }))).toBe('EINVAL');
  }
});

describe('statistics', () => {
  const text = (json: string) => new TextEncoder().encode(json);

  test('of a newer server may say more', () => {
    const more = { ...statistics, colour: 'blue', log: { ...statistics.log, age: 1 } };
    expect(decodeStatistics(text(JSON.stringify(more)))).toEqual(more);
  });

  test.each([
    ['nothing', ''],
    ['no JSON', '{]'],
    ['null', 'null'],
    ['a number', '12'],
    ['an empty object', '{}'],
    ['a part that is missing', JSON.stringify({ ...statistics, dma: undefined })],
    ['a part of another type', JSON.stringify({ ...statistics, log: 7 })],
    ['a number of another type', JSON.stringify({ ...statistics, connections: '2' })],
  ])('that are %s are EINVAL', (_name, json) => {
    expect(errnoOf(() => decodeStatistics(text(json)))).toBe('EINVAL');
  });

  test('that are no UTF-8 are EINVAL', () => {
    expect(errnoOf(() => decodeStatistics(Uint8Array.of(0x22, 0xff, 0x22)))).toBe('EINVAL');
  });
});
