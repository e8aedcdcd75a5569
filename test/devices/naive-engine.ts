import type { TestRegion } from './engine-host.js';

/*
 * The engine's commands, byte by byte over a plain array. A chunk of 64 KiB is moved wholly or not at all; a command ends at the first chunk
 * that cannot be moved.
 */

export interface NaiveResult {
  errno: 'EFAULT' | 'EOVERFLOW' | 'EINVAL' | undefined;
  done: bigint;
}

const CHUNK = 65536n;

export class NaiveEngine {
  readonly memory: Uint8Array;
  readonly #regions: readonly TestRegion[];
  /** Page numbers of all bytes written. */
  readonly dirty = new Set<bigint>();

  constructor(memory: Uint8Array, regions: readonly TestRegion[]) {
    this.memory = memory;
    this.#regions = regions;
  }

  copy(source: bigint, destination: bigint, length: bigint): NaiveResult {
    if (source + length > 2n ** 64n || destination + length > 2n ** 64n) return { errno: 'EOVERFLOW', done: 0n };
    const backwards = source < destination && destination < source + length;
    let done = 0n;
    while (done < length) {
      const size = length - done < CHUNK ? length - done : CHUNK;
      const offset = backwards ? length - done - size : done;
      const from = this.#places(source + offset, size, 'readable');
      const to = this.#places(destination + offset, size, 'writable');
      if (from === undefined || to === undefined) return { errno: 'EFAULT', done };
      const bytes = from.map(place => this.memory[place]!);
      this.#store(destination + offset, to, index => bytes[index]!);
      done += size;
    }
    return { errno: undefined, done };
  }

  fill(destination: bigint, length: bigint, pattern: bigint): NaiveResult {
    if (destination + length > 2n ** 64n) return { errno: 'EOVERFLOW', done: 0n };
    let done = 0n;
    while (done < length) {
      const size = length - done < CHUNK ? length - done : CHUNK;
      const to = this.#places(destination + done, size, 'writable');
      if (to === undefined) return { errno: 'EFAULT', done };
      const start = done;
      this.#store(destination + done, to, index => byteOf(pattern, Number((start + BigInt(index)) % 8n)));
      done += size;
    }
    return { errno: undefined, done };
  }

  /** The list is read from memory, entry by entry, so that an entry may overwrite those behind it. */
  scatter(list: bigint, entries: number): NaiveResult {
    for (let entry = 0; entry < entries; entry++) {
      const done = BigInt(entry);
      const head = this.#places(list + done * 16n, 16n, 'readable');
      if (head === undefined) return { errno: 'EFAULT', done };
      const field = (from: number, size: number) =>
        head.slice(from, from + size).reduceRight((sum, place) => sum * 256n + BigInt(this.memory[place]!), 0n);
      const [iova, length, value] = [field(0, 8), field(8, 4), field(12, 4)];
      if (length > CHUNK) return { errno: 'EINVAL', done };
      const to = this.#places(iova, length, 'writable');
      if (to === undefined) return { errno: 'EFAULT', done };
      this.#store(iova, to, index => byteOf(value, index % 4));
    }
    return { errno: undefined, done: BigInt(entries) };
  }

  #store(iova: bigint, places: readonly number[], byte: (index: number) => number): void {
    for (const [index, place] of places.entries()) {
      this.memory[place] = byte(index);
      this.dirty.add((iova + BigInt(index)) / 4096n);
    }
  }

  /** Where each byte of an interval lies in memory; `undefined` when one may not be touched. */
  #places(iova: bigint, length: bigint, right: 'readable' | 'writable'): number[] | undefined {
    const places: number[] = [];
    for (let at = iova; at < iova + length; ) {
      const region = this.#regions.find(one => at >= one.iova && at < one.iova + BigInt(one.length));
      if (region === undefined || !region[right]) return undefined;
      const offset = Number(at - region.iova);
      const count = Math.min(region.length - offset, Number(iova + length - at));
      for (let index = 0; index < count; index++) places.push(region.offset + offset + index);
      at += BigInt(count);
    }
    return places;
  }
}

function byteOf(value: bigint, index: number): number {
  return Number((value >> BigInt(8 * index)) & 0xffn);
}
