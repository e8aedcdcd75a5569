import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ConvergenceLimits, decide } from '../../src/migration/index.js';

const unlimited = Number.POSITIVE_INFINITY;
const limits: ConvergenceLimits = {
  downtimeLimitMs: 300,
  maxPasses: unlimited,
  maxMs: unlimited,
  maxBytes: unlimited,
  onStall: 'abort',
};

/** What is decided after passes with these estimates. */
function decided(
  estimatesMs: number[],
  own: Partial<ConvergenceLimits> = {},
  known: { dirtyPages?: number; elapsedMs?: number; bytesSent?: number } = {},
) {
  return decide({ estimatesMs, dirtyPages: 10_000, elapsedMs: 1000, bytesSent: 1e9, ...known }, { ...limits, ...own });
}

describe('the decision after a pass', () => {
  it('is to switch when the rest fits the limit, to the millisecond', () => {
    expect(decided([900, 300])).toMatchObject({ action: 'switch', stoppedBy: 'fits' });
    expect(decided([900, 300.1])).toMatchObject({ action: 'pass' });
    expect(decided([900, Number.NaN])).toMatchObject({ action: 'pass' });
  });

  it('is another pass after the first, whose long runs say nothing of scattered pages, unless hardly any are left', () => {
    expect(decided([100])).toMatchObject({ action: 'pass' });
    expect(decided([100], {}, { dirtyPages: 256 })).toMatchObject({ action: 'switch', stoppedBy: 'fits' });
    expect(decided([100], { maxPasses: 1 })).toMatchObject({ action: 'switch', stoppedBy: 'fits' });
  });

  it('is that it has stalled when the best of the last three is more than 90 % of the best before', () => {
    expect(decided([900, 700, 640, 630, 620, 610])).toMatchObject({ action: 'give-up', stoppedBy: 'stalled' });
    expect(decided([900, 700, 640, 630, 620, 576])).toMatchObject({ action: 'pass' });
    expect(decided([900, 890, 880])).toMatchObject({ action: 'pass' });
    expect(decided([900, 890, 880, 870])).toMatchObject({ action: 'give-up', stoppedBy: 'stalled' });
  });

  it.each([
    ['passes', { maxPasses: 2 }],
    ['time', { maxMs: 1000 }],
    ['bytes', { maxBytes: 1e9 }],
  ] as const)('says that the limit of %s ended it', (stoppedBy, limit) => {
    expect(decided([900, 800], limit)).toMatchObject({ action: 'give-up', stoppedBy });
    expect(decided([900, 800], { ...limit, onStall: 'stop' })).toMatchObject({ action: 'switch', stoppedBy });
    expect(decided([900, 800], { ...limit, onStall: 'wait' })).toMatchObject({ action: 'give-up', stoppedBy });
  });

  it('is to stop the machine anyway, or to wait a moment and go on, when that was asked for', () => {
    const stalled = [900, 900, 900, 900];
    expect(decided(stalled, { onStall: 'stop' })).toMatchObject({ action: 'switch', stoppedBy: 'stalled' });
    expect(decided(stalled, { onStall: 'wait' })).toMatchObject({ action: 'pass', afterMs: 100 });
    expect(decided([900, 800], { onStall: 'wait' })).toMatchObject({ action: 'pass', afterMs: 0 });
  });

  it('gives its reason in words', () => {
    const { reason } = decided([900, 800], { maxPasses: 2 }) as { reason: string };
    expect(reason).toBe('2 passes are done, the most allowed, and the rest would take 800 ms; the limit is 300 ms');
  });

  it('comes to an end whatever the estimates are, unless asked to wait', () => {
    fc.assert(
      fc.property(
        fc.infiniteStream(fc.double({ min: 1, max: 1e6, noNaN: true })),
        fc.constantFrom('abort' as const, 'stop' as const),
        (estimates, onStall) => {
          const history: number[] = [];
          // An estimate of 1e6 falls below 1 in 132 steps of 10 %, and each may take three passes.
          for (let pass = 0; pass < 400; pass++) {
            history.push(estimates.next().value);
            if (decided(history, { onStall }).action !== 'pass') return;
          }
          expect.fail('it never ended');
        },
      ),
    );
  });
});
