import type { Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import { asVfioError, VfioError, viewOf } from '../../uapi/index.js';
import { type Frame, FrameParser } from './frame-parser.js';
import {
  type Abort,
  decodeAbort,
  encodeAbort,
  encodeFrameHeader,
  FRAME_HEADER_SIZE,
  FrameType,
  frameName,
  MAX_PAYLOAD,
} from './stream-format.js';

/** How many frames may wait in the socket. Each holds one block: with 1 MiB blocks this bounds a sender's memory to 8 MiB. */
const BUFFERS = 8;
/** How long a connection that is to end waits for the peer, milliseconds. */
const LINGER_MS = 1000;
const OPERATION = 'migration stream';

/**
 * Frames over a socket, both ways.
 *
 * Sending waits when the peer does not read; receiving reads only when asked, so that a fast peer waits for a slow disk or device. Guest
 * memory is copied into a buffer of the channel's own before its checksum is taken: a device may write the page at the same time, and a
 * checksum of bytes that then change would refuse a good block.
 *
 * Each end tells the other that it is there while it is busy with something else, hashing memory or loading a device; so silence means that
 * the link or the peer is dead.
 */
export class FrameChannel {
  /** How long this end waits for a sign of life, milliseconds. */
  readonly timeoutMs: number;
  readonly #socket: Socket;
  readonly #parser = new FrameParser();
  readonly #frames: AsyncGenerator<Frame>;
  readonly #free: Uint8Array[] = [];
  #made = 0;
  #waiting: { resolve: (buffer: Uint8Array) => void; reject: (error: unknown) => void }[] = [];
  #sequence = 0;
  /** The connection is of no use any more. */
  #failure: VfioError | undefined;
  /** This end has given up: nothing more is taken or sent, but the last word. */
  #givenUp: VfioError | undefined;
  #peerAbort: Abort | undefined;
  #bytesSent = 0;
  #heardAt = performance.now();
  #isListening = false;
  #keepAlive: NodeJS.Timeout | undefined;
  readonly #watchdog: NodeJS.Timeout;

  /** @param timeoutMs how long the peer may be silent while something is expected of it */
  constructor(socket: Socket, timeoutMs = 60_000) {
    this.#socket = socket;
    this.timeoutMs = timeoutMs;
    socket.setNoDelay(true);
    socket.on('error', error => this.#fail(asVfioError(error, OPERATION)));
    socket.on('close', () => this.#fail(closed()));
    this.#frames = this.#read();
    this.keepAlive(timeoutMs);
    this.#watchdog = setInterval(() => this.#checkSilence(), Math.max(10, timeoutMs / 4));
  }

  /** Bytes sent so far, headers included. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** What the peer said when it gave up, if it did. */
  get peerAbort(): Abort | undefined {
    return this.#peerAbort;
  }

  /** Gives a sign of life often enough for a peer that waits this long, milliseconds. */
  keepAlive(peerTimeoutMs: number): void {
    clearInterval(this.#keepAlive);
    this.#keepAlive = setInterval(
      () => {
        // With bytes still waiting to leave, the peer has signs enough.
        if (this.#socket.writableLength === 0 && this.#usable) this.#write(FrameType.KEEP_ALIVE, new Uint8Array(0));
      },
      Math.max(5, Math.min(peerTimeoutMs, this.timeoutMs) / 4),
    );
  }

  get #usable(): boolean {
    return this.#failure === undefined && this.#givenUp === undefined && this.#socket.readyState === 'open';
  }

  #checkSilence(): void {
    if (!this.#isListening || performance.now() - this.#heardAt < this.timeoutMs) return;
    this.destroy(
      new VfioError('ETIMEDOUT', { operation: OPERATION, message: `nothing came for ${this.timeoutMs} ms` }),
    );
  }

  async *#read(): AsyncGenerator<Frame> {
    // A broken frame must not close the socket before the peer was told why.
    const pieces = this.#socket.iterator({ destroyOnReturn: false });
    for await (const piece of pieces) {
      this.#heardAt = performance.now();
      yield* this.#parser.push(piece as Uint8Array);
    }
  }

  /**
   * The next frame. Its payload is valid until the next call.
   * @throws VfioError ECONNRESET when the peer is gone, ECONNABORTED with its words when it gave up, EBADMSG for a broken stream, ETIMEDOUT
   *   when it is silent, or why this end has given up
   */
  async next(): Promise<Frame> {
    while (true) {
      const frame = await this.#nextOfAny();
      this.throwIfGivenUp();
      if (frame.type === FrameType.ABORT) {
        this.#peerAbort = decodeAbort(frame.payload);
        throw this.#peerAbort.error;
      }
      if (frame.type !== FrameType.KEEP_ALIVE) return frame;
    }
  }

  async #nextOfAny(): Promise<Frame> {
    this.#isListening = true;
    this.#heardAt = performance.now();
    try {
      const result = await this.#frames.next();
      if (!result.done) return result.value;
    } catch (error) {
      throw this.#givenUp ?? this.#failure ?? asVfioError(error, OPERATION, 'ECONNRESET');
    } finally {
      this.#isListening = false;
    }
    throw this.#givenUp ?? this.#failure ?? closed();
  }

  /** The next frame, which must be of this type. @throws VfioError as {@link FrameChannel.next}; EPROTO for another frame */
  async expect(type: FrameType): Promise<Uint8Array> {
    const frame = await this.next();
    if (frame.type !== type) throw unexpected(frame.type, frameName(type));
    return frame.payload;
  }

  /**
   * Sends a frame; done when it is on its way, not when the peer has it.
   * @throws VfioError ECONNRESET, or why this end has given up. Nothing was written then.
   */
  async send(type: FrameType, payload: Uint8Array = new Uint8Array(0)): Promise<void> {
    await this.sendFilled(type, payload.length, into => {
      into.set(payload);
      return payload.length;
    });
  }

  /** Sends a part of a device's migration data, at most a block. @throws VfioError as {@link FrameChannel.send} */
  async sendDeviceState(device: number, data: Uint8Array): Promise<void> {
    await this.sendFilled(FrameType.DEVICE_STATE, 8 + data.length, into => {
      viewOf(into).setUint32(0, device, true);
      viewOf(into).setUint32(4, 0, true);
      into.set(data, 8);
      return into.length;
    });
  }

  /**
   * Sends a frame whose payload of at most `most` bytes `fill` writes, straight into the channel's buffer.
   * @param fill gives the payload's length
   * @throws VfioError as {@link FrameChannel.send}
   */
  async sendFilled(type: FrameType, most: number, fill: (into: Uint8Array) => number): Promise<void> {
    const buffer = await this.#buffer();
    const length = fill(buffer.subarray(FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + most));
    const payload = buffer.subarray(FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + length);
    encodeFrameHeader(buffer, type, this.#sequence++, payload);
    this.#bytesSent += FRAME_HEADER_SIZE + length;
    this.#socket.write(buffer.subarray(0, FRAME_HEADER_SIZE + length), error => {
      if (error) this.#fail(asVfioError(error, OPERATION));
      this.#release(buffer);
    });
  }

  #buffer(): Promise<Uint8Array> | Uint8Array {
    const failure = this.#givenUp ?? this.#failure;
    if (failure !== undefined) throw failure;
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made < BUFFERS) {
      this.#made++;
      return new Uint8Array(FRAME_HEADER_SIZE + MAX_PAYLOAD);
    }
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #release(buffer: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(buffer);
    else next.resolve(buffer);
  }

  /** A small frame of its own, past the buffers that may all be in use. */
  #write(type: FrameType, payload: Uint8Array): void {
    const frame = new Uint8Array(FRAME_HEADER_SIZE + payload.length);
    frame.set(payload, FRAME_HEADER_SIZE);
    encodeFrameHeader(frame, type, this.#sequence++, payload);
    this.#bytesSent += frame.length;
    this.#socket.write(frame);
  }

  /**
   * Gives up: whoever waits here to send gets `error`, and nothing that comes is taken any more. The peer is not told yet: see
   * {@link FrameChannel.abort}.
   */
  giveUp(error: VfioError): void {
    this.#givenUp ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#givenUp);
  }

  /** @throws VfioError why this end has given up, if it has */
  throwIfGivenUp(): void {
    if (this.#givenUp !== undefined) throw this.#givenUp;
  }

  /** Gives up, tells the peer why, as far as that still works, and closes; a second at most. */
  async abort(abort: Abort): Promise<void> {
    const canTell = this.#failure === undefined && this.#socket.readyState === 'open';
    this.giveUp(abort.error);
    if (canTell) {
      this.#write(FrameType.ABORT, encodeAbort(abort));
      this.#discardIncoming();
      await this.end();
    }
    this.destroy(abort.error);
  }

  /** Closing with bytes unread would reset the connection, and the peer might lose our last word with it: they are read and thrown away. */
  #discardIncoming(): void {
    void this.#frames.return(undefined).then(
      () => this.#socket.resume(),
      () => this.#socket.resume(),
    );
  }

  /** Says that nothing more comes, and waits for the peer to close too; a second at most. */
  async end(): Promise<void> {
    clearInterval(this.#keepAlive);
    if (this.#socket.destroyed) return;
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, LINGER_MS);
      this.#socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#socket.end();
    });
  }

  /** Closes at once. Idempotent. */
  destroy(error?: VfioError): void {
    if (error !== undefined) this.#fail(error);
    this.#stopTimers();
    this.#socket.destroy(error);
  }

  #fail(error: VfioError): void {
    this.#failure ??= error;
    this.#stopTimers();
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }

  #stopTimers(): void {
    clearInterval(this.#keepAlive);
    clearInterval(this.#watchdog);
  }
}

/** A frame that does not belong here. */
export function unexpected(type: number, due: string): VfioError {
  return new VfioError('EPROTO', {
    operation: OPERATION,
    field: 'type',
    message: `${frameName(type)} came where ${due} was due`,
  });
}

function closed(): VfioError {
  return new VfioError('ECONNRESET', { operation: OPERATION, message: 'the connection was closed' });
}
