import { expect, test } from 'vitest';
import { isPowerOfTwo, requireBytes, viewOf } from '../../src/uapi/index.js';
import { errnoOf } from '../log/bitmaps.js';
import { unaligned } from './hex.js';

test('a view covers exactly the bytes, wherever they lie in memory', () => {
  const bytes = unaligned(Uint8Array.of(1, 2, 3, 4));
  expect(viewOf(bytes).byteLength).toBe(4);
  expect(viewOf(bytes).getUint32(0, true)).toBe(0x04030201);
  expect(() => viewOf(bytes).getUint8(4)).toThrow(RangeError);
});

test('requireBytes is EINVAL for fewer, and content with as many or more', () => {
  for (let size = 0; size < 10; size++) {
    for (let length = 0; length < 10; length++) {
      const errno = errnoOf(() => requireBytes(new Uint8Array(length), size, 'x'));
      expect(errno).toBe(length < size ? 'EINVAL' : undefined);
    }
  }
  expect(() => requireBytes(new Uint8Array(3), 8, 'STOP', 'data')).toThrow('STOP: data: 3 bytes, needs 8 (EINVAL)');
});

test('the powers of two from 2^0 to 2^70 are powers of two, and their neighbours and 0 are not', () => {
  expect(isPowerOfTwo(0n)).toBe(false);
  expect(isPowerOfTwo(-4096n)).toBe(false);
  for (let log2 = 0; log2 <= 70; log2++) {
    const power = 2n ** BigInt(log2);
    expect(isPowerOfTwo(power)).toBe(true);
    if (log2 > 1) expect([isPowerOfTwo(power - 1n), isPowerOfTwo(power + 1n)]).toEqual([false, false]);
  }
});
