import { DmaLog } from '../../src/log/index.js';
import { workInCrew } from './crew-member.js';
import { trackAndReport } from './tracker-work.js';

/* A tracker in a thread: a log of its own, reported into the bitmap of all. */

export interface Tracker {
  readonly bitmap: Uint32Array;
  readonly number: number;
  readonly trackers: number;
}

workInCrew<Tracker>(({ bitmap, number, trackers }) => {
  return () => trackAndReport(new DmaLog(), bitmap, number, trackers);
});
