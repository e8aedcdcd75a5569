import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DowntimeMeasurements, DowntimeWatch, estimateDowntime } from '../../src/migration/index.js';

const example: DowntimeMeasurements = {
  dirtyPages: 6000,
  dirtyPagesPerSecond: 20_000,
  msPerPage: 0.0052,
  stateBytes: 1e6,
  stateBytesPerMs: 250_000,
  requestMs: 1,
  sizeMs: 3,
  destinationRequestMs: 0.5,
  lastPauseMs: undefined,
  logMs: 2,
  roundTripMs: 0.2,
  storeMs: 0,
};

describe('the estimate of downtime', () => {
  it('is that of the worked example', () => {
    const estimate = estimateDowntime(example);
    expect(estimate.memoryMs).toBeCloseTo(32.1, 1);
    expect(estimate).toMatchObject({ pauseMs: 5, logMs: 2, stateMs: 6, loadMs: 10.5, resumeMs: 1.5, switchMs: 1.4 });
    expect(estimate.totalMs).toBeCloseTo(58.5, 1);
  });

  it('counts the last stop instead of a guess', () => {
    expect(estimateDowntime({ ...example, lastPauseMs: 30 }).pauseMs).toBe(30);
  });

  it('counts what the destination does by how fast its own devices answer', () => {
    const [near, far] = [example, { ...example, destinationRequestMs: 10.5 }].map(estimateDowntime);
    const { pauseMs, logMs, memoryMs, stateMs } = near!;
    expect(far).toMatchObject({ pauseMs, logMs, memoryMs, stateMs });
    // Loaded by one request, started by three; one to give the states, one before the machine is taken.
    expect(far!.loadMs - near!.loadMs).toBeCloseTo(10);
    expect(far!.resumeMs - near!.resumeMs).toBeCloseTo(30);
    expect(far!.switchMs - near!.switchMs).toBeCloseTo(20);
  });

  it('grows with everything that it is made of, but for the speed of state', () => {
    const names = [
      'dirtyPages',
      'dirtyPagesPerSecond',
      'msPerPage',
      'stateBytes',
      'requestMs',
      'sizeMs',
      'destinationRequestMs',
      'logMs',
      'roundTripMs',
      'storeMs',
    ] as const;
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.double({ min: 0, max: 1e6, noNaN: true }), (name, more) => {
        const grown = estimateDowntime({ ...example, [name]: example[name] + more });
        expect(grown.totalMs).toBeGreaterThanOrEqual(estimateDowntime(example).totalMs);
      }),
    );
    const faster = estimateDowntime({ ...example, stateBytesPerMs: 500_000 });
    expect(faster.totalMs).toBeLessThan(estimateDowntime(example).totalMs);
  });
});

describe('a downtime that is measured', () => {
  it('has parts that add up to it', () => {
    const watch = new DowntimeWatch();
    watch.start(1000);
    watch.lap('pauseMs', 1003);
    watch.lap('logMs', 1004);
    watch.lap('memoryMs', 1024);
    watch.lap('stateMs', 1030);
    watch.lapElsewhere('loadMs', 7, 1038);
    watch.skip(1500);
    watch.lapElsewhere('resumeMs', 2, 1505);
    expect(watch.downtime).toEqual({
      pauseMs: 3,
      logMs: 1,
      memoryMs: 20,
      stateMs: 6,
      loadMs: 7,
      resumeMs: 2,
      switchMs: 4,
      totalMs: 43,
    });
  });

  it('never counts more of another clock than has gone by on this one', () => {
    const watch = new DowntimeWatch();
    watch.start(0);
    watch.lapElsewhere('loadMs', 1e9, 5);
    expect(watch.downtime).toMatchObject({ loadMs: 5, switchMs: 0, totalMs: 5 });
  });

  it('forgets a stop that came to nothing', () => {
    const watch = new DowntimeWatch();
    watch.start(0);
    watch.lap('pauseMs', 5);
    watch.start(100);
    watch.lap('pauseMs', 101);
    expect(watch.downtime.totalMs).toBe(1);
  });
});
