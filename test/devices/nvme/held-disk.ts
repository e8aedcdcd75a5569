import type { Disk } from '../../../src/devices/nvme/index.js';

/** A disk in memory whose accesses can be held back, or fail. */
export class HeldDisk implements Disk {
  readonly readOnly = false;
  readonly bytes: Uint8Array;
  readonly content: Uint8Array | undefined;
  /** While set, accesses wait for {@link HeldDisk.release}. */
  held = false;
  /** While set, accesses fail with it: `'throw'` at once, `'reject'` later. */
  failure: { error: Error; how: 'throw' | 'reject' } | undefined;
  /** Flushes so far. */
  flushes = 0;
  /** What was asked for, in order. */
  readonly accesses: string[] = [];
  /** Where reads began, in order. */
  readonly readOffsets: number[] = [];
  #waiting: (() => void)[] = [];

  /** @param where whether the content migrates with the controller, or is elsewhere */
  constructor(size: number, where: 'here' | 'elsewhere' = 'here') {
    this.bytes = new Uint8Array(size);
    this.content = where === 'here' ? this.bytes : undefined;
  }

  get size(): number {
    return this.bytes.length;
  }

  /** How many accesses wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  release(): void {
    this.held = false;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    this.readOffsets.push(offset);
    return this.#access('read', () => into.set(this.bytes.subarray(offset, offset + into.length)));
  }

  write(offset: number, from: Uint8Array): void | Promise<void> {
    return this.#access('write', () => this.bytes.set(from, offset));
  }

  zero(offset: number, length: number): void | Promise<void> {
    return this.#access('zero', () => this.bytes.fill(0, offset, offset + length));
  }

  trim(offset: number, length: number): void | Promise<void> {
    return this.#access('trim', () => this.bytes.fill(0, offset, offset + length));
  }

  flush(): void | Promise<void> {
    this.flushes++;
    return this.#access('flush', () => {});
  }

  close(): void {}

  #access(kind: string, act: () => unknown): void | Promise<void> {
    this.accesses.push(kind);
    if (this.failure?.how === 'throw') throw this.failure.error;
    if (this.failure !== undefined) return Promise.reject(this.failure.error);
    if (this.held) {
      return new Promise<void>(resolve => this.#waiting.push(resolve)).then(() => {
        act();
      });
    }
    act();
    return undefined;
  }
}
