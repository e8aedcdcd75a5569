import { VfioError, viewOf } from '../../uapi/index.js';
import { type MachineMemory, PAGE_SIZE } from '../memory/machine-memory.js';
import { compressLz4, decompressLz4 } from './lz4.js';
import type { PageList } from './page-list.js';
import { MAX_EXTENTS, MAX_PAYLOAD } from './stream-format.js';

/*
 * A MEMORY frame's payload: scattered pages travel together, so that a pass over random pages costs one frame, one checksum and one
 * system call per 256 pages and not per page. Pages of zeros are only named.
 *
 *   0 u32 number of extents · 4 u32 number of pages with content · 8 u32 encoding of those pages: 0 as they are, 1 LZ4 · 12 u32 0 ·
 *   the pages with content, in the order of the extents · extents, 16 bytes each: { u32 range, u32 pages, u32 first page low, u32 first page
 *   high }; bit 31 of `pages` says that they are zeros
 *
 * The extents come last because nobody knows how many there are before the pages were looked at.
 *
 * Worked example: pages 7, 9 and 10 of range 0, of which 9 is zero, are 3 extents, {0, 1, 7, 0}, {0, 0x80000001, 9, 0}, {0, 1, 10, 0}, and 2
 * pages with content: 16 + 8192 + 48 bytes, 8256 in all.
 */

const HEAD_SIZE = 16;
const EXTENT_SIZE = 16;
const TWO_TO_32 = 2 ** 32;
const ZEROS = 2 ** 31;
const SAMPLE_PAGES = 16;

/** How the pages with content travel. */
export const PageEncoding = { PLAIN: 0, LZ4: 1 } as const;

const zeroPage = Buffer.alloc(PAGE_SIZE);
/** The extents of the block that is being made. Nothing waits while one is. */
const table = new Uint8Array(MAX_EXTENTS * EXTENT_SIZE);
const tableView = viewOf(table);

/** Writes the payload for a list of pages, memory as it is now. @returns its size, at most MAX_PAYLOAD bytes */
export function encodeMemoryBlock(memory: MachineMemory, list: PageList, into: Uint8Array): number {
  const bytes = Buffer.from(into.buffer, into.byteOffset, into.length);
  let at = HEAD_SIZE;
  let extents = 0;
  for (let index = 0; index < list.extents; index++) {
    const range = list.ranges[index]!;
    const firstPage = list.firstPages[index]!;
    const pages = list.pageCounts[index]!;
    const start = at;
    memory.read(range, firstPage, into.subarray(start, start + pages * PAGE_SIZE));
    for (let page = 0; page < pages; ) {
      const isZero = isZeroPage(bytes, start + page * PAGE_SIZE);
      let end = page + 1;
      while (end < pages && isZeroPage(bytes, start + end * PAGE_SIZE) === isZero) end++;
      writeExtent(extents++, range, firstPage + page, end - page, isZero);
      if (!isZero) {
        // Zeros before it leave a gap.
        const from = start + page * PAGE_SIZE;
        if (from !== at) into.copyWithin(at, from, start + end * PAGE_SIZE);
        at += (end - page) * PAGE_SIZE;
      }
      page = end;
    }
  }
  writeHead(into, extents, (at - HEAD_SIZE) / PAGE_SIZE, PageEncoding.PLAIN);
  into.set(table.subarray(0, extents * EXTENT_SIZE), at);
  return at + extents * EXTENT_SIZE;
}

/** Most pages show in their first word that they are not zero. */
function isZeroPage(bytes: Buffer, at: number): boolean {
  return bytes[at] === 0 && bytes.compare(zeroPage, 0, PAGE_SIZE, at, at + PAGE_SIZE) === 0;
}

function writeExtent(index: number, range: number, firstPage: number, pages: number, isZero: boolean): void {
  const entry = index * EXTENT_SIZE;
  tableView.setUint32(entry, range, true);
  tableView.setUint32(entry + 4, isZero ? pages + ZEROS : pages, true);
  tableView.setUint32(entry + 8, firstPage % TWO_TO_32, true);
  tableView.setUint32(entry + 12, Math.floor(firstPage / TWO_TO_32), true);
}

function writeHead(into: Uint8Array, extents: number, contentPages: number, encoding: number): void {
  const view = viewOf(into);
  view.setUint32(0, extents, true);
  view.setUint32(4, contentPages, true);
  view.setUint32(8, encoding, true);
  view.setUint32(12, 0, true);
}

/** Pages with content in a payload that {@link encodeMemoryBlock} made; the others are zeros. */
export function contentPagesOf(payload: Uint8Array): number {
  return viewOf(payload).getUint32(4, true);
}

/**
 * Compresses a payload of {@link encodeMemoryBlock} in its place, unless that saves less than an eighth: unpacking would cost the other end more.
 * @returns its size then
 */
