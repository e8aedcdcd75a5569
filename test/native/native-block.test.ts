import fc from 'fast-check';
import { expect, test } from 'vitest';
import { NativeBlock } from '../../src/native/index.js';

test('any bytes that are loaded are at the beginning, leave the rest, and come out as a copy', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), loaded => {
      const block = new NativeBlock(256);
      block.bytes.fill(0xa5);
      block.load(loaded);
      const copy = block.copy(loaded.length);
      expect(copy).toEqual(loaded);
      expect(block.bytes.subarray(loaded.length).every(byte => byte === 0xa5)).toBe(true);
      block.bytes.fill(0);
      expect(copy).toEqual(loaded);
    }),
  );
});
