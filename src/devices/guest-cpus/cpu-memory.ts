import { type SharedMapping, viewShared, WINDOW_SIZE } from '../../native/index.js';
import type { WorkloadMemory } from '../workload/index.js';
import type { CpuThreadData } from './cpu-messages.js';

/**
 * Guest memory as a CPU's thread reaches it: loads and stores of its own, in place. An access must not cross a window, as no aligned page does.
 */
export class CpuMemory implements WorkloadMemory {
  readonly #memory: SharedMapping;
  readonly #origin: number;
  readonly #windows: Uint8Array[] = [];
  readonly #stored: (iova: number, length: number) => void;

  /** @param stored is told of each store when its bytes are in memory */
  constructor(
    { memory, origin }: Pick<CpuThreadData, 'memory' | 'origin'>,
    stored: (iova: number, length: number) => void,
  ) {
    this.#memory = memory;
    this.#origin = origin;
    this.#stored = stored;
  }

  read(iova: number, into: Uint8Array): void {
    into.set(this.#view(iova, into.length));
  }

  write(iova: number, from: Uint8Array): void {
    this.#view(iova, from.length).set(from);
    this.#stored(iova, from.length);
  }

  #view(iova: number, length: number): Uint8Array {
    const offset = iova + this.#origin;
    const index = Math.floor(offset / WINDOW_SIZE);
    const start = offset - index * WINDOW_SIZE;
    return this.#window(index).subarray(start, start + length);
  }

  #window(index: number): Uint8Array {
    const start = index * WINDOW_SIZE;
    this.#windows[index] ??= viewShared(this.#memory, start, Math.min(WINDOW_SIZE, this.#memory.length - start));
    return this.#windows[index];
  }
}
