import type { ReplyMemory } from '../../device/index.js';
import type { DmaLog, LentBitmap } from '../../log/index.js';
import { HEADER_SIZE } from '../wire/header.js';
import type { Reply } from './context.js';

/** What stands in front of the bitmap: the message's header, the feature's and the report's, bytes. */
const HEAD_SIZE = HEADER_SIZE + 8 + 24;

/** From here on a reply goes into the log's memory. What is smaller is sent in one piece, and soon made anew. */
const LEAST_SIZE = 64 * 1024;

/**
 * The reply to a report, put together as a whole message in the log's own memory, where the report goes at once and from where it is sent:
 * 8 MiB less to make, to copy and to clear for 256 GiB at 4 KiB pages, each of which takes as long as to send them.
 *
 *     0  header, 16 bytes | 16  feature header, 8 | 24  report, 24 | 48  bitmap
 *
 * The log lends the memory to one reply at a time; others, and small ones, are made anew.
 */
export class ReportReply implements ReplyMemory {
  readonly #log: DmaLog;
  #lent: LentBitmap | undefined;

  constructor(log: DmaLog) {
    this.#log = log;
  }

  take(size: number): Uint8Array {
    if (size >= LEAST_SIZE) this.#lent = this.#log.lendReportBitmap((HEADER_SIZE + size) * 8);
    return this.#lent === undefined
      ? new Uint8Array(size)
      : bytesOf(this.#lent).subarray(HEADER_SIZE, HEADER_SIZE + size);
  }

  /** The reply that a request got, wherever it stands. */
  async of(request: Promise<Uint8Array>): Promise<Reply> {
    try {
      const payload = await request;
      if (this.#lent === undefined) return payload;
      return {
        message: bytesOf(this.#lent).subarray(0, HEADER_SIZE + payload.length),
        giveBack: () => this.#giveBack(),
      };
    } catch (error) {
      this.#giveBack();
      throw error;
    }
  }

  #giveBack(): void {
    if (this.#lent === undefined) return;
    bytesOf(this.#lent).fill(0, 0, HEAD_SIZE);
    this.#lent.giveBack();
    this.#lent = undefined;
  }
}

function bytesOf({ words }: LentBitmap): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}
