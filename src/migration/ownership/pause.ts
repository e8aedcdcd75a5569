import { setTimeout as delay } from 'node:timers/promises';

/** Waits before the next question. It ends early, and quietly, when the signal says so. */
export type Pause = (attempt: number, signal: AbortSignal | undefined) => Promise<void>;

const SHORTEST_MS = 50;
const LONGEST_MS = 1000;

/** 50 ms, 100, 200… up to one second: a store that returns is noticed soon, one that does not is not stormed. */
export const backOff: Pause = async (attempt, signal) => {
  const milliseconds = Math.min(LONGEST_MS, SHORTEST_MS * 2 ** Math.min(attempt, 10));
  await delay(milliseconds, undefined, signal === undefined ? {} : { signal }).catch(() => {});
};
