import { readdirSync, readlinkSync } from 'node:fs';

/** What this process has open, by name: where a number alone would not say what was left behind. */
export function openFiles(): string[] {
  return readdirSync('/proc/self/fd')
    .flatMap(fd => {
      try {
        return [readlinkSync(`/proc/self/fd/${fd}`)];
      } catch {
        // The descriptor that lists them.
        return [];
      }
    })
    .sort();
}
