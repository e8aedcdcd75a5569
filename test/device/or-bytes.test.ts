import fc from 'fast-check';
import { expect, test } from 'vitest';
import { orBytes } from '../../src/device/or-bytes.js';
import { sameBytes } from '../native/helpers.js';

const PIECE = 64 * 1024;

/** Bytes of which only some are not 0, at the edges of pieces above all. */
const sparse = (length: number) =>
  fc
    .array(
      fc.tuple(
        fc.oneof(
          fc.nat(length - 1),
          fc.constantFrom(0, PIECE - 1, PIECE, 2 * PIECE - 1, length - 1).filter(index => index < length),
        ),
        fc.integer({ min: 1, max: 255 }),
      ),
      { maxLength: 6 },
    )
    .map(entries => {
      const bytes = new Uint8Array(length);
      for (const [index, value] of entries) bytes[index] = value;
      return bytes;
    });

const inputs = fc
  .tuple(fc.constantFrom(8, 64, PIECE - 8, PIECE, PIECE + 8, 2 * PIECE + 24), fc.nat(3), fc.nat(16))
  .chain(([length, shift, tail]) =>
    fc.record({ shift: fc.constant(shift), tail: fc.constant(tail), from: sparse(length), into: sparse(length) }),
  );

test('every byte becomes the OR of both, wherever the bytes lie and whatever follows them', () => {
  fc.assert(
    fc.property(inputs, ({ shift, tail, from, into }) => {
      const place = new Uint8Array(shift + from.length + tail).fill(0xee);
      place.set(from, shift);
      const words = new Uint32Array(into.length / 4 + 2).fill(0x5a5a_5a5a);
      new Uint8Array(words.buffer).set(into, 4);
      orBytes(words.subarray(1, -1), place.subarray(shift));
      const expected = new Uint8Array(words.byteLength).fill(0x5a);
      for (const [index, byte] of from.entries()) expected[4 + index] = byte | into[index]!;
      expect(sameBytes(new Uint8Array(words.buffer), expected)).toBe(true);
    }),
    { numRuns: 300 },
  );
});
