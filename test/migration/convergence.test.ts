import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decide, estimateDowntimeMs } from '../../src/migration/index.js';

describe('the estimate of downtime', () => {
  it('is that of the worked example', () => {
    const parts = { dirtyBytes: 12_000 * 4096, stateBytes: 1_000_000, bytesPerSecond: 900e6, fixedMs: 6 };
    expect(estimateDowntimeMs(parts)).toBeCloseTo(61.7, 1);
  });

  it('grows with everything but the link', () => {
    const amount = fc.integer({ min: 0, max: 1e9 });
    fc.assert(
      fc.property(
        amount,
        amount,
        fc.integer({ min: 1, max: 1e9 }),
        amount,
        amount,
        (dirty, state, speed, fixed, more) => {
          const parts = { dirtyBytes: dirty, stateBytes: state, bytesPerSecond: speed, fixedMs: fixed };
          const now = estimateDowntimeMs(parts);
          expect(estimateDowntimeMs({ ...parts, dirtyBytes: dirty + more })).toBeGreaterThanOrEqual(now);
          expect(estimateDowntimeMs({ ...parts, stateBytes: state + more })).toBeGreaterThanOrEqual(now);
          expect(estimateDowntimeMs({ ...parts, bytesPerSecond: speed + more })).toBeLessThanOrEqual(now);
        },
      ),
    );
  });
});

describe('the decision after a pass', () => {
  const limits = { downtimeLimitMs: 300, maxPasses: 5 };
  it.each([
    [300, 1, 'switch'],
    [300, 5, 'switch'],
    [300.1, 4, 'pass'],
    [300.1, 5, 'give-up'],
    [Number.POSITIVE_INFINITY, 1, 'pass'],
    [Number.NaN, 5, 'give-up'],
  ])('with %d ms expected after %d passes is %s', (estimate, passes, decision) => {
    expect(decide(estimate, passes, limits)).toBe(decision);
  });
});
