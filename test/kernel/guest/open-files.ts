import { readdirSync, readlinkSync } from 'node:fs';

/**
 * What this process has open, by name: where a number alone would not say what was left behind. Without this project's own files, which Node
 * reads while the first tests run.
 */
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
    .filter(name => !name.startsWith(`${process.cwd()}/`))
    .sort();
}
