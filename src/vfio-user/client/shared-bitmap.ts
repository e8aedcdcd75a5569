import { PeerMapping } from '../../memory/index.js';
import { OwnedFd } from '../../native/index.js';
import { bitmapBytes, isPowerOfTwo, VfioError } from '../../uapi/index.js';
import type { ReportSharedMessage } from '../wire/extension-messages.js';

/** Which part of a memory file is a bitmap that a server reports into. */
export interface BitmapPlace {
  /** Bytes, a multiple of 4096; default 0. */
  offset?: bigint;
  /** Bytes, a multiple of 8. */
  size: bigint;
}

/** What is asked for into a {@link SharedBitmap}. */
export interface SharedReport extends Omit<ReportSharedMessage, 'handle' | 'offset'> {
  /** Where the report's bit 0 lies, bytes from the bitmap's start, a multiple of 8; default 0. */
  offset?: bigint;
}

/**
 * A bitmap in a memory file that a server has attached. Others may report into the same file, devices in other processes too: bits only come,
 * by atomic OR, and go when their reader takes them.
 */
export class SharedBitmap {
  /** The server's name for it. */
  readonly handle: number;
  readonly #peer: PeerMapping;

  /** @internal Made by `VfioUserClient.attachBitmap`. */
  constructor(handle: number, peer: PeerMapping) {
    this.handle = handle;
    this.#peer = peer;
  }

  /** Bytes. */
  get size(): bigint {
    return BigInt(this.#peer.mapping.length);
  }

  /**
   * The words that a report goes to.
   * @throws VfioError EINVAL when the report does not fit, its place is no multiple of 8, or its page size no power of two
   */
  wordsFor({ offset = 0n, length, pageSize }: SharedReport): Uint32Array {
    if (!isPowerOfTwo(pageSize)) {
      const message = `${pageSize} is no power of two`;
      throw new VfioError('EINVAL', { operation: 'REPORT_SHARED', field: 'page_size', message });
    }
    const needed = bitmapBytes(length, pageSize);
    if (offset % 8n !== 0n || offset < 0n || offset + needed > this.size) {
      const message = `${needed} bytes at ${offset} of a bitmap of ${this.size}`;
      throw new VfioError('EINVAL', { operation: 'REPORT_SHARED', field: 'offset', message });
    }
    const bytes = this.#peer.mapping.view(Number(offset), Number(needed));
    return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  }

  /** @internal Ends the mapping here. */
  close(): void {
    this.#peer.close();
  }
}

/**
 * Maps a bitmap's part of a file, on this side.
 * @param fd stays the caller's
 * @throws VfioError EINVAL for a file that may shrink or is too short; EBADF, EACCES, ENOMEM as mmap(2)
 */
export function mapBitmap(fd: number, { offset = 0n, size }: BitmapPlace): PeerMapping {
  const rights = { read: true, write: true };
  return new PeerMapping(new OwnedFd(fd).duplicate(), offset, size, rights, 'BITMAP_ATTACH');
}
