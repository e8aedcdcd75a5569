import { VfioError, viewOf } from '../../uapi/index.js';
import { type MachineMemory, PAGE_SIZE } from '../memory/machine-memory.js';
import type { PageList } from './page-list.js';
import { MAX_EXTENTS } from './stream-format.js';

/*
 * A MEMORY frame's payload: scattered pages travel together, so that a pass over random pages costs one frame, one checksum and one
 * system call per 256 pages and not per page.
 *
 *   0 u32 number of extents · 4 u32 0 · extents, 16 bytes each: { u32 range, u32 pages, u32 first page low, u32 first page high } ·
 *   the pages, in the order of the extents
 *
 * Worked example: page 7 and pages 9 and 10 of range 0 are 2 extents, {0, 1, 7, 0} and {0, 2, 9, 0}, and 12288 bytes: 12328 in all.
 */

const HEAD_SIZE = 8;
const EXTENT_SIZE = 16;
const TWO_TO_32 = 2 ** 32;

/** Writes the payload for a list of pages, memory as it is now. @returns its size, at most MAX_PAYLOAD bytes */
export function encodeMemoryBlock(memory: MachineMemory, list: PageList, into: Uint8Array): number {
  const view = viewOf(into);
  view.setUint32(0, list.extents, true);
  view.setUint32(4, 0, true);
  let at = HEAD_SIZE + list.extents * EXTENT_SIZE;
  for (let index = 0; index < list.extents; index++) {
    const range = list.ranges[index]!;
    const firstPage = list.firstPages[index]!;
    const pages = list.pageCounts[index]!;
    const entry = HEAD_SIZE + index * EXTENT_SIZE;
    view.setUint32(entry, range, true);
    view.setUint32(entry + 4, pages, true);
    view.setUint32(entry + 8, firstPage % TWO_TO_32, true);
    view.setUint32(entry + 12, Math.floor(firstPage / TWO_TO_32), true);
    memory.read(range, firstPage, into.subarray(at, at + pages * PAGE_SIZE));
    at += pages * PAGE_SIZE;
  }
  return at;
}

/**
 * Writes a payload's pages to memory. Everything is checked before the first byte is written.
 * @returns number of pages
 * @throws VfioError EBADMSG for extents outside the machine's memory or a size that does not fit them
 */
export function applyMemoryBlock(memory: MachineMemory, payload: Uint8Array): number {
  const pages = checkMemoryBlock(memory, payload);
  const view = viewOf(payload);
  const extents = view.getUint32(0, true);
  let at = HEAD_SIZE + extents * EXTENT_SIZE;
  for (let index = 0; index < extents; index++) {
    const entry = HEAD_SIZE + index * EXTENT_SIZE;
    const size = view.getUint32(entry + 4, true) * PAGE_SIZE;
    memory.write(view.getUint32(entry, true), firstPageAt(view, entry), payload.subarray(at, at + size));
    at += size;
  }
  return pages;
}

function checkMemoryBlock(memory: MachineMemory, payload: Uint8Array): number {
  const view = viewOf(payload);
  const extents = payload.length < HEAD_SIZE ? Number.POSITIVE_INFINITY : view.getUint32(0, true);
  if (extents > MAX_EXTENTS || payload.length < HEAD_SIZE + extents * EXTENT_SIZE) {
    throw badBlock('extents', 'more extents than the block has room for');
  }
  let pages = 0;
  for (let index = 0; index < extents; index++) {
    const entry = HEAD_SIZE + index * EXTENT_SIZE;
    const range = view.getUint32(entry, true);
    const count = view.getUint32(entry + 4, true);
    if (range >= memory.slots.length || firstPageAt(view, entry) + count > memory.pagesOf(range)) {
      throw badBlock('extent', `pages ${firstPageAt(view, entry)} + ${count} of range ${range} do not exist`);
    }
    pages += count;
  }
  if (payload.length !== HEAD_SIZE + extents * EXTENT_SIZE + pages * PAGE_SIZE) {
    throw badBlock('length', `${payload.length} bytes for ${pages} pages in ${extents} extents`);
  }
  return pages;
}

function firstPageAt(view: DataView, entry: number): number {
  return view.getUint32(entry + 8, true) + view.getUint32(entry + 12, true) * TWO_TO_32;
}

function badBlock(field: string, message: string): VfioError {
  return new VfioError('EBADMSG', { operation: 'migration stream', field, message });
}
