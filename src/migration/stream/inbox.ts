import { type Frame, FrameParser } from './frame-parser.js';
import { isSequenced } from './stream-format.js';

/** One frame is with its taker while the next one comes: the parser has two buffers. */
const MOST_FRAMES = 2;

/**
 * The frames that have come, in order, from one connection after another. It holds two at most; more than that waits in the connection, so
 * that a fast sender waits for a slow disk or device.
 */
export class Inbox {
  readonly #parser = new FrameParser();
  readonly #onControl: (frame: Frame) => void;
  readonly #ready: Frame[] = [];
  /** Pieces of the connection that are not parsed yet. */
  readonly #pieces: Uint8Array[] = [];
  #parsing: Iterator<Frame> | undefined;
  #hasTaker = false;
  #applied = 0;

  /** @param onControl gets frames without a sequence, as soon as they are found: they wait for nobody */
  constructor(onControl: (frame: Frame) => void) {
    this.#onControl = onControl;
  }

  /** The sequence of the next frame to come; all before it are here, whole. */
  get next(): number {
    return this.#parser.sequence;
  }

  /** The sequence of the oldest frame that is not applied yet. */
  get applied(): number {
    return this.#applied;
  }

  /** Whether nothing more can be taken in now. */
  get isFull(): boolean {
    return this.#ready.length + Number(this.#hasTaker) >= MOST_FRAMES;
  }

  /** See {@link FrameParser.place}; `undefined` while that is not known, because pieces wait for room. */
  get place(): Uint8Array | undefined {
    return this.#pieces.length === 0 && this.#parsing === undefined ? this.#parser.place : undefined;
  }

  /** Takes a piece of the connection in. @throws VfioError as {@link FrameParser.push}: the connection is of no use any more */
  push(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.#parse();
  }

  /**
   * The next frame, if there is one; whoever asks has applied the one before. Its payload is valid until it is asked again.
   * @throws VfioError as {@link Inbox.push}
   */
  take(): Frame | undefined {
    if (this.#hasTaker) this.#applied++;
    this.#hasTaker = false;
    const frame = this.#ready.shift();
    this.#hasTaker = frame !== undefined;
    return frame;
  }

  /** Goes on with what waited for room. @throws VfioError as {@link Inbox.push} */
  goOn(): void {
    this.#parse();
  }

  /** The connection is gone: what it left unfinished comes again on the next. */
  restart(): void {
    this.#pieces.length = 0;
    this.#parsing = undefined;
    this.#parser.restart();
  }

  #parse(): void {
    while (!this.isFull) {
      if (this.#parsing === undefined) {
        const piece = this.#pieces.shift();
        if (piece === undefined) return;
        this.#parsing = this.#parser.push(piece);
      }
      const { done, value } = this.#parsing.next();
      if (done === true) this.#parsing = undefined;
      else if (isSequenced(value.type)) this.#ready.push(value);
      else this.#onControl(value);
    }
  }
}
