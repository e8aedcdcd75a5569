import type { RegionArea } from '../../device/index.js';
import { VfioError, viewOf } from '../../uapi/index.js';
import { exactNumber } from './payload.js';

/*
 * The chain of capabilities behind DEVICE_GET_REGION_INFO's structure (vfio-user 0.9.x, "VFIO region capabilities"; linux/vfio.h). Offsets
 * count from the structure's start.
 *   each:              u16 id · u16 version · u32 offset of the next, 0 for the last
 *   id 1, sparse mmap: behind that u32 number of areas · u32 0, then for each area u64 offset · u64 size
 * Example: one area is 32 bytes, so that a structure of 32 bytes with it is 64 bytes long.
 */

const CAPABILITY_HEAD_SIZE = 8;
const SPARSE_HEAD_SIZE = 16;
const AREA_SIZE = 16;
const SPARSE_MMAP = 1;

/** Size of the capability that tells of areas. */
export function sparseAreasSize(areas: readonly RegionArea[]): number {
  return SPARSE_HEAD_SIZE + AREA_SIZE * areas.length;
}

/** Writes the capability that tells of areas, the last of its chain, at byte `at`. */
export function encodeSparseAreas(bytes: Uint8Array, at: number, areas: readonly RegionArea[]): void {
  const view = viewOf(bytes);
  view.setUint16(at, SPARSE_MMAP, true);
  view.setUint16(at + 2, 1, true);
  view.setUint32(at + 8, areas.length, true);
  for (const [index, { offset, size }] of areas.entries()) {
    view.setBigUint64(at + SPARSE_HEAD_SIZE + AREA_SIZE * index, BigInt(offset), true);
    view.setBigUint64(at + SPARSE_HEAD_SIZE + AREA_SIZE * index + 8, BigInt(size), true);
  }
}

/**
 * Reads the areas that a chain tells of; those of no bytes are left out.
 * @param first offset of the first capability; 0: there is none
 * @param regionSize bytes
 * @returns `undefined` when the chain tells of none
 * @throws VfioError EINVAL for a chain that does not go forward, leaves the bytes, or has an area that leaves the region
 */
export function decodeSparseAreas(
  bytes: Uint8Array,
  first: number,
  regionSize: number,
): readonly RegionArea[] | undefined {
  const view = viewOf(bytes);
  for (let at = first, before = 0; at !== 0; ) {
    // A chain that only goes forward has an end.
    if (at <= before || at + CAPABILITY_HEAD_SIZE > bytes.length) {
      throw invalid('cap_offset', `a capability at ${at} behind ${before} of ${bytes.length} bytes`);
    }
    if (view.getUint16(at, true) === SPARSE_MMAP) return readAreas(view, at, regionSize);
    before = at;
    at = view.getUint32(at + 4, true);
  }
  return undefined;
}

function readAreas(view: DataView, at: number, regionSize: number): readonly RegionArea[] {
  const start = at + SPARSE_HEAD_SIZE;
  const count = start > view.byteLength ? Number.POSITIVE_INFINITY : view.getUint32(at + 8, true);
  if (count > (view.byteLength - start) / AREA_SIZE) throw invalid('nr_areas', 'more areas than there are bytes for');
  const areas: RegionArea[] = [];
  for (let index = 0; index < count; index++) {
    const offset = exactNumber(view.getBigUint64(start + AREA_SIZE * index, true), 'DEVICE_GET_REGION_INFO', 'area');
    const size = exactNumber(view.getBigUint64(start + AREA_SIZE * index + 8, true), 'DEVICE_GET_REGION_INFO', 'area');
    if (size > regionSize || offset > regionSize - size)
      throw invalid('area', `${size} bytes at ${offset} of ${regionSize}`);
    if (size > 0) areas.push({ offset, size });
  }
  return areas;
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'DEVICE_GET_REGION_INFO', field, message });
}
