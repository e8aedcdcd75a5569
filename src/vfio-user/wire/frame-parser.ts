import type { OwnedFd } from '../../native/index.js';
import { VfioError } from '../../uapi/index.js';
import { commandName, NO_BYTES } from './constants.js';
import { decodeHeader, HEADER_SIZE, type Header } from './header.js';
import { KeptPayload } from './kept-payload.js';
import { copyBytes } from './new-bytes.js';

/*
 * Bytes and descriptors, as they come off a socket, to whole messages.
 *
 * Bytes come in any pieces. Descriptors that come with a piece belong to the message in which the piece's last byte lies: the kernel hands
 * over bytes without descriptors together with the next bytes that carry some, and stops there. Example: messages A and B of 20 bytes,
 * B with a descriptor, may arrive as 15 bytes, then 25 bytes and the descriptor: byte 25 of the second piece is B's.
 */

/** A whole message. Who gets it owns its descriptors: those that are not taken must be closed. */
export interface Frame {
  readonly header: Header;
  /** The bytes behind the header; nobody else holds them. */
  readonly payload: Uint8Array;
  readonly fds: OwnedFd[];
  /** Descriptors were sent that this process was not able to take. */
  readonly fdsLost: boolean;
}

/** What a {@link FrameParser} may take, and whom it tells. */
export interface FrameSink {
  /** A message is whole. */
  frame(frame: Frame): void;
  /** The header is of no message that can be read to its end. Nothing behind it can be understood: the parser takes no more. */
  broken(header: Header, error: VfioError): void;
}

/** Closes the descriptors of a message that nobody took. */
export function closeFds(fds: readonly OwnedFd[]): void {
  for (const fd of fds) fd.close();
}

/** From here on a payload is received in its own place: below, one receive brings several messages. */
const LEAST_IN_PLACE = 64 * 1024;

/** A push parser that keeps the part of a message that has come so far. */
export class FrameParser {
  /** Most bytes behind a header. A size field beyond it is refused before memory is taken for it. */
  maxPayload: number;
  readonly #maxFds: number;
  readonly #sink: FrameSink;
  readonly #headerBytes = new Uint8Array(HEADER_SIZE);
  readonly #headerView = new DataView(this.#headerBytes.buffer);
  #headerFilled = 0;
  #header: Header | undefined;
  readonly #payloads = new KeptPayload();
  #payload = NO_BYTES;
  #payloadFilled = 0;
  #fds: OwnedFd[] = [];
  #fdsLost = false;
  #closed = false;

  /** @param maxFds most descriptors that a message may bring; the others are closed. */
  constructor(maxPayload: number, maxFds: number, sink: FrameSink) {
    this.maxPayload = maxPayload;
    this.#maxFds = maxFds;
    this.#sink = sink;
  }

  /**
   * Takes what one receive brought; copied.
   * @param fds owned by the parser from now on.
   * @param fdsLost whether descriptors were lost with these bytes.
   */
  push(bytes: Uint8Array, fds: readonly OwnedFd[], fdsLost = false): void {
    for (let offset = 0; offset < bytes.length; ) {
      offset = this.#closed ? bytes.length : this.#take(bytes, offset);
      if (offset === bytes.length) this.#attach(fds, fdsLost);
      this.#emitIfWhole();
    }
  }

  /**
   * Where the next bytes belong, when they are the rest of a large payload: received there, they need no copy. {@link FrameParser.filled} says
   * how many have come.
   */
  get unfilled(): Uint8Array | undefined {
    if (this.#payload.length - this.#payloadFilled < LEAST_IN_PLACE) return undefined;
    return this.#payload.subarray(this.#payloadFilled);
  }

  /** The first `count` bytes of {@link FrameParser.unfilled} have come; otherwise as {@link FrameParser.push}. */
  filled(count: number, fds: readonly OwnedFd[], fdsLost: boolean): void {
    this.#payloadFilled += count;
    this.#attach(fds, fdsLost);
    this.#emitIfWhole();
  }

  /** Takes the memory of a payload, or of a part of it, that nobody holds any more, for the next large one. */
  reuse(payload: Uint8Array): void {
    this.#payloads.giveBack(payload);
  }

  /** Whether the next byte begins a message. */
  get isBetweenMessages(): boolean {
    return this.#headerFilled === 0 && !this.#closed;
  }

  /** Takes nothing more, and closes the descriptors of the message that was not finished. A second call does nothing. */
  close(): void {
    this.#closed = true;
    this.#header = undefined;
    this.#payload = NO_BYTES;
    this.#payloadFilled = 0;
    closeFds(this.#fds.splice(0));
  }

  #take(bytes: Uint8Array, offset: number): number {
    if (this.#header === undefined) return this.#takeHeader(bytes, offset);
    const count = Math.min(bytes.length - offset, this.#payload.length - this.#payloadFilled);
    copyBytes(bytes, offset, count, this.#payload, this.#payloadFilled);
    this.#payloadFilled += count;
    return offset + count;
  }

  #takeHeader(bytes: Uint8Array, offset: number): number {
    const count = Math.min(bytes.length - offset, HEADER_SIZE - this.#headerFilled);
    copyBytes(bytes, offset, count, this.#headerBytes, this.#headerFilled);
    this.#headerFilled += count;
    if (this.#headerFilled === HEADER_SIZE) this.#begin(decodeHeader(this.#headerView));
    return offset + count;
  }

  #begin(header: Header): void {
    const payloadSize = header.size - HEADER_SIZE;
    if (payloadSize < 0 || payloadSize > this.maxPayload) {
      this.close();
      const message = `${header.size} bytes, not within ${HEADER_SIZE} and ${HEADER_SIZE + this.maxPayload}`;
      this.#sink.broken(
        header,
        new VfioError('EINVAL', { operation: commandName(header.command), field: 'size', message }),
      );
      return;
    }
    this.#header = header;
    this.#payload = payloadSize === 0 ? NO_BYTES : this.#payloads.take(payloadSize);
    this.#payloadFilled = 0;
  }

  #attach(fds: readonly OwnedFd[], fdsLost: boolean): void {
    if (fdsLost) this.#fdsLost = true;
    if (fds.length === 0) return;
    const room = this.#closed ? 0 : this.#maxFds - this.#fds.length;
    this.#fds.push(...fds.slice(0, room));
    closeFds(fds.slice(room));
  }

  #emitIfWhole(): void {
    if (this.#header !== undefined && this.#payloadFilled === this.#payload.length) this.#emit(this.#header);
  }

  #emit(header: Header): void {
    const frame = { header, payload: this.#payload, fds: this.#fds, fdsLost: this.#fdsLost };
    this.#headerFilled = 0;
    this.#header = undefined;
    this.#payload = NO_BYTES;
    this.#fds = [];
    this.#fdsLost = false;
    this.#sink.frame(frame);
  }
}
