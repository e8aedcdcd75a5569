import { HeaderFlag, MessageType } from '../wire/constants.js';
import { HEADER_SIZE } from '../wire/header.js';
import { copyBytes } from '../wire/new-bytes.js';

/*
 * Requests that are made in one turn of the event loop leave in one send: of a pipelined write, the system call is the larger part.
 *
 * The C reference drops a message of which only a part is there when it looks. A UNIX socket takes up to 32 KiB in one piece or not at all,
 * so that a batch of that size is never cut.
 */

const BATCH_SIZE = 32 * 1024;

/** Requests that wait to be sent together. */
export class RequestBatch {
  #bytes = new Uint8Array(BATCH_SIZE);
  #view = new DataView(this.#bytes.buffer);
  #filled = 0;
  #count = 0;

  /** How many wait. */
  get count(): number {
    return this.#count;
  }

  /** Puts a command behind the others. @returns false when there is no room for it */
  add(id: number, command: number, payload: Uint8Array, noReply = false): boolean {
    const at = this.#filled;
    const size = HEADER_SIZE + payload.length;
    if (size > BATCH_SIZE - at) return false;
    const view = this.#view;
    view.setUint16(at, id, true);
    view.setUint16(at + 2, command, true);
    view.setUint32(at + 4, size, true);
    view.setUint32(at + 8, noReply ? MessageType.COMMAND | HeaderFlag.NO_REPLY : MessageType.COMMAND, true);
    view.setUint32(at + 12, 0, true);
    copyBytes(payload, 0, payload.length, this.#bytes, at + HEADER_SIZE);
    this.#filled = at + size;
    this.#count++;
    return true;
  }

  /**
   * Takes all that waits out.
   * @param send gets the bytes, and says whether it keeps them
   */
  flush(send: (bytes: Uint8Array) => boolean): void {
    if (this.#count === 0) return;
    const bytes = this.#bytes.subarray(0, this.#filled);
    this.#filled = 0;
    this.#count = 0;
    if (!send(bytes)) return;
    this.#bytes = new Uint8Array(BATCH_SIZE);
    this.#view = new DataView(this.#bytes.buffer);
  }
}
