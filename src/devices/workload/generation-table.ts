import { VfioError } from '../../uapi/index.js';

/*
 * The generation table on its way to another machine: runs of equal generations, each as two variable-length integers (7 bits a byte, low bits
 * first, bit 7: more follows): how many pages, and their generation.
 *
 * Example: the table 0 0 0 300 is the runs (3, 0) (1, 300), as bytes 03 00 01 ac 02: 300 = 0b10_0101100 is 0x2c | 0x80, then 0x02.
 * A table that one pass of writes made is a few bytes; one of random writes takes a little over two bytes a page.
 */

/** Most bytes of one integer below 2^32. */
const MAX_VARINT = 5;

/** How many bytes {@link encodeGenerations} gives. */
export function generationsSize(table: Uint32Array): number {
  return writeRuns(table, undefined);
}

/** A table as bytes. */
export function encodeGenerations(table: Uint32Array): Uint8Array {
  // Two passes over the table: the first one only measures, so that the bytes are allocated once.
  const bytes = new Uint8Array(generationsSize(table));
  writeRuns(table, bytes);
  return bytes;
}

/** Writes the runs into `bytes` if there are any; returns how many bytes they take. */
function writeRuns(table: Uint32Array, bytes: Uint8Array | undefined): number {
  let offset = 0;
  for (let start = 0; start < table.length; ) {
    const generation = table[start]!;
    let end = start + 1;
    while (end < table.length && table[end] === generation) end++;
    offset = writeInteger(bytes, offset, end - start);
    offset = writeInteger(bytes, offset, generation);
    start = end;
  }
  return offset;
}

function writeInteger(bytes: Uint8Array | undefined, offset: number, value: number): number {
  let rest = value;
  let at = offset;
  for (; rest >= 0x80; rest >>>= 7) {
    if (bytes !== undefined) bytes[at] = (rest & 0x7f) | 0x80;
    at++;
  }
  if (bytes !== undefined) bytes[at] = rest;
  return at + 1;
}

/**
 * The table of `pages` pages that the bytes stand for. They are checked to their end before the table is allocated.
 * @throws VfioError EINVAL when the runs are not whole, or not of `pages` pages together
 */
export function decodeGenerations(bytes: Uint8Array, pages: number): Uint32Array {
  let total = 0;
  readRuns(bytes, length => {
    total += length;
    if (total > pages) throw invalid(`more than ${pages} pages`);
  });
  if (total !== pages) throw invalid(`${total} pages, expected ${pages}`);
  const table = new Uint32Array(pages);
  let start = 0;
  readRuns(bytes, (length, generation) => {
    if (generation !== 0) table.fill(generation, start, start + length);
    start += length;
  });
  return table;
}

function readRuns(bytes: Uint8Array, run: (length: number, generation: number) => void): void {
  const cursor = { bytes, offset: 0 };
  while (cursor.offset < bytes.length) {
    const length = readInteger(cursor);
    if (length === 0) throw invalid('a run of no pages');
    run(length, readInteger(cursor));
  }
}

function readInteger(cursor: { readonly bytes: Uint8Array; offset: number }): number {
  let value = 0;
  for (let count = 0; count < MAX_VARINT; count++) {
    const byte = cursor.bytes[cursor.offset++];
    if (byte === undefined) throw invalid('cut off');
    value += (byte & 0x7f) * 2 ** (7 * count);
    if (byte < 0x80) {
      if (value > 0xffff_ffff) break;
      return value;
    }
  }
  throw invalid('an integer of more than 32 bits');
}

function invalid(message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE', field: 'generations', message });
}
