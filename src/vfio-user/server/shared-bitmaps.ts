import { checkReport } from '../../device/index.js';
import type { DmaLog } from '../../log/index.js';
import { PeerBitmap } from '../../memory/index.js';
import { type OwnedFd, WINDOW_SIZE } from '../../native/index.js';
import { bitmapBytes, VfioError, vfioUser } from '../../uapi/index.js';
import type { BitmapAttachMessage, ReportSharedMessage } from '../wire/extension-messages.js';

/** Most bitmaps that one connection may have attached. */
const MOST_BITMAPS = 16;

const WORD_BYTES = 8;

/**
 * Bitmaps in memory files that a client has attached, to be reported into without a copy through the socket.
 *
 * Bits are ORed in atomically, so that several devices, in as many processes, may report into one bitmap while the client reads and clears
 * it. A bitmap is a mapping of a peer's file like any other: sealed against shrinking, and within what peers may map.
 */
export class SharedBitmaps {
  readonly #attached = new Map<number, PeerBitmap>();
  #nextHandle = 1;

  /**
   * Maps a bitmap.
   * @param file owned by this call from now on, whether it succeeds or throws.
   * @returns the handle that the bitmap goes by from now on
   * @throws VfioError EINVAL for a size of 0, above 1 GiB, or that is no multiple of 8, and as {@link PeerBitmap}; ENOSPC for more than 16
   */
  attach(file: OwnedFd, { offset, size }: BitmapAttachMessage): number {
    const operation = 'BITMAP_ATTACH';
    try {
      if (this.#attached.size >= MOST_BITMAPS) {
        throw new VfioError('ENOSPC', { operation, field: 'handle', message: `${MOST_BITMAPS} bitmaps are attached` });
      }
      if (size === 0n || size > BigInt(WINDOW_SIZE) || size % BigInt(WORD_BYTES) !== 0n) {
        throw new VfioError('EINVAL', { operation, field: 'size', message: `a bitmap cannot have ${size} bytes` });
      }
    } catch (error) {
      file.close();
      throw error;
    }
    const bitmap = new PeerBitmap(file, offset, size, operation);
    const handle = this.#nextHandle++;
    this.#attached.set(handle, bitmap);
    return handle;
  }

  /** Unmaps a bitmap. @throws VfioError EINVAL for a handle that is not attached */
  detach(handle: number): void {
    this.#require('BITMAP_DETACH', handle).close();
    this.#attached.delete(handle);
  }

  /**
   * Read-and-clear into an attached bitmap.
   * @throws VfioError EINVAL for a handle that is not attached, an offset that is no multiple of 8, a report that the bitmap has no room for,
   *   and as `DmaLog.report`; the log is as it was then
   */
  report(log: DmaLog, { handle, offset, ...report }: ReportSharedMessage): void {
    const operation = 'REPORT_SHARED';
    const { words } = this.#require(operation, handle);
    checkReport(vfioUser, report);
    const needed = bitmapBytes(report.length, report.pageSize);
    if (offset % BigInt(WORD_BYTES) !== 0n || offset + needed > BigInt(words.byteLength)) {
      const message = `${needed} bytes at ${offset} of ${words.byteLength}`;
      throw new VfioError('EINVAL', { operation, field: 'offset', message });
    }
    const first = Number(offset) / 4;
    const part = words.subarray(first, first + Number(needed) / 4);
    log.reportShared(report.iova, report.length, report.pageSize, part);
  }

  #require(operation: string, handle: number): PeerBitmap {
    const bitmap = this.#attached.get(handle);
    if (bitmap !== undefined) return bitmap;
    throw new VfioError('EINVAL', { operation, field: 'handle', message: `${handle} is not attached` });
  }

  /** Unmaps all. */
  close(): void {
    for (const bitmap of this.#attached.values()) bitmap.close();
    this.#attached.clear();
  }
}
