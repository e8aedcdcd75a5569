import type { MaybePromise } from '../memory/index.js';
import { createMemoryFile, Mapping, type OwnedFd } from '../native/index.js';
import { VfioError } from '../uapi/index.js';
import type { RegionArea, RegionMapping } from './device.js';

const PAGE_SIZE = 4096;

/** What an access does with the bytes `[from, to)` of its own, which lie at `offset` of the BAR. */
type PartAccess = (offset: number, from: number, to: number) => MaybePromise<void>;

/**
 * Areas of a BAR that a client may map: a memory file as large as the BAR, so that an offset is the same in both. What lies between the
 * areas stays with the device's registers.
 *
 * Example: a BAR of 16 KiB with the one area { offset: 4096, size: 8192 }. An access of 8 bytes at 4092 is cut in two: bytes 0 to 3 are the
 * registers' at 4092, bytes 4 to 7 the memory's at 4096.
 */
export class BarMemory {
  readonly areas: readonly RegionArea[];
  /** The whole BAR; outside the areas nobody looks at it. */
  readonly mapping: Mapping;
  readonly #file: OwnedFd;

  /**
   * @param name for people, in /proc/<pid>/fd
   * @param size of the BAR, bytes
   * @throws VfioError EINVAL unless the areas are page-aligned, in ascending order, apart from each other, and inside the BAR; EMFILE, ENOMEM
   */
  constructor(name: string, size: number, areas: readonly RegionArea[]) {
    requireAreas(size, areas);
    this.areas = areas.map(({ offset, size }) => ({ offset, size }));
    this.#file = createMemoryFile(name, size);
    try {
      this.mapping = Mapping.map(this.#file.fd, 0, size, { read: true, write: true });
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  /** What GET_REGION_INFO tells. */
  get regionMapping(): RegionMapping {
    return { fd: this.#file.fd, offset: 0, areas: this.areas };
  }

  /** Bytes of all areas. */
  get size(): number {
    return this.areas.reduce((sum, area) => sum + area.size, 0);
  }

  /** Reads; what is not memory is asked of `registers`. */
  read(offset: number, into: Uint8Array, registers: PartAccess): MaybePromise<void> {
    return this.#inParts(offset, 0, into.length, registers, (at, from, to) =>
      this.mapping.read(at, into.subarray(from, to)),
    );
  }

  /** Writes; what is not memory is given to `registers`. */
  write(offset: number, data: Uint8Array, registers: PartAccess): MaybePromise<void> {
    return this.#inParts(offset, 0, data.length, registers, (at, from, to) =>
      this.mapping.write(at, data.subarray(from, to)),
    );
  }

  /** One part after the other, from byte `from` on: without a promise for as long as the registers give none. */
  #inParts(
    offset: number,
    from: number,
    length: number,
    registers: PartAccess,
    memory: PartAccess,
  ): MaybePromise<void> {
    for (let start = from; start < length; ) {
      const at = offset + start;
      const area = this.areas.find(({ offset, size }) => at < offset + size);
      const isMemory = area !== undefined && at >= area.offset;
      const border = area === undefined ? offset + length : isMemory ? area.offset + area.size : area.offset;
      const end = Math.min(length, border - offset);
      const pending = isMemory ? memory(at, start, end) : registers(at, start, end);
      if (pending !== undefined) return pending.then(() => this.#inParts(offset, end, length, registers, memory));
      start = end;
    }
    return undefined;
  }

  /** All zeros, as at power-on. */
  reset(): void {
    for (const { offset, size } of this.areas) this.mapping.fill(offset, size, 0);
  }

  /** The areas' bytes, one behind the other. */
  save(into: Uint8Array): void {
    this.#eachArea((offset, from, to) => this.mapping.read(offset, into.subarray(from, to)));
  }

  /** Takes what {@link BarMemory.save} gave. */
  load(bytes: Uint8Array): void {
    this.#eachArea((offset, from, to) => this.mapping.write(offset, bytes.subarray(from, to)));
  }

  #eachArea(visit: (offset: number, from: number, to: number) => void): void {
    let from = 0;
    for (const { offset, size } of this.areas) {
      visit(offset, from, from + size);
      from += size;
    }
  }

  /** Ends the mapping and closes the file; a client that has mapped it keeps its pages. A second call does nothing. */
  close(): void {
    this.mapping.close();
    this.#file.close();
  }
}

function requireAreas(barSize: number, areas: readonly RegionArea[]): void {
  let end = 0;
  for (const { offset, size } of areas) {
    const aligned = offset % PAGE_SIZE === 0 && size % PAGE_SIZE === 0 && size > 0;
    if (aligned && offset >= end && offset + size <= barSize) end = offset + size;
    else {
      const message = `${size} bytes at ${offset} of a BAR of ${barSize}, in which ${end} bytes are taken`;
      throw new VfioError('EINVAL', { operation: 'BarMemory', field: 'mappable', message });
    }
  }
  if (end === 0) throw new VfioError('EINVAL', { operation: 'BarMemory', field: 'mappable', message: 'is empty' });
}
