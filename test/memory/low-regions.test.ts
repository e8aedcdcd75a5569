import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LowRegions, Right } from '../../src/memory/low-regions.js';

interface Interval {
  readonly start: number;
  readonly end: number;
  readonly rights: number;
}

/** The naive twin of `find`: looks at every interval. */
function findNaive(intervals: readonly Interval[], address: number, length: number, rights: number): number {
  return intervals.findIndex(
    interval =>
      length > 0 &&
      BigInt(interval.start) <= BigInt(address) &&
      BigInt(address) + BigInt(length) <= BigInt(interval.end) &&
      (interval.rights & rights) === rights,
  );
}

test('what is found is what a search through all intervals finds, while intervals come and go', () => {
  const SPAN = 60;
  const base = fc.constantFrom(0, 2 ** 32 - 30, 2 ** 53 - SPAN);
  const put = fc.record({
    kind: fc.constant('put' as const),
    at: fc.nat(SPAN - 1),
    length: fc.integer({ min: 1, max: 4 }),
    rights: fc.constantFrom(Right.READ, Right.WRITE, Right.READ | Right.WRITE),
  });
  const take = fc.record({ kind: fc.constant('take' as const), first: fc.nat(30), count: fc.nat(5) });
  const look = fc.record({ kind: fc.constant('look' as const), at: fc.nat(SPAN - 1), length: fc.nat(6) });
  const commands = fc.array(
    fc.oneof({ weight: 5, arbitrary: put }, { weight: 1, arbitrary: take }, { weight: 5, arbitrary: look }),
    { minLength: 20, maxLength: 100 },
  );

  fc.assert(
    fc.property(base, commands, (bottom, steps) => {
      const low = new LowRegions();
      const twin: Interval[] = [];
      for (const step of steps) {
        if (step.kind === 'take') {
          low.remove(step.first, step.first + step.count);
          twin.splice(step.first, step.count);
        } else if (step.kind === 'put') {
          const interval = { start: bottom + step.at, end: bottom + step.at + step.length, rights: step.rights };
          const clear = twin.every(other => other.end <= interval.start || interval.end <= other.start);
          if (!clear || interval.end > 2 ** 53) continue;
          const index = twin.filter(other => other.start < interval.start).length;
          low.insert(index, interval.start, interval.end, interval.rights);
          twin.splice(index, 0, interval);
        } else {
          for (const rights of [Right.READ, Right.WRITE]) {
            const address = bottom + step.at;
            expect(low.find(address, step.length, rights)).toBe(findNaive(twin, address, step.length, rights));
          }
        }
      }
      for (const [index, interval] of twin.entries()) {
        expect(low.startOf(index)).toBe(interval.start);
        expect(low.find(interval.start, interval.end - interval.start, interval.rights)).toBe(index);
      }
    }),
    { numRuns: 2000 },
  );
});
