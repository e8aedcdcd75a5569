import { type SharedLog, SharedRecorder } from '../../src/log/index.js';
import { workInCrew } from './crew-member.js';

/* A device's thread that says how far it is: in each pass it records every page once, in order. */

export interface PassWriter {
  readonly shared: SharedLog;
  readonly pages: number;
  readonly passes: number;
  /** Index 0: how many records of this pass are complete. 1: how many passes may be done. */
  readonly progress: Int32Array;
}

workInCrew<PassWriter>(({ shared, pages, passes, progress }) => {
  const recorder = SharedRecorder.attach(shared);
  return () => {
    for (let pass = 0; pass < passes; pass++) {
      Atomics.wait(progress, 1, pass);
      for (let page = 0; page < pages; page++) {
        recorder.record(page * 4096, 1);
        Atomics.store(progress, 0, page + 1);
      }
    }
  };
});
