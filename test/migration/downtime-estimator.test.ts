import { describe, expect, it } from 'vitest';
import { DowntimeEstimator } from '../../src/migration/source/downtime-estimator.js';
import type { PassReport } from '../../src/migration/source/migration-report.js';

function pass(pagesSent: number, durationMs: number): PassReport {
  return { ...({} as PassReport), pagesSent, durationMs };
}

/** Everything measured once, at 1 ms a page. */
function measured(): DowntimeEstimator {
  const estimator = new DowntimeEstimator();
  estimator.passSent(pass(1000, 1000));
  estimator.devicesAsked(2);
  estimator.stateAsked(0, 3);
  estimator.logsRead(1);
  return estimator;
}

describe('what is measured for the estimate of downtime', () => {
  it('takes the middle one of the latest passes that were long enough, the first among them', () => {
    const estimator = measured();
    expect(estimator.estimate(100, 0).memoryMs).toBeCloseTo(100);
    estimator.passSent(pass(255, 25));
    expect(estimator.estimate(100, 0).memoryMs).toBeCloseTo(100);
    estimator.passSent(pass(256, 768));
    expect(estimator.estimate(100, 0).memoryMs).toBeCloseTo(100);
    estimator.passSent(pass(256, 512));
    expect(estimator.estimate(100, 0).memoryMs).toBeCloseTo(200);
    estimator.passSent(pass(256, 1024));
    expect(estimator.estimate(100, 0).memoryMs).toBeCloseTo(300);
  });

  it('takes a device to save and to load in the middle between the first time it went over its state and later ones', () => {
    const estimator = measured();
    for (let count = 0; count < 5; count++) estimator.stateAsked(0, 1);
    expect(estimator.estimate(0, 0)).toMatchObject({ pauseMs: 2 * 2 + 2, loadMs: 2 + 2 * 2 });
    for (let count = 0; count < 5; count++) estimator.stateAsked(0, 10);
    expect(estimator.estimate(0, 0)).toMatchObject({ pauseMs: 2 * 2 + 10, loadMs: 2 + 2 * 10 });
  });

  it('takes the destination to be as fast as the devices here where it does not say', () => {
    const estimator = measured();
    estimator.destinationAnswers(undefined);
    expect(estimator.estimate(0, 0).resumeMs).toBe(3 * 2);
    estimator.destinationAnswers(7);
    expect(estimator.estimate(0, 0).resumeMs).toBe(3 * 7);
  });

  it('knows how long a stop takes once there was one', () => {
    const estimator = measured();
    estimator.devicesStopped(40);
    expect(estimator.estimate(0, 0).pauseMs).toBe(40);
  });
});
