import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { VfioError, viewOf } from '../../uapi/index.js';
import { type MachineMemory, PAGE_SIZE } from './machine-memory.js';

/*
 * Proof that two memories are equal, and where they are not. SHA-256 over all pages in order says yes or no; a CRC-32 per page, 4 bytes for
 * 4096, says which pages differ and is only asked for after a no. Both read a MiB at a time and let the event loop breathe between.
 */

const PIECE_PAGES = 256;

/** SHA-256 of all memory: 32 bytes. The machine must be stopped. */
export async function digestMemory(memory: MachineMemory): Promise<Uint8Array> {
  const hash = createHash('sha256');
  for await (const bytes of pieces(memory)) hash.update(bytes);
  return hash.digest();
}

/** CRC-32 of every page, u32 little-endian each, in order of the ranges. The machine must be stopped. */
export async function digestPages(memory: MachineMemory): Promise<Uint8Array> {
  const digest = new Uint8Array(memory.pages * 4);
  const view = viewOf(digest);
  let at = 0;
  for await (const bytes of pieces(memory)) {
    for (let offset = 0; offset < bytes.length; offset += PAGE_SIZE, at += 4) {
      view.setUint32(at, crc32(bytes.subarray(offset, offset + PAGE_SIZE)), true);
    }
  }
  return digest;
}

/** How many pages differ between two digests of {@link digestPages}. @throws VfioError EBADMSG when their sizes differ */
export function countDifferentPages(ours: Uint8Array, theirs: Uint8Array): number {
  if (ours.length !== theirs.length) {
    throw new VfioError('EBADMSG', {
      operation: 'VERIFY',
      message: `${theirs.length} bytes of digest, ${ours.length} are due`,
    });
  }
  let different = 0;
  for (let at = 0; at < ours.length; at += 4) {
    if (viewOf(ours).getUint32(at) !== viewOf(theirs).getUint32(at)) different++;
  }
  return different;
}

async function* pieces(memory: MachineMemory): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(PIECE_PAGES * PAGE_SIZE);
  for (const range of memory.slots.keys()) {
    const pages = memory.pagesOf(range);
    for (let page = 0; page < pages; page += PIECE_PAGES) {
      const bytes = buffer.subarray(0, Math.min(PIECE_PAGES, pages - page) * PAGE_SIZE);
      memory.read(range, page, bytes);
      yield bytes;
      if (page % (16 * PIECE_PAGES) === 0) await new Promise(resolve => setImmediate(resolve));
    }
  }
}