export function compressMemoryBlock(payload: Uint8Array): number {
  const extents = viewOf(payload).getUint32(0, true);
  const contentEnd = payload.length - extents * EXTENT_SIZE;
  const contentSize = contentEnd - HEAD_SIZE;
  if (contentSize === 0) return payload.length;
  const compressed = compressLz4(payload.subarray(HEAD_SIZE, contentEnd));
  if (compressed.length > contentSize - contentSize / 8) return payload.length;
  payload.set(compressed, HEAD_SIZE);
  payload.copyWithin(HEAD_SIZE + compressed.length, contentEnd);
  viewOf(payload).setUint32(8, PageEncoding.LZ4, true);
  return HEAD_SIZE + compressed.length + extents * EXTENT_SIZE;
}

/** Compresses the first pages of a payload, which stays as it is. @returns their bytes before and after, which are as many if they do not shrink */
export function trySample(payload: Uint8Array): { before: number; after: number } {
  const before = Math.min(contentPagesOf(payload), SAMPLE_PAGES) * PAGE_SIZE;
  const compressed = compressLz4(payload.subarray(HEAD_SIZE, HEAD_SIZE + before));
  return { before, after: Math.min(before, compressed.length) };
}

/**
 * Writes a payload's pages to memory. Everything is checked before the first byte is written.
 * @returns number of pages
 * @throws VfioError EBADMSG for extents outside the machine's memory, a size that does not fit them, or pages that do not unpack to it
 */
export function applyMemoryBlock(memory: MachineMemory, payload: Uint8Array): number {
  const block = checkMemoryBlock(memory, payload);
  const { view, contentPages, tableAt, content } = block;
  let at = 0;
  let zeroPages = 0;
  for (let entry = tableAt; entry < payload.length; entry += EXTENT_SIZE) {
    const range = view.getUint32(entry, true);
    const pages = pagesAt(view, entry);
    if (isZeroAt(view, entry)) {
      memory.zero(range, firstPageAt(view, entry), pages);
      zeroPages += pages;
      continue;
    }
    memory.write(range, firstPageAt(view, entry), content.subarray(at, at + pages * PAGE_SIZE));
    at += pages * PAGE_SIZE;
  }
  return contentPages + zeroPages;
}

interface CheckedBlock {
  view: DataView;
  contentPages: number;
  /** Where the extents begin. */
  tableAt: number;
  /** The pages, unpacked. */
  content: Uint8Array;
}

function checkMemoryBlock(memory: MachineMemory, payload: Uint8Array): CheckedBlock {
  if (payload.length < HEAD_SIZE || payload.length > MAX_PAYLOAD) throw badBlock('length', `${payload.length} bytes`);
  const view = viewOf(payload);
  const extents = view.getUint32(0, true);
  const contentPages = view.getUint32(4, true);
  const tableAt = payload.length - extents * EXTENT_SIZE;
  if (extents > MAX_EXTENTS || tableAt < HEAD_SIZE) {
    throw badBlock('extents', 'more extents than the block has room for');
  }
  if (view.getUint32(12, true) !== 0) throw badBlock('head', 'its last word is not 0');
  checkExtents(memory, view, tableAt, contentPages);
  const packed = payload.subarray(HEAD_SIZE, tableAt);
  return { view, contentPages, tableAt, content: unpack(packed, view.getUint32(8, true), contentPages * PAGE_SIZE) };
}

function checkExtents(memory: MachineMemory, view: DataView, tableAt: number, contentPages: number): void {
  let pages = 0;
  let content = 0;
  for (let entry = tableAt; entry < view.byteLength; entry += EXTENT_SIZE) {
    const range = view.getUint32(entry, true);
    const count = pagesAt(view, entry);
    if (range >= memory.slots.length || firstPageAt(view, entry) + count > memory.pagesOf(range)) {
      throw badBlock('extent', `pages ${firstPageAt(view, entry)} + ${count} of range ${range} do not exist`);
    }
    pages += count;
    if (!isZeroAt(view, entry)) content += count;
  }
  if (pages > MAX_EXTENTS || content !== contentPages) {
    throw badBlock('pages', `${pages} pages, ${content} of them with content where ${contentPages} are announced`);
  }
}

function unpack(packed: Uint8Array, encoding: number, size: number): Uint8Array {
  if (encoding === PageEncoding.LZ4) return decompressLz4(packed, size);
  if (encoding !== PageEncoding.PLAIN) throw badBlock('encoding', `${encoding} does not exist`);
  if (packed.length !== size) throw badBlock('length', `${packed.length} bytes of pages, ${size} are due`);
  return packed;
}

function pagesAt(view: DataView, entry: number): number {
  return view.getUint32(entry + 4, true) % ZEROS;
}

function isZeroAt(view: DataView, entry: number): boolean {
  return view.getUint32(entry + 4, true) >= ZEROS;
}

function firstPageAt(view: DataView, entry: number): number {
  return view.getUint32(entry + 8, true) + view.getUint32(entry + 12, true) * TWO_TO_32;
}

function badBlock(field: string, message: string): VfioError {
  return new VfioError('EBADMSG', { operation: 'migration stream', field, message });
}
