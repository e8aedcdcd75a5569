import { checkPayload, decodeFrameHeader, FRAME_HEADER_SIZE, type FrameHeader, MAX_PAYLOAD } from './stream-format.js';

/** A frame that was checked. `payload` is only valid until the next frame is asked for. */
export interface Frame {
  type: number;
  payload: Uint8Array;
}

/**
 * Finds frames in a stream that arrives in pieces of any size. A frame is given out only when it is whole and its checksums are right.
 *
 * One buffer of the largest payload serves all frames: memory does not grow with what a peer announces.
 */
export class FrameParser {
  readonly #headerBytes = new Uint8Array(FRAME_HEADER_SIZE);
  readonly #payload = new Uint8Array(MAX_PAYLOAD);
  #header: FrameHeader | undefined;
  #filled = 0;
  #sequence = 0;

  /** Whether the stream may end here: no frame is begun. */
  get atBorder(): boolean {
    return this.#header === undefined && this.#filled === 0;
  }

  /**
   * Takes a piece of the stream; gives the frames that it completes.
   * @throws VfioError EBADMSG, EMSGSIZE: the stream is broken, nothing behind that place can be trusted
   */
  *push(piece: Uint8Array): Generator<Frame> {
    let rest = piece;
    while (true) {
      if (this.#header === undefined) {
        rest = this.#fill(this.#headerBytes, FRAME_HEADER_SIZE, rest);
        if (this.#filled < FRAME_HEADER_SIZE) return;
        this.#header = decodeFrameHeader(this.#headerBytes, this.#sequence);
        this.#filled = 0;
      }
      rest = this.#fill(this.#payload, this.#header.length, rest);
      if (this.#filled < this.#header.length) return;
      yield this.#finish(this.#header);
    }
  }

  #fill(target: Uint8Array, size: number, from: Uint8Array): Uint8Array {
    const count = Math.min(size - this.#filled, from.length);
    target.set(from.subarray(0, count), this.#filled);
    this.#filled += count;
    return from.subarray(count);
  }

  #finish(header: FrameHeader): Frame {
    const payload = this.#payload.subarray(0, header.length);
    checkPayload(header, payload);
    this.#header = undefined;
    this.#filled = 0;
    this.#sequence++;
    return { type: header.type, payload };
  }
}
