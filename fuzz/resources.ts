import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { openFdCount } from '../src/native/index.js';

/** What a peer might make this process keep. */
export interface Resources {
  /** Open descriptors. */
  readonly fds: number;
  /** Mappings of memory files. */
  readonly mappings: number;
}

export function resources(): Resources {
  const maps = readFileSync('/proc/self/maps', 'latin1');
  return { fds: openFdCount(), mappings: maps.split('memfd:').length - 1 };
}

/** Whether there is nothing more, and nothing less, than before. */
export function sameResources(before: Resources): boolean {
  // The cheap one first: this is asked again and again until it holds.
  if (openFdCount() !== before.fds) return false;
  return resources().mappings === before.mappings;
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** What this process's JavaScript holds on to, buffers included, bytes. */
export function heldBytes(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
