import { MemoryDisk } from '../../../src/devices/nvme/index.js';

/** A disk in memory whose reads and writes can be held back, or fail. */
export class HeldDisk extends MemoryDisk {
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

  /** A disk whose content does not migrate. */
  static elsewhere(size: number): HeldDisk {
    const disk = new HeldDisk(size);
    Object.defineProperty(disk, 'content', { value: undefined });
    return disk;
  }

  /** How many accesses wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  release(): void {
    this.held = false;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  override read(offset: number, into: Uint8Array): void | Promise<void> {
    this.readOffsets.push(offset);
    return this.#access('read', () => super.read(offset, into));
  }

  override write(offset: number, from: Uint8Array): void | Promise<void> {
    return this.#access('write', () => super.write(offset, from));
  }

  override zero(offset: number, length: number): void | Promise<void> {
    return this.#access('zero', () => super.zero(offset, length));
  }

  override flush(): void | Promise<void> {
    this.flushes++;
    return this.#access('flush', () => {});
  }

  #access(kind: string, act: () => void): void | Promise<void> {
    this.accesses.push(kind);
    if (this.failure?.how === 'throw') throw this.failure.error;
    if (this.failure !== undefined) return Promise.reject(this.failure.error);
    if (!this.held) return act();
    return new Promise<void>(resolve => this.#waiting.push(resolve)).then(act);
  }
}
