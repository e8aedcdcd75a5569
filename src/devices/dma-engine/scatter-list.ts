import { viewOf } from '../../uapi/index.js';
import { SCATTER_ENTRY_SIZE } from './registers.js';

/** One entry of SCATTER's list. */
export interface ScatterEntry {
  /** Where to write. */
  iova: bigint;
  /** Bytes, at most 65536. */
  length: number;
  /** The 32-bit value whose bytes are written, repeated. */
  value: number;
}

/** SCATTER's list as it lies in guest memory. */
export function encodeScatterList(entries: readonly ScatterEntry[]): Uint8Array {
  const bytes = new Uint8Array(entries.length * SCATTER_ENTRY_SIZE);
  const view = viewOf(bytes);
  for (const [index, { iova, length, value }] of entries.entries()) {
    const offset = index * SCATTER_ENTRY_SIZE;
    view.setBigUint64(offset, iova, true);
    view.setUint32(offset + 8, length, true);
    view.setUint32(offset + 12, value, true);
  }
  return bytes;
}
