import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  checkDmaWritten,
  decodeDmaData,
  decodeDmaRead,
  decodeDmaWrite,
  encodeDmaAccess,
  encodeDmaWrite,
  newDmaData,
} from '../../src/vfio-user/wire/dma-access-messages.js';
import { errnoOf } from '../native/helpers.js';
import { words } from './peer.js';

test('have the bytes of the protocol', () => {
  expect(encodeDmaAccess({ iova: 0x12_3456_7000, count: 8 })).toEqual(words(0x12_3456_7000n, 8n));
  expect(encodeDmaAccess({ iova: 2n ** 63n + 5n, count: 0 })).toEqual(words(2n ** 63n + 5n, 0n));
  expect(encodeDmaWrite(16, Uint8Array.of(1, 2, 3, 4))).toEqual(words(16n, 4n, 0x04030201));
});

test('are decoded as they were encoded, at any address', () => {
  fc.assert(
    fc.property(fc.bigInt(0n, 2n ** 64n - 1n), fc.uint8Array({ maxLength: 40 }), (iova, bytes) => {
      const count = bytes.length;
      const read = decodeDmaRead(encodeDmaAccess({ iova, count }), 40);
      expect([BigInt(read.iova), read.count]).toEqual([iova, count]);
      // A number wherever it is exact: no bigint is made for the addresses that a guest usually has.
      expect(typeof read.iova).toBe(iova < 2n ** 53n ? 'number' : 'bigint');
      expect(encodeDmaAccess(read)).toEqual(words(iova, BigInt(count)));
      const write = decodeDmaWrite(encodeDmaWrite(iova, bytes), 40);
      expect([BigInt(write.iova), write.data]).toEqual([iova, bytes]);
      const { reply, data } = newDmaData({ iova, count });
      data.set(bytes);
      expect(decodeDmaData(reply, count)).toEqual(bytes);
    }),
  );
});

test('of a wrong size are EINVAL', () => {
  const read = words(0n, 8n);
  const write = words(0n, 8n, 1, 2);
  for (let size = 0; size <= 32; size++) {
    const bytes = new Uint8Array(size);
    bytes.set(write.subarray(0, size));
    if (size !== 24) {
      expect(errnoOf(() => decodeDmaWrite(bytes, 100))).toBe('EINVAL');
      expect(errnoOf(() => decodeDmaData(bytes, 8))).toBe('EINVAL');
    }
    if (size !== 16) expect(errnoOf(() => decodeDmaRead(bytes, 100))).toBe('EINVAL');
  }
  expect(decodeDmaRead(read, 100).count).toBe(8);
});

test('of more bytes than are taken at once are EINVAL', () => {
  expect(errnoOf(() => decodeDmaRead(words(0n, 9n), 8))).toBe('EINVAL');
  expect(errnoOf(() => decodeDmaRead(words(0n, 2n ** 63n), 8))).toBe('EINVAL');
  expect(errnoOf(() => decodeDmaWrite(words(0n, 12n, 1, 2, 3), 8))).toBe('EINVAL');
});

test.each([
  ['no bytes', words()],
  ['4 bytes', words(77)],
  ['12 bytes', words(0n, 8)],
  ['16 bytes', words(0n, 8n)],
])('a reply of %s to a write is taken', (_name, reply) => {
  expect(errnoOf(() => checkDmaWritten(reply, 8))).toBeUndefined();
});

test.each([
  ['12 bytes with another count', words(0n, 7)],
  ['16 bytes with another count', words(0n, 7n)],
  ['8 bytes', words(0n)],
  ['20 bytes', words(0n, 8n, 0)],
])('a reply of %s to a write is EINVAL', (_name, reply) => {
  expect(errnoOf(() => checkDmaWritten(reply, 8))).toBe('EINVAL');
});

test('with numbers that their fields do not hold are EINVAL', () => {
  for (const iova of [-1, 0.5, 2 ** 53, -1n, 2n ** 64n]) {
    expect(errnoOf(() => encodeDmaAccess({ iova, count: 1 }))).toBe('EINVAL');
  }
  expect(errnoOf(() => encodeDmaAccess({ iova: 0, count: 2 ** 32 }))).toBe('EINVAL');
});
