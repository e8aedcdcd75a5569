import {
  checkPayload,
  decodeFrameHeader,
  FRAME_HEADER_SIZE,
  type FrameHeader,
  isSequenced,
  MAX_CONTROL_PAYLOAD,
  MAX_PAYLOAD,
} from './stream-format.js';

/** A frame that was checked. `payload` is only valid until the second next frame is asked for; without a sequence, until the next. */
export interface Frame {
  type: number;
  payload: Uint8Array;
}

/**
 * Finds frames in a stream that arrives in pieces of any size. A frame is given out only when it is whole and its checksums are right.
 *
 * Two buffers serve all frames in turn, so that one can be in use while the next one comes, and a small third one those without a sequence:
 * memory does not grow with what a peer announces.
 */
export class FrameParser {
  readonly #headerBytes = new Uint8Array(FRAME_HEADER_SIZE);
  readonly #payloads = [new Uint8Array(0), new Uint8Array(0)];
  readonly #controlPayload = new Uint8Array(MAX_CONTROL_PAYLOAD);
  #header: FrameHeader | undefined;
  #payload: Uint8Array = this.#controlPayload;
  #filled = 0;
  #sequence = 0;

  /** Whether the stream may end here: no frame is begun. */
  get atBorder(): boolean {
    return this.#header === undefined && this.#filled === 0;
  }

  /** The sequence of the next frame. */
  get sequence(): number {
    return this.#sequence;
  }

  /**
   * Where the next bytes of the stream belong, up to the end of a header or of a payload. Whoever reads them to there, and then pushes that
   * place, saves a copy.
   */
  get place(): Uint8Array {
    if (this.#header === undefined) return this.#headerBytes.subarray(this.#filled);
    return this.#payload.subarray(this.#filled, this.#header.length);
  }

  /** Another connection begins: a frame that was not whole comes again. */
  restart(): void {
    this.#header = undefined;
    this.#filled = 0;
  }

  /**
   * Takes a piece of the stream; gives the frames that it completes.
   * @throws VfioError EBADMSG when the stream is broken: nothing behind that place can be trusted; EPROTO, EMSGSIZE for a frame that is whole
   *   and wrong
   */
  *push(piece: Uint8Array): Generator<Frame, void> {
    let rest = piece;
    while (true) {
      if (this.#header === undefined) {
        rest = this.#fill(this.#headerBytes, FRAME_HEADER_SIZE, rest);
        if (this.#filled < FRAME_HEADER_SIZE) return;
        this.#header = decodeFrameHeader(this.#headerBytes, this.#sequence);
        this.#payload = this.#bufferFor(this.#header);
        this.#filled = 0;
      }
      rest = this.#fill(this.#payload, this.#header.length, rest);
      if (this.#filled < this.#header.length) return;
      yield this.#finish(this.#header);
    }
  }

  #bufferFor({ type, length }: FrameHeader): Uint8Array {
    if (!isSequenced(type)) return this.#controlPayload;
    const turn = this.#sequence % 2;
    if (this.#payloads[turn]!.length < length) {
      // Most connections carry small frames, or blocks.
      const size = length <= MAX_CONTROL_PAYLOAD ? MAX_CONTROL_PAYLOAD : MAX_PAYLOAD;
      this.#payloads[turn] = new Uint8Array(size);
    }
    return this.#payloads[turn]!;
  }

  #fill(target: Uint8Array, size: number, from: Uint8Array): Uint8Array {
    const count = Math.min(size - this.#filled, from.length);
    const isThere = from.buffer === target.buffer && from.byteOffset === target.byteOffset + this.#filled;
    if (!isThere) target.set(from.subarray(0, count), this.#filled);
    this.#filled += count;
    return from.subarray(count);
  }

  #finish(header: FrameHeader): Frame {
    const payload = this.#payload.subarray(0, header.length);
    checkPayload(header, payload);
    this.#header = undefined;
    this.#filled = 0;
    if (isSequenced(header.type)) this.#sequence++;
    return { type: header.type, payload };
  }
}
