import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  BitmapMemory,
  listPages,
  PageBatches,
  PageCursor,
  pages,
  RunBatches,
  RunCursor,
  runs,
} from '../../src/bitmap/index.js';
import { naiveRuns, toBits, word } from './naive-bitmap.js';

/* Long walks, which the kernels do in batches and, for bitmaps elsewhere, in pieces of 16 KiB. */

const memory = BitmapMemory.create(2 ** 17);
const inMemory = memory.createBitmap(9000 * 32);

/** Up to 9000 words, made of stretches, so that there are batches of many edges and pieces of none. */
const longBitmap = fc
  .array(fc.tuple(fc.array(word, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 800 })), {
    minLength: 3,
    maxLength: 12,
  })
  .map(parts => parts.flatMap(([words, times]) => Array.from({ length: times }, () => words).flat()).slice(0, 9000));

const places: Record<string, (words: readonly number[]) => Uint32Array> = {
  'an array': words => Uint32Array.from(words),
  'the middle of an array': words => new Uint32Array([1, ...words, 1]).subarray(1, words.length + 1),
  "the kernels' memory": words => {
    inMemory.fill(0xffffffff);
    inMemory.set(words);
    return inMemory.subarray(0, words.length - (words.length % 2));
  },
};

const walk = longBitmap.chain(words =>
  fc
    .tuple(
      fc.oneof(fc.constant(0), fc.nat(words.length * 32)),
      fc.oneof(
        fc.constant(1),
        fc.nat(1000).map(n => n / 1000),
      ),
    )
    .map(([from, part]) => ({ words, from, part })),
);

describe.each(Object.keys(places))('in %s', place => {
  test('RunCursor and PageCursor find exactly the runs and the set bits of the interval', () => {
    fc.assert(
      fc.property(walk, ({ words, from, part }) => {
        const bitmap = places[place](words);
        const limit = Math.max(from, Math.floor(bitmap.length * 32 * part));
        const expected = naiveRuns(toBits(bitmap), from, limit);
        const cursor = new RunCursor(bitmap, from, limit);
        const found: { start: number; end: number }[] = [];
        while (cursor.next()) found.push({ start: cursor.start, end: cursor.end });
        expect(found).toEqual(expected);
        expect([cursor.next(), cursor.start, cursor.end]).toEqual([false, limit, limit]);
        const single = expected.flatMap(run =>
          Array.from({ length: run.end - run.start }, (_, index) => run.start + index),
        );
        const pageCursor = new PageCursor(bitmap, from, limit);
        const numbers: number[] = [];
        while (pageCursor.next()) numbers.push(pageCursor.page);
        expect(numbers).toEqual(single);
        expect([pageCursor.next(), pageCursor.page]).toEqual([false, limit]);
      }),
      { numRuns: 25 },
    );
  });
});

/** All numbers of a walk in batches. */
function gather(batches: { next(): boolean; readonly count: number }, numbers: ArrayLike<number>): number[] {
  const found: number[] = [];
  while (batches.next()) found.push(...Array.from({ length: batches.count }, (_, index) => numbers[index]));
  return found;
}

describe.each(Object.keys(places))('in %s', place => {
  test('RunBatches and PageBatches give the same in batches, and the limit behind the last', () => {
    fc.assert(
      fc.property(walk, ({ words, from, part }) => {
        const bitmap = places[place](words);
        const limit = Math.max(from, Math.floor(bitmap.length * 32 * part));
        const expected = naiveRuns(toBits(bitmap), from, limit);
        const runBatches = new RunBatches(bitmap, from, limit);
        expect(gather(runBatches, runBatches.edges)).toEqual(expected.flatMap(run => [run.start, run.end]));
        expect([runBatches.next(), runBatches.count, ...runBatches.edges.subarray(0, 2)]).toEqual([
          false,
          0,
          limit,
          limit,
        ]);
        const pageBatches = new PageBatches(bitmap, from, limit);
        expect(gather(pageBatches, pageBatches.pages)).toEqual([...pages(bitmap, from, limit)]);
        expect([pageBatches.next(), pageBatches.count, pageBatches.pages[0]]).toEqual([false, 0, limit]);
      }),
      { numRuns: 25 },
    );
  });
});

test('several walks at once do not disturb each other, nor does clearing what was walked', () => {
  const bitmap = new Uint32Array(9000).fill(0x0f0f0f0f);
  const expected = naiveRuns(toBits(bitmap), 0, bitmap.length * 32);
  const first = new RunCursor(bitmap, 0, bitmap.length * 32);
  const second = new RunCursor(bitmap, 0, bitmap.length * 32);
  for (const run of expected) {
    expect([first.next(), first.start, first.end]).toEqual([true, run.start, run.end]);
    expect([second.next(), second.start, second.end]).toEqual([true, run.start, run.end]);
    bitmap[Math.floor(run.start / 32)] &= ~(0xf << (run.start & 31));
  }
  expect(first.next() || second.next()).toBe(false);
});

test('one run over everything is one run', () => {
  const bitmap = new Uint32Array(20_000).fill(0xffffffff);
  expect([...runs(bitmap)]).toEqual([{ start: 0, end: 640_000 }]);
  expect([...runs(bitmap, 5, 639_999)]).toEqual([{ start: 5, end: 639_999 }]);
});

test('pages() and listPages() give the set bits, the list as many as it holds', () => {
  const bitmap = new Uint32Array(1000);
  bitmap[0] = 0b1010;
  bitmap[999] = 0x80000000;
  expect([...pages(bitmap)]).toEqual([1, 3, 31_999]);
  const list = new Uint32Array(2);
  expect(listPages(bitmap, 0, 32_000, list)).toBe(2);
  expect([...list]).toEqual([1, 3]);
  expect(listPages(bitmap, 4, 32_000, new Float64Array(5))).toBe(1);
  expect(listPages(bitmap, 9, 9, new Float64Array(5))).toBe(0);
});

test('beyond 2^31, where the kernels do not go, walks find the same', () => {
  const words = new Uint32Array(2 ** 26 + 4);
  const base = 2 ** 31;
  for (const word of [base / 32 - 1, base / 32]) words[word] = 0x80000001;
  const found: number[] = [];
  const cursor = new PageCursor(words, base - 32, base + 64);
  while (cursor.next()) found.push(cursor.page);
  expect(found).toEqual([base - 32, base - 1, base, base + 31]);
  expect([...runs(words, 2 ** 30, base + 64)]).toEqual([
    { start: base - 32, end: base - 31 },
    { start: base - 1, end: base + 1 },
    { start: base + 31, end: base + 32 },
  ]);
  expect([...pages(words, base + 1, base + 128)]).toEqual([base + 31]);
});
