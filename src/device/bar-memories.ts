import { VfioError } from '../uapi/index.js';
import { BarMemory } from './bar-memory.js';
import type { BarSpec } from './pci-config-space.js';

/** The mappable memory of all of a device's BARs, as one thing to reset, save and load. */
export class BarMemories {
  /** By BAR; most have none. */
  readonly #byBar: (BarMemory | undefined)[] = [];

  /**
   * @param name of the device
   * @throws VfioError as {@link BarMemory}; nothing is left open then
   */
  constructor(name: string, bars: readonly BarSpec[]) {
    try {
      for (const { index, size, mappable } of bars) {
        if (mappable !== undefined) this.#byBar[index] = new BarMemory(`${name}-bar${index}`, size, mappable);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The memory of one BAR; `undefined` when all of it is registers. */
  find(bar: number): BarMemory | undefined {
    return this.#byBar[bar];
  }

  /** @throws VfioError EINVAL for a BAR without mappable areas */
  require(bar: number): BarMemory {
    const memory = this.#byBar[bar];
    if (memory !== undefined) return memory;
    throw new VfioError('EINVAL', { operation: 'barMemory', field: 'bar', message: `BAR ${bar} has nothing to map` });
  }

  /** Bytes of what {@link BarMemories.save} gives. */
  get size(): number {
    return this.#byBar.reduce((sum, memory) => sum + (memory?.size ?? 0), 0);
  }

  /** All zeros. */
  reset(): void {
    for (const memory of this.#byBar) memory?.reset();
  }

  /** The bytes of all areas of all BARs, in the order of the BARs. */
  save(): Uint8Array {
    const bytes = new Uint8Array(this.size);
    this.#each((memory, from, to) => memory.save(bytes.subarray(from, to)));
    return bytes;
  }

  /** Takes what {@link BarMemories.save} gave, {@link BarMemories.size} bytes. */
  load(bytes: Uint8Array): void {
    this.#each((memory, from, to) => memory.load(bytes.subarray(from, to)));
  }

  #each(visit: (memory: BarMemory, from: number, to: number) => void): void {
    let from = 0;
    for (const memory of this.#byBar) {
      if (memory === undefined) continue;
      visit(memory, from, from + memory.size);
      from += memory.size;
    }
  }

  /** Closes all files. A second call does nothing. */
  close(): void {
    for (const memory of this.#byBar) memory?.close();
  }
}
