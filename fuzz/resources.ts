import { readFileSync } from 'node:fs';
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

/** Memory of this process that is resident, bytes, after garbage collection where that can be asked for. */
export function residentBytes(): number {
  (globalThis as { gc?: () => void }).gc?.();
  return process.memoryUsage.rss();
}
