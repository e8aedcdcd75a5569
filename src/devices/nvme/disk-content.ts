import { invalidState, type StateReader, type StateWriter } from './state-bytes.js';

/*
 * A disk's content in a migration: u32 number of chunks that are not all zero, and for each u32 index and its bytes. A chunk has 64 KiB, the last
 * one of a disk what is left.
 */

const CHUNK = 65536;
const ZEROS = new Uint8Array(CHUNK);

/** Writes a disk's content; nothing for one whose content is elsewhere. */
export function writeContent(writer: StateWriter, content: Uint8Array | undefined): void {
  const chunks = content === undefined ? [] : chunksOf(content);
  writer.u32(chunks.length);
  for (const { index, bytes } of chunks) {
    writer.u32(index);
    writer.bytes(bytes);
  }
}

function chunksOf(content: Uint8Array): { index: number; bytes: Uint8Array }[] {
  const count = Math.ceil(content.length / CHUNK);
  return Array.from({ length: count }, (_, index) => ({ index, bytes: chunkAt(content, index) })).filter(
    ({ bytes }) => Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) !== 0,
  );
}

function chunkAt(content: Uint8Array, index: number): Uint8Array {
  return content.subarray(index * CHUNK, (index + 1) * CHUNK);
}

/**
 * Checks what {@link writeContent} wrote against the disk it is for.
 * @returns what puts it there; the bytes are those of the state until then
 * @throws VfioError EINVAL for chunks that such a disk does not have, or that are not in order
 */
export function readContent(reader: StateReader, content: Uint8Array | undefined): () => void {
  const count = reader.u32();
  const chunks: { index: number; bytes: Uint8Array }[] = [];
  for (let last = -1; chunks.length < count; ) {
    const index = reader.u32();
    const end = Math.ceil((content?.length ?? 0) / CHUNK);
    if (index <= last || index >= end) throw invalidState('content', `chunk ${index} after ${last}, of ${end}`);
    chunks.push({ index, bytes: reader.bytes(chunkAt(content!, index).length) });
    last = index;
  }
  return () => {
    content?.fill(0);
    for (const { index, bytes } of chunks) content!.set(bytes, index * CHUNK);
  };
}
