import type { DmaRegionSpec } from '../../src/memory/index.js';
import type { ErrnoName } from '../../src/uapi/index.js';

interface NaiveRegion extends DmaRegionSpec {
  readonly id: number;
}

/** What one address of the naive map is: whose it is, and its byte. */
interface Cell {
  readonly region: NaiveRegion;
  byte: number;
}

/**
 * The naive twin of DmaMap: one entry for each byte of address space. Every operation answers an errno, or undefined when it
 * worked.
 */
export class NaiveDmaMap {
  readonly cells = new Map<bigint, Cell>();
  readonly #maxRegions: number;
  refused = 0;
  #nextId = 0;

  constructor(maxRegions: number) {
    this.#maxRegions = maxRegions;
  }

  get regions(): NaiveRegion[] {
    const regions = [...new Set([...this.cells.values()].map(cell => cell.region))];
    return regions.sort((left, right) => (left.iova < right.iova ? -1 : 1));
  }

  map(spec: DmaRegionSpec, content: Uint8Array): ErrnoName | undefined {
    if (spec.length === 0n || spec.iova + spec.length > 2n ** 64n) return 'EINVAL';
    if (!spec.readable && !spec.writable) return 'EINVAL';
    for (const address of addresses(spec.iova, spec.length)) if (this.cells.has(address)) return 'EEXIST';
    if (this.regions.length === this.#maxRegions) return 'ENOSPC';
    const region = { ...spec, id: this.#nextId++ };
    let index = 0;
    for (const address of addresses(spec.iova, spec.length))
      this.cells.set(address, { region, byte: content[index++]! });
    return undefined;
  }

  unmap(iova: bigint, length: bigint): NaiveRegion[] | ErrnoName {
    if (length === 0n || iova + length > 2n ** 64n) return 'EINVAL';
    const touched = this.regions.filter(region => region.iova < iova + length && iova < region.iova + region.length);
    const whole = touched.filter(region => iova <= region.iova && region.iova + region.length <= iova + length);
    if (touched.length === 0 || whole.length < touched.length) return 'EINVAL';
    for (const region of whole) for (const address of addresses(region.iova, region.length)) this.cells.delete(address);
    return whole;
  }

  read(iova: bigint, into: Uint8Array): ErrnoName | undefined {
    const cells = this.#cells(iova, into.length, 'readable');
    for (const [index, cell] of cells?.entries() ?? []) into[index] = cell.byte;
    return cells === undefined ? 'EFAULT' : undefined;
  }

  write(iova: bigint, from: Uint8Array): ErrnoName | undefined {
    const cells = this.#cells(iova, from.length, 'writable');
    for (const [index, cell] of cells?.entries() ?? []) cell.byte = from[index]!;
    return cells === undefined ? 'EFAULT' : undefined;
  }

  #cells(iova: bigint, length: number, right: 'readable' | 'writable'): Cell[] | undefined {
    const cells = [...addresses(iova, BigInt(length))].map(address => this.cells.get(address));
    if (cells.every(cell => cell?.region[right])) return cells as Cell[];
    this.refused++;
    return undefined;
  }
}

function* addresses(iova: bigint, length: bigint): Generator<bigint> {
  for (let address = iova; address < iova + length; address++) yield address;
}
