import { afterEach } from 'vitest';
import type { DirtySet } from '../../src/tracker/index.js';
import { writerWithMemory } from './writer-device.js';

/** How many pages the tests' one range of memory has. */
export const PAGES = 64;
export const range = { iova: 0n, length: BigInt(PAGES) * 4096n };

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

/** A device with that memory; closed when the test ends. */
export async function writer(options: Parameters<typeof writerWithMemory>[1] = {}) {
  const side = await writerWithMemory(PAGES * 4096, options);
  opened.push(side);
  return side;
}

/** The numbers of the dirty pages. */
export function dirtyPages(set: DirtySet): number[] {
  return [...set.runs()].flatMap(run =>
    Array.from({ length: Number(run.length / 4096n) }, (_, index) => Number(run.iova / 4096n) + index),
  );
}
