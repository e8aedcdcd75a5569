import { expect, test } from 'vitest';
import { orBits, readAndClear, runs, setBit } from '../../src/bitmap/index.js';

/* Faults that real implementations of the dirty bitmap had (contract: "Behaviour of the real implementations"). */

test('Linux iova_bitmap, window crossing: a run that crosses 2 MiB of bitmap arrives whole and in its place', () => {
  const windowBits = 2 ** 24;
  const source = new Uint32Array(2 ** 20);
  for (let bit = windowBits - 40; bit < windowBits + 40; bit++) setBit(source, bit);
  const guard = 0xa5a5a5a5;
  for (const offset of [0, 1, 13, 31]) {
    const target = new Uint32Array(2 ** 20 + 2);
    target[target.length - 1] = guard;
    orBits(source, 0, target, offset, source.length * 32);
    expect([...runs(target, 0, (target.length - 1) * 32)]).toEqual([
      { start: windowBits - 40 + offset, end: windowBits + 40 + offset },
    ]);
    expect(target.at(-1)).toBe(guard);
  }
});

test('Linux iova_bitmap, unaligned bitmap: every bit offset of the target gives the same bits, shifted', () => {
  for (let offset = 0; offset < 64; offset++) {
    const source = Uint32Array.of(0x80000019, 0);
    const target = new Uint32Array(6);
    readAndClear(source, 0, target, offset, 64);
    expect([...runs(target)].map(run => run.start - offset)).toEqual([0, 3, 31]);
  }
});

test('Linux iova_bitmap, fewer than 8 bits: counts of 1 to 7 touch exactly their bits', () => {
  for (let count = 1; count < 8; count++) {
    for (let offset = 0; offset < 32; offset++) {
      const source = Uint32Array.of(0xffffffff, 0xffffffff);
      const target = new Uint32Array(2);
      readAndClear(source, 3, target, offset, count);
      expect([...runs(target)]).toEqual([{ start: offset, end: offset + count }]);
      expect([...runs(source)]).toEqual([
        { start: 0, end: 3 },
        { start: 3 + count, end: 64 },
      ]);
    }
  }
});

test('pds, multiple of 64 pages: no count needs to be a multiple of anything', () => {
  for (let count = 0; count <= 130; count++) {
    const source = new Uint32Array(6).fill(0xffffffff);
    const target = new Uint32Array(6);
    readAndClear(source, 17, target, 29, count);
    expect([...runs(target)]).toEqual(count === 0 ? [] : [{ start: 29, end: 29 + count }]);
  }
});
