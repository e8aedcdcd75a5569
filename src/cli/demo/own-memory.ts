import { readFileSync } from 'node:fs';

/** How often it looks, milliseconds. */
const LOOK_MS = 50;

/**
 * Watches what memory this process has beside the guest's. Guest memory is a memory file, and Linux counts pages of such files that are mapped
 * for themselves (proc(5), RssShmem); those that were only read and written by system calls it does not count at all.
 */
export class OwnMemory {
  #most = 0;

  /** Watches for as long as the process lives, and does not keep it alive. */
  constructor() {
    setInterval(() => this.#look(), LOOK_MS).unref();
  }

  /** The most that it had at any time, bytes. */
  get most(): number {
    this.#look();
    return this.#most;
  }

  #look(): void {
    const status = readFileSync('/proc/self/status', 'utf8');
    this.#most = Math.max(this.#most, sizeOf('RssAnon', status) + sizeOf('RssFile', status));
  }
}

function sizeOf(name: string, status: string): number {
  const [, kibibytes] = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status) ?? [];
  return Number(kibibytes ?? 0) * 1024;
}
