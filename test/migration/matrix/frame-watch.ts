import { decodeFrameHeader, FRAME_HEADER_SIZE, FrameType } from '../../../src/migration/index.js';
import { viewOf } from '../../../src/uapi/index.js';

/*
 * All that the matrix knows of the stream's form: where in it a frame begins and ends, and what it is.
 */

/** Where the sequence lies in a header: an observer does not know beforehand which one is due. */
const SEQUENCE_OFFSET = 12;

/** A frame that passes by. */
export interface PassingFrame {
  readonly type: number;
  readonly sequence: number;
  /** Bytes, the header's included. */
  readonly size: number;
}

/** Bytes of one frame. Its header comes whole, and all of LANES. */
export interface Segment {
  readonly frame: PassingFrame;
  /** Where in the frame the bytes begin. */
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Takes apart what one end says on one connection, in pieces of any size, without changing it. */
export class FrameWatch {
  /** What came of a frame that cannot be told of yet. */
  #header = new Uint8Array(0);
  #frame: PassingFrame | undefined;
  #offset = 0;

  *push(piece: Uint8Array): Generator<Segment> {
    let rest = piece;
    while (rest.length > 0) {
      if (this.#frame === undefined) {
        const bytes = Buffer.concat([this.#header, rest]);
        if (bytes.length < FRAME_HEADER_SIZE) {
          this.#header = bytes;
          return;
        }
        const frame = frameOf(bytes.subarray(0, FRAME_HEADER_SIZE));
        if (frame.type === FrameType.LANES && bytes.length < frame.size) {
          this.#header = bytes;
          return;
        }
        this.#frame = frame;
        this.#header = new Uint8Array(0);
        rest = bytes;
      }
      const frame = this.#frame;
      const bytes = rest.subarray(0, frame.size - this.#offset);
      rest = rest.subarray(bytes.length);
      yield { frame, offset: this.#offset, bytes };
      this.#offset += bytes.length;
      if (this.#offset < frame.size) continue;
      this.#frame = undefined;
      this.#offset = 0;
    }
  }
}

function frameOf(header: Uint8Array): PassingFrame {
  const sequence = viewOf(header).getUint32(SEQUENCE_OFFSET, true);
  const { type, length } = decodeFrameHeader(header, sequence);
  return { type, sequence, size: FRAME_HEADER_SIZE + length };
}

/** Counts the passes that have gone by, each once, also when a part of the stream is sent again. */
export class PassCount {
  #lastSequence = -1;
  #passes = 0;

  get passes(): number {
    return this.#passes;
  }

  /** A frame has gone by as a whole. */
  add({ type, sequence }: PassingFrame): void {
    if (type !== FrameType.PASS || sequence <= this.#lastSequence) return;
    this.#lastSequence = sequence;
    this.#passes++;
  }
}
