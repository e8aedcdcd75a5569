import { ADDRESS_LIMIT, asVfioError, VfioError } from '../uapi/index.js';
import type { Backing } from './backing.js';
import { LowRegions, Right } from './low-regions.js';
import type { MaybePromise } from './maybe-promise.js';

/** A region of IO virtual addresses, `[iova, iova + length)`, bytes, and what a device may do there. */
export interface DmaRegionSpec {
  readonly iova: bigint;
  readonly length: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
}

/** A region that is mapped. */
export interface DmaRegion extends DmaRegionSpec {
  readonly backing: Backing;
}

/** What a {@link DmaMap} counts. */
export interface DmaMapStatistics {
  /** Regions mapped now. */
  readonly regions: number;
  /** DMAs refused because they were not wholly mapped with the right, since the beginning. */
  readonly refused: number;
}

/** The part of a DMA that lies in one region: bytes `[from, to)` of the DMA, at `offset` of the region. */
interface Piece {
  readonly backing: Backing;
  readonly offset: number;
  readonly from: number;
  readonly to: number;
}

/** Addresses and lengths up to here are exact as numbers. */
const NUMBER_LIMIT = 2n ** 53n;

/** Most regions a map takes unless told otherwise: `max_dma_maps` of vfio-user. */
export const DEFAULT_MAX_REGIONS = 65535;

/**
 * The map of IO virtual addresses to guest memory, device side.
 *
 * Only what is mapped may be touched, with the rights it was mapped with. A DMA may span any number of adjacent regions: it is
 * checked whole before its first byte moves.
 *
 * **EFAULT from {@link DmaMap.read} and {@link DmaMap.write} means that nothing has moved.** Any other errno comes from a backing
 * that failed on the way, and a part may have moved: a log must then mark the whole interval.
 */
export class DmaMap {
  /** Most regions at a time. */
  readonly maxRegions: number;
  /** Sorted by iova, without overlap. */
  readonly #regions: DmaRegion[] = [];
  /** The first regions of the above, those that end at 2^53 or below, in the same order. */
  readonly #low = new LowRegions();
  #refused = 0;

  constructor(maxRegions: number = DEFAULT_MAX_REGIONS) {
    this.maxRegions = maxRegions;
  }

  /** The regions that are mapped, sorted by iova: a copy. */
  get regions(): readonly DmaRegion[] {
    return [...this.#regions];
  }

  get statistics(): DmaMapStatistics {
    return { regions: this.#regions.length, refused: this.#refused };
  }

  /**
   * Maps a region.
   * @param backing owned by the map from now on, and closed when the region is unmapped, or at once when this throws.
   * @throws VfioError EINVAL for a length of 0 or above 2^53, an end beyond 2^64, or no right at all; EEXIST when it overlaps a
   *   mapped region; ENOSPC when there are {@link DmaMap.maxRegions} regions (as Linux vfio_iommu_type1.c answers).
   */
  map(region: DmaRegionSpec, backing: Backing): void {
    try {
      requireRegion(region);
      this.#insert(region, backing);
    } catch (error) {
      backing.close();
      throw error;
    }
  }

  #insert({ iova, length, readable, writable }: DmaRegionSpec, backing: Backing): void {
    const end = iova + length;
    const index = this.#firstFrom(iova);
    const before = this.#regions[index - 1];
    const after = this.#regions[index];
    if ((before !== undefined && before.iova + before.length > iova) || (after !== undefined && after.iova < end)) {
      throw refusal('EEXIST', 'DMA_MAP', 'address', `${interval(iova, length)} overlaps a region`);
    }
    if (this.#regions.length >= this.maxRegions) {
      throw refusal('ENOSPC', 'DMA_MAP', 'max_dma_maps', `${this.maxRegions} regions are mapped`);
    }
    this.#regions.splice(index, 0, { iova, length, readable, writable, backing });
    if (end <= NUMBER_LIMIT) {
      const rights = (readable ? Right.READ : 0) | (writable ? Right.WRITE : 0);
      this.#low.insert(index, Number(iova), Number(end), rights);
    }
  }

  /**
   * Unmaps all regions that lie in `[iova, iova + length)`, at least one, and closes their backings. A region is never split.
   * @returns the regions that were mapped.
   * @throws VfioError EINVAL when no region lies there, or one lies there only in part; nothing is unmapped then.
   */
  unmap(iova: bigint, length: bigint): readonly DmaRegion[] {
    const end = iova + length;
    const bad = (message: string) => refusal('EINVAL', 'DMA_UNMAP', 'address', `${interval(iova, length)} ${message}`);
    if (iova < 0n || length <= 0n || end > ADDRESS_LIMIT) throw bad('is no interval of addresses');
    const first = this.#firstFrom(iova);
    const past = this.#firstFrom(end);
    const before = this.#regions[first - 1];
    if (before !== undefined && before.iova + before.length > iova) throw bad('begins inside a region');
    const last = this.#regions[past - 1];
    if (first === past || last === undefined) throw bad('holds no region');
    if (last.iova + last.length > end) throw bad('ends inside a region');
    return this.#remove(first, past);
  }

  /** Unmaps everything and closes the backings. @returns the regions that were mapped. */
  unmapAll(): readonly DmaRegion[] {
    return this.#remove(0, this.#regions.length);
  }

  #remove(first: number, past: number): readonly DmaRegion[] {
    this.#low.remove(first, past);
    const removed = this.#regions.splice(first, past - first);
    for (const region of removed) region.backing.close();
    return removed;
  }

