import fc from 'fast-check';
import { viewOf } from '../../../src/uapi/index.js';
import { FREE_AREA, MEMORY_SIZE, type TestMemory } from './nvme-host.js';

/** A buffer in host memory: pages anywhere, and where the lists that name them lie. */
export interface HostBuffer {
  /** Bytes. */
  length: number;
  /** How far into the first page it begins, a multiple of 4. */
  offset: number;
  /** Addresses of its pages; as many as it needs, or more. */
  pages: readonly number[];
  /** Addresses of pages for lists, as many as it needs or more. */
  listPages: readonly number[];
  /** How far into its page the first list begins, a multiple of 8. */
  listOffset: number;
}

/** Where byte `index` of a buffer lies: naively, one by one. */
export function addressOf({ offset, pages }: HostBuffer, index: number, pageSize: number): number {
  const position = offset + index;
  return pages[Math.floor(position / pageSize)]! + (position % pageSize);
}

/** The two PRPs of a buffer; writes the lists. */
export function describeBuffer(
  buffer: HostBuffer,
  memory: TestMemory,
  pageSize: number,
): { prp1: number; prp2: number } {
  const count = Math.ceil((buffer.offset + buffer.length) / pageSize);
  const rest = buffer.pages.slice(1, count);
  const prp1 = buffer.pages[0]! + buffer.offset;
  // PRP2 is not looked at where one page is enough.
  if (rest.length === 0) return { prp1, prp2: 0xbad1 };
  if (rest.length === 1) return { prp1, prp2: rest[0]! };
  return { prp1, prp2: writeList(rest, buffer.listPages, buffer.listOffset, memory, pageSize) };
}

/** Writes a list, and what it leads to; returns its address. */
function writeList(
  pages: readonly number[],
  listPages: readonly number[],
  offset: number,
  memory: TestMemory,
  pageSize: number,
): number {
  const room = (pageSize - offset) / 8;
  const entries =
    pages.length <= room
      ? pages
      : [...pages.slice(0, room - 1), writeList(pages.slice(room - 1), listPages.slice(1), 0, memory, pageSize)];
  const address = listPages[0]! + offset;
  const bytes = new Uint8Array(8 * entries.length);
  for (const [index, entry] of entries.entries()) viewOf(bytes).setBigUint64(8 * index, BigInt(entry), true);
  memory.write(address, bytes);
  return address;
}

/** Puts bytes into a buffer. */
export function fillBuffer(buffer: HostBuffer, bytes: Uint8Array, memory: TestMemory, pageSize: number): void {
  for (let index = 0; index < bytes.length; ) {
    const address = addressOf(buffer, index, pageSize);
    const count = pageSize - (address % pageSize);
    memory.write(address, bytes.subarray(index, index + count));
    index += count;
  }
}

/**
 * Any buffer of `length` bytes in slice `slice` of `slices` of the free memory. Its pages are in any order; now and then some follow each other.
 */
export function anyBuffer(length: number, pageSize: number, slice: number, slices: number): fc.Arbitrary<HostBuffer> {
  const most = Math.floor((MEMORY_SIZE - FREE_AREA) / slices / pageSize);
  const sliceSize = Math.min(most, 2 * Math.ceil(length / pageSize) + 16) * pageSize;
  const start = FREE_AREA + slice * most * pageSize;
  const places = Array.from({ length: sliceSize / pageSize }, (_, index) => start + index * pageSize);
  const needed = Math.ceil(length / pageSize) + 1;
  return fc
    .record({
      picked: fc.oneof(
        fc.shuffledSubarray(places, { minLength: needed + 3, maxLength: needed + 3 }),
        fc.nat(places.length - needed - 3).map(first => places.slice(first, first + needed + 3)),
      ),
      offset: fc.oneof(
        fc.constant(0),
        fc.nat(pageSize / 4 - 1).map(words => 4 * words),
      ),
      listOffset: fc.oneof(
        fc.constant(0),
        fc.nat(pageSize / 8 - 1).map(entries => 8 * entries),
        fc.nat(3).map(entries => pageSize - 8 - 8 * entries),
      ),
    })
    .map(({ picked, offset, listOffset }) => ({
      length,
      offset,
      pages: picked.slice(0, needed),
      listPages: picked.slice(needed),
      listOffset,
    }));
}
