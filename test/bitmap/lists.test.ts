import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BitmapMemory, type Keeping, TwoLevelBitmap, twoLevelBytes } from '../../src/bitmap/index.js';

/*
 * Lists of pages against a set: any numbers, in any order and again and again, for any segments; on bitmaps that are clean,
 * full, and drained in part before. Lists go to vectors of four, so their lengths matter, and where they change segments.
 */

const PAGES = 2 * 32768 + 512;
const MOST_LISTED = 70;
const MOST_SEGMENTS = 6;

/** Segments of `lengths` pages, `gaps` apart; each one's bits begin on a border of blocks. */
function segmentsOf(start: number, parts: readonly { gap: number; length: number }[]) {
  let page = start;
  let bit = 0;
  const segments = parts.map(({ gap, length }) => {
    const segment = { first: page + gap, behind: page + gap + length, origin: bit };
    page = segment.behind;
    bit += Math.ceil(length / 512) * 512;
    return segment;
  });
  return segments.filter(({ origin, first, behind }) => origin + behind - first <= PAGES);
}

const scene = fc
  .record({
    start: fc.constantFrom(0, 1, 1000, 2 ** 31 - 100, 2 ** 32 - 100, 2 ** 52 - 100, 2 ** 53 - 2 ** 19),
    parts: fc.array(
      fc.record({
        gap: fc.constantFrom(0, 1, 3, 1000),
        length: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 40_000 })),
      }),
      { maxLength: MOST_SEGMENTS },
    ),
  })
  .map(({ start, parts }) => ({ start, segments: segmentsOf(start, parts) }));

const oddNumber = fc.oneof(
  fc.constantFrom(Number.NaN, -Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0),
  fc.constantFrom(-1, -0.5, -Number.MIN_VALUE, Number.MIN_VALUE, 2 ** 31, 2 ** 32, 2 ** 52, 2 ** 53, 2 ** 63, 2 ** 64),
  fc.double(),
);

/** Numbers in, beside and between the segments; fractions where a number can have them; others. */
const listed = (segments: ReturnType<typeof segmentsOf>) => {
  if (segments.length === 0) return oddNumber;
  const inSegment = fc.constantFrom(...segments).chain(({ first, behind }) =>
    fc.oneof(
      fc.constantFrom(first - 1, first, first + 0.5, behind - 1, behind - 0.5, behind),
      fc.integer({ min: 0, max: Math.min(behind - first, 40) }).map(ahead => first + ahead),
      fc.double({ min: first, max: behind, noNaN: true }),
    ),
  );
  return fc.oneof({ weight: 6, arbitrary: inSegment }, { weight: 1, arbitrary: oddNumber });
};

const step = (segments: ReturnType<typeof segmentsOf>) =>
  fc.oneof(
    { weight: 4, arbitrary: fc.array(listed(segments), { maxLength: MOST_LISTED }) },
    { weight: 1, arbitrary: fc.record({ from: fc.nat(PAGES - 1), count: fc.integer({ min: 1, max: PAGES }) }) },
  );

const story = scene.chain(({ segments }) =>
  fc.record({ segments: fc.constant(segments), steps: fc.array(step(segments), { minLength: 1, maxLength: 8 }) }),
);

describe.each<Keeping>(['one-writer', 'exchange', 'generations'])('kept as %s', keeping => {
  test('a list marks the pages of the segments that its numbers lie in, and nothing else', () => {
    const memory = BitmapMemory.create(twoLevelBytes(PAGES, keeping) + 2 ** 16);
    const bitmap = TwoLevelBitmap.create(memory, PAGES, keeping);
    const target = memory.createBitmap(PAGES);
    const list = new Float64Array(memory.memory.buffer, memory.allocate(8 * MOST_LISTED), MOST_LISTED);
    const table = new Float64Array(memory.memory.buffer, memory.allocate(24 * MOST_SEGMENTS), 3 * MOST_SEGMENTS);
    const drained = (from: number, count: number) => {
      target.fill(0);
      bitmap.drain(from, count, target.byteOffset, from);
      const found: number[] = [];
      for (const [index, word] of target.entries()) {
        for (let bit = 0; bit < 32; bit++) if ((word >>> bit) & 1) found.push(index * 32 + bit);
      }
      return found;
    };
    fc.assert(
      fc.property(story, ({ segments, steps }) => {
        table.set(segments.flatMap(({ first, behind, origin }) => [first, behind, origin - first]));
        drained(0, PAGES);
        const marked = new Set<number>();
        for (const step of steps) {
          if (Array.isArray(step)) {
            list.fill(segments[0]?.first ?? 0);
            list.set(step);
            memory.kernels.markList(list.byteOffset, step.length, table.byteOffset, segments.length);
            for (const number of step) {
              const segment = segments.find(({ first, behind }) => number >= first && number < behind);
              if (segment !== undefined) marked.add(Math.floor(number) - segment.first + segment.origin);
            }
          } else {
            const end = Math.min(step.from + step.count, PAGES);
            const expected = [...marked].filter(page => page >= step.from && page < end);
            expect(drained(step.from, end - step.from)).toEqual(expected.sort((a, b) => a - b));
            for (const page of expected) marked.delete(page);
          }
          expect(bitmap.count(0, PAGES)).toBe(marked.size);
        }
        expect(drained(0, PAGES)).toEqual([...marked].sort((a, b) => a - b));
      }),
      { numRuns: 300 },
    );
  });
});