  /**
   * Reads memory into `into`: done at once (`undefined`) or later (a promise), as the regions' backings are.
   * @param iova a number must be an integer below 2^53.
   * @throws VfioError EFAULT when the interval is not wholly mapped for reading: nothing was moved; EINVAL for a number that is
   *   no address; any other errno (or a rejection with it) when a backing failed.
   */
  read(iova: number | bigint, into: Uint8Array): MaybePromise<void> {
    const address = typeof iova === 'number' ? iova : Number(iova);
    const index = Number.isSafeInteger(address) ? this.#low.find(address, into.length, Right.READ) : -1;
    if (index === -1) return this.#readPieces(this.#cut('DMA_READ', iova, into.length, Right.READ), into);
    try {
      const pending = this.#regions[index]!.backing.read(address - this.#low.startOf(index), into);
      return pending === undefined ? undefined : pending.catch(throwBackingError);
    } catch (error) {
      return throwBackingError(error);
    }
  }

  /**
   * Writes `from` to memory: done at once (`undefined`) or later (a promise), as the regions' backings are.
   * @param iova a number must be an integer below 2^53.
   * @throws VfioError EFAULT when the interval is not wholly mapped for writing: nothing was moved; EINVAL for a number that is
   *   no address; any other errno (or a rejection with it) when a backing failed, and a part may have been written.
   */
  write(iova: number | bigint, from: Uint8Array): MaybePromise<void> {
    const address = typeof iova === 'number' ? iova : Number(iova);
    const index = Number.isSafeInteger(address) ? this.#low.find(address, from.length, Right.WRITE) : -1;
    if (index === -1) return this.#writePieces(this.#cut('DMA_WRITE', iova, from.length, Right.WRITE), from);
    try {
      const pending = this.#regions[index]!.backing.write(address - this.#low.startOf(index), from);
      return pending === undefined ? undefined : pending.catch(throwBackingError);
    } catch (error) {
      return throwBackingError(error);
    }
  }

  #readPieces(pieces: readonly Piece[], into: Uint8Array): MaybePromise<void> {
    return inOrder(pieces, 0, ({ backing, offset, from, to }) => backing.read(offset, into.subarray(from, to)));
  }

  #writePieces(pieces: readonly Piece[], source: Uint8Array): MaybePromise<void> {
    return inOrder(pieces, 0, ({ backing, offset, from, to }) => backing.write(offset, source.subarray(from, to)));
  }

  /** Cuts a DMA at the borders of regions: the slow and general path. @throws VfioError EFAULT, EINVAL */
  #cut(operation: string, iova: number | bigint, length: number, right: number): readonly Piece[] {
    const start = requireAddress(operation, iova);
    const pieces: Piece[] = [];
    let index = this.#firstFrom(start + 1n) - 1;
    for (let from = 0; from < length; index++) {
      const address = start + BigInt(from);
      const region = this.#regions[index];
      if (region === undefined || !allows(region, right) || !contains(region, address)) {
        this.#refused++;
        throw refusal('EFAULT', operation, 'address', `${interval(start, BigInt(length))}: ${reason(region, address)}`);
      }
      const offset = Number(address - region.iova);
      const to = Math.min(length, from + Number(region.length) - offset);
      pieces.push({ backing: region.backing, offset, from, to });
      from = to;
    }
    return pieces;
  }

  /** The position of the first region that begins at `address` or above. */
  #firstFrom(address: bigint): number {
    let low = 0;
    let high = this.#regions.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#regions[middle]!.iova < address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Moves the pieces one after the other, from position `first` on: without a promise for as long as none is needed. */
function inOrder(
  pieces: readonly Piece[],
  first: number,
  move: (piece: Piece) => MaybePromise<void>,
): MaybePromise<void> {
  try {
    for (let index = first; index < pieces.length; index++) {
      const pending = move(pieces[index]!);
      if (pending !== undefined) return pending.then(() => inOrder(pieces, index + 1, move), throwBackingError);
    }
    return undefined;
  } catch (error) {
    return throwBackingError(error);
  }
}

/** A backing's EFAULT becomes EIO, since EFAULT is the promise that nothing has moved. */
function throwBackingError(error: unknown): never {
  const known = asVfioError(error, 'DMA');
  if (known.errno !== 'EFAULT') throw known;
  throw new VfioError('EIO', {
    operation: known.operation,
    field: known.field,
    message: 'backing failed',
    cause: known,
  });
}

function requireRegion({ iova, length, readable, writable }: DmaRegionSpec): void {
  const bad = (field: string, message: string) => refusal('EINVAL', 'DMA_MAP', field, message);
  if (length <= 0n || length > NUMBER_LIMIT) throw bad('size', `${length} bytes`);
  if (iova < 0n || iova + length > ADDRESS_LIMIT) throw bad('address', `${interval(iova, length)} leaves 64 bits`);
  if (!readable && !writable) throw bad('flags', 'neither readable nor writable');
}

function requireAddress(operation: string, iova: number | bigint): bigint {
  if (typeof iova === 'number' && !Number.isSafeInteger(iova)) {
    throw refusal('EINVAL', operation, 'address', `${iova} is no exact integer`);
  }
  return BigInt(iova);
}

function allows(region: DmaRegion, right: number): boolean {
  return right === Right.READ ? region.readable : region.writable;
}

function contains(region: DmaRegion, address: bigint): boolean {
  return address >= region.iova && address < region.iova + region.length;
}

function reason(region: DmaRegion | undefined, address: bigint): string {
  const mapped = region !== undefined && contains(region, address);
  return `0x${address.toString(16)} is ${mapped ? 'mapped without the right' : 'not mapped'}`;
}

function interval(iova: bigint, length: bigint): string {
  return `${length} bytes at 0x${iova.toString(16)}`;
}

function refusal(
  errno: 'EINVAL' | 'EEXIST' | 'ENOSPC' | 'EFAULT',
  operation: string,
  field: string,
  message: string,
): VfioError {
  return new VfioError(errno, { operation, field, message });
}
