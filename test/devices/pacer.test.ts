import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CATCH_UP_MS, Pacer } from '../../src/devices/workload/pacer.js';

describe('the pacer', () => {
  test('the example of the header comment holds', () => {
    const pacer = new Pacer(0);
    expect(pacer.due(4.5, 1000)).toBe(4);
    expect(pacer.due(9, 1000)).toBe(5);
    expect(pacer.due(10_009, 1000)).toBe(100);
  });

  test('without stalls, what is due in total is the rate times the time, however it is asked', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: CATCH_UP_MS, noNaN: true }), { maxLength: 200 }),
        fc.nat(1_000_000),
        (steps, rate) => {
          const pacer = new Pacer(5);
          let [now, due] = [5, 0];
          for (const step of steps) {
            now += step;
            due += pacer.due(now, rate);
          }
          expect(Math.abs(due - ((now - 5) * rate) / 1000)).toBeLessThanOrEqual(1.001);
        },
      ),
      { numRuns: 1000 },
    );
  });

  test('a rate of 0 is never due, and a clock that goes back gives nothing', () => {
    const pacer = new Pacer(100);
    expect(pacer.due(200, 0)).toBe(0);
    expect(pacer.due(150, 1000)).toBe(0);
    expect(pacer.due(160, 1000)).toBe(10);
  });

  test('after a stall no more is due than the longest time that is made up for', () => {
    const pacer = new Pacer(0);
    expect(pacer.due(1e9, 50_000)).toBe((CATCH_UP_MS * 50_000) / 1000);
  });
});
