import { createRequire } from 'node:module';
import { VfioError, viewOf } from '../../uapi/index.js';

/*
 * LZ4 blocks. Chosen by measurement, 1 MiB of pages, one thread, Node 20 (MB/s of plain bytes):
 *
 *                         source code          program            few bytes a page     random
 *                         ratio  in   out      ratio  in   out    ratio  in    out     in    out
 *   lz4-napi              2.3    240   760     3.0    420   850   22     2100   770    4600  3000
 *   @bokuweb/zstd-wasm    3.3     85   160     4.3    130   310   41      510  1280     330   820
 *   @hpcc-js/wasm-zstd    3.3     36    13     4.3     44    14   41      250    10       9     8
 *   node:zlib deflate 1   3.1    110   330     4.2    150   420   27      580  1130      45  1680
 *
 * A link of 1 Gbit/s moves 120 MB/s: beside it the others are at best as fast as the link alone, and on memory that does not compress a
 * try of theirs costs ten times as much. Node's own zstd would do, but begins with 22.15.
 *
 * A compressed piece is u32 plain size, little-endian, then the block: so the package writes it. The size is compared before anything is
 * allocated for it.
 */

const SIZE_FIELD = 4;

type Lz4 = typeof import('lz4-napi');
let loaded: Lz4 | undefined;

/** Only who compresses or gets something compressed waits for the native part to be loaded, some 20 ms. */
function lz4(): Lz4 {
  loaded ??= createRequire(import.meta.url)('lz4-napi') as Lz4;
  return loaded;
}

/** Compresses bytes. The result may be larger than they are. */
export function compressLz4(plain: Uint8Array): Uint8Array {
  return lz4().compressSync(asBuffer(plain));
}

/**
 * Reverse of {@link compressLz4}.
 * @param size bytes that must come out
 * @throws VfioError EBADMSG when it is no compressed piece, or one of another size; nothing larger than `size` was allocated then
 */
export function decompressLz4(compressed: Uint8Array, size: number): Uint8Array {
  const claimed = compressed.length < SIZE_FIELD ? -1 : viewOf(compressed).getUint32(0, true);
  if (claimed !== size) throw badPiece(`it says ${claimed} bytes, ${size} are due`);
  const plain = decompress(compressed);
  if (plain.length !== size) throw badPiece(`${plain.length} bytes came out, ${size} are due`);
  return plain;
}

function decompress(compressed: Uint8Array): Uint8Array {
  try {
    return lz4().uncompressSync(asBuffer(compressed));
  } catch (error) {
    throw badPiece(error instanceof Error ? error.message : String(error));
  }
}

function asBuffer({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length);
}

function badPiece(message: string): VfioError {
  return new VfioError('EBADMSG', { operation: 'migration stream', field: 'compressed pages', message });
}
