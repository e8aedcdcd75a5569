import { workerData } from 'node:worker_threads';
import type { CrewMember } from './threads.js';

/** Runs `work` in a thread of a crew: when all are ready, and says when it is done. */
export function workInCrew<Data>(prepare: (data: Data) => () => void): void {
  const { signals, data } = workerData as CrewMember<Data>;
  const work = prepare(data);
  Atomics.add(signals, 0, 1);
  Atomics.wait(signals, 1, 0);
  work();
  Atomics.add(signals, 2, 1);
}
