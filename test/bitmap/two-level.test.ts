import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BitmapMemory, type Keeping, runs, TwoLevelBitmap, twoLevelBytes } from '../../src/bitmap/index.js';

/* The two-level bitmap against a set of page numbers, over three whole groups and a part of a fourth. */

const PAGES = 3 * 32768 + 5 * 512;
const TARGET_BITS = PAGES + 200;

const page = fc.oneof(
  fc.nat(PAGES - 1),
  fc.constantFrom(0, 511, 512, 32767, 32768, 65535, 65536, 3 * 32768 - 1, 3 * 32768, PAGES - 1),
);

const interval = fc
  .tuple(fc.oneof(page, fc.constantFrom(0, 32768)), fc.oneof(page, fc.constantFrom(PAGES - 1, 65535, 98303)))
  .map(([a, b]) => ({ first: Math.min(a, b), end: Math.max(a, b) + 1 }));

const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant<'pages'>('pages'), pages: fc.array(page, { maxLength: 30 }) }),
  },
  {
    weight: 2,
    // Many blocks at once: from some number on they are swept.
    arbitrary: fc.record({
      kind: fc.constant<'comb'>('comb'),
      from: page,
      step: fc.integer({ min: 1, max: 3000 }),
      count: fc.nat(100),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant<'range'>('range'),
      from: page,
      length: fc.oneof(fc.nat(200), fc.nat(40000)),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant<'drain'>('drain'),
      interval,
      targetBit: fc.oneof(fc.nat(199), fc.constantFrom(0, 8, 64)),
    }),
  },
);

describe.each<Keeping>(['one-writer', 'exchange', 'generations'])('kept as %s', keeping => {
  test('holds exactly the pages that were marked and not drained, and drains exactly those of the interval', () => {
    const memory = BitmapMemory.create(100 * (twoLevelBytes(PAGES, keeping) + TARGET_BITS));
    const bitmap = TwoLevelBitmap.create(memory, PAGES, keeping);
    const target = memory.createBitmap(TARGET_BITS);
    const marked = new Set<number>();
    const list = new Float64Array(memory.memory.buffer, memory.allocate(8 * 100), 100);
    const table = new Float64Array(memory.memory.buffer, memory.allocate(24), 3);
    table.set([1000, 1000 + PAGES, -1000]);
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 12 }), steps => {
        for (const step of steps) {
          if (step.kind === 'pages') {
            for (const page of step.pages) {
              bitmap.mark(page);
              marked.add(page);
            }
          } else if (step.kind === 'comb') {
            const pages = Array.from({ length: step.count }, (_, index) => step.from + index * step.step);
            const inside = pages.filter(page => page < PAGES);
            list.set(pages.map(page => page + 1000));
            memory.kernels.markList(list.byteOffset, pages.length, table.byteOffset, 1);
            for (const page of inside) marked.add(page);
          } else if (step.kind === 'range') {
            const end = Math.min(step.from + step.length + 1, PAGES);
            bitmap.markRange(step.from, end);
            for (let page = step.from; page < end; page++) marked.add(page);
          } else {
            const { first, end } = step.interval;
            const next = bitmap.nextMarked(first, end);
            target.fill(0);
            bitmap.drain(first, end - first, target.byteOffset, step.targetBit);
            const expected = [...marked].filter(page => page >= first && page < end).sort((a, b) => a - b);
            if (expected.length > 0) expect(next).toBeLessThanOrEqual(expected[0]);
            const found = [...runs(target)].flatMap(run =>
              Array.from({ length: run.end - run.start }, (_, index) => run.start + index - step.targetBit + first),
            );
            expect(found).toEqual(expected);
            for (const page of expected) marked.delete(page);
          }
          expect(bitmap.count(0, PAGES)).toBe(marked.size);
          for (const page of [0, 511, 32768, 65535, 70000]) expect(bitmap.isMarked(page)).toBe(marked.has(page));
        }
      }),
      { numRuns: 100 },
    );
  });

  test('when all is drained, no block says that it may be marked', () => {
    const memory = BitmapMemory.create(2 * twoLevelBytes(PAGES, keeping) + TARGET_BITS);
    const bitmap = TwoLevelBitmap.create(memory, PAGES, keeping);
    const target = memory.createBitmap(TARGET_BITS);
    expect(bitmap.nextMarked(0, PAGES)).toBe(PAGES);
    bitmap.markRange(0, PAGES);
    expect(bitmap.nextMarked(0, PAGES)).toBe(0);
    bitmap.drain(0, PAGES, target.byteOffset, 0);
    expect(bitmap.nextMarked(0, PAGES)).toBe(PAGES);
    bitmap.mark(70_000);
    expect(bitmap.nextMarked(0, PAGES)).toBe(Math.floor(70_000 / 512) * 512);
    expect(bitmap.nextMarked(70_001, PAGES)).toBe(70_001);
    expect(bitmap.nextMarked(0, 65_000)).toBe(65_000);
  });
});
