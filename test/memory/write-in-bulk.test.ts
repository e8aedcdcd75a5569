import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';

const SIZE = 64 * 1024;

describe('writing in bulk', () => {
  it('leaves the same bytes as writing through the mapping, and is seen there', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(SIZE - 1), fc.uint8Array({ minLength: 1, maxLength: 5000 })), { maxLength: 8 }),
        writes => {
          using bulk = GuestMemory.create(SIZE);
          using plain = GuestMemory.create(SIZE);
          for (const [offset, bytes] of writes) {
            const fitting = bytes.subarray(0, SIZE - offset);
            bulk.writeInBulk(offset, fitting);
            plain.write(offset, fitting);
          }
          expect(Buffer.compare(bulk.view(0, SIZE), plain.view(0, SIZE))).toBe(0);
        },
      ),
      { numRuns: 200 },
    );
  });

  it.each([-1, SIZE - 1, SIZE])('refuses two bytes at %i', offset => {
    using memory = GuestMemory.create(SIZE);
    expect(() => memory.writeInBulk(offset, new Uint8Array(2))).toThrow('EFAULT');
  });
});
