import { performance } from 'node:perf_hooks';
import type { MachineMemory } from '../memory/machine-memory.js';
import { CompressionChoice } from './compression-choice.js';
import { compressMemoryBlock, contentPagesOf, encodeMemoryBlock, trySample } from './memory-block.js';
import type { PageList } from './page-list.js';

/**
 * Whether memory is compressed. `auto`: where measuring says that it takes less time than it saves. `lz4`: always, but for blocks that do not
 * become smaller. `off`: never.
 */
export type Compression = 'auto' | 'off' | 'lz4';

/** All values of {@link Compression}. */
export const COMPRESSIONS: readonly Compression[] = ['auto', 'off', 'lz4'];

/** Makes the payloads of MEMORY frames for one connection, in any thread: what it has learnt of the connection is all in here. */
export class MemoryEncoder {
  #memory: MachineMemory;
  readonly #compression: Compression;
  readonly #choice = new CompressionChoice();
  #zeroPages = 0;
  #savedBytes = 0;

  constructor(memory: MachineMemory, compression: Compression = 'auto') {
    this.#memory = memory;
    this.#compression = compression;
  }

  /** Lists mean this memory from now on. */
  useMemory(memory: MachineMemory): void {
    this.#memory = memory;
  }

  /** Pages so far that were zero, and only named. */
  get zeroPages(): number {
    return this.#zeroPages;
  }

  /** Bytes so far that compression has saved. */
  get savedBytes(): number {
    return this.#savedBytes;
  }

  /** Writes the payload for a list of pages, memory as it is now. @returns its size, at most MAX_PAYLOAD bytes */
  encode(list: PageList, into: Uint8Array): number {
    const mayCompress =
      this.#compression === 'lz4' || (this.#compression === 'auto' && this.#choice.next(performance.now()));
    const size = encodeMemoryBlock(this.#memory, list, into);
    const contentPages = contentPagesOf(into);
    this.#zeroPages += list.pages - contentPages;
    if (mayCompress && contentPages > 0) {
      if (this.#compression === 'lz4' || this.#choice.compresses) return this.#compress(into, size);
      this.#try(into.subarray(0, size));
    }
    this.#choice.sentPlain(size);
    return size;
  }

  /** Sending rests: call it before waiting for anything but the connection. */
  rest(): void {
    this.#choice.rest();
  }

  /** A whole block each time would take 60 MiB for what the garbage collector has not come to yet. */
  #try(payload: Uint8Array): void {
    const startedAt = performance.now();
    const { before, after } = trySample(payload);
    this.#choice.tried(before, after, startedAt, performance.now());
  }

  #compress(into: Uint8Array, size: number): number {
    const startedAt = performance.now();
    const compressed = compressMemoryBlock(into.subarray(0, size));
    this.#choice.sentCompressed(size, compressed, startedAt, performance.now());
    this.#savedBytes += size - compressed;
    return compressed;
  }
}
