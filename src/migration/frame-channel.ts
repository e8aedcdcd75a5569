import type { Socket } from 'node:net';
import { asVfioError, VfioError, viewOf } from '../uapi/index.js';
import { type Frame, FrameParser } from './frame-parser.js';
import {
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
 */
export class FrameChannel {
  readonly #socket: Socket;
  readonly #parser = new FrameParser();
  readonly #frames: AsyncGenerator<Frame>;
  readonly #free: Uint8Array[] = [];
  #made = 0;
  #waiting: { resolve: (buffer: Uint8Array) => void; reject: (error: unknown) => void }[] = [];
  #sequence = 0;
  #failure: VfioError | undefined;
  #bytesSent = 0;

  /** @param timeoutMs how long nothing may move in either direction before the connection counts as lost */
  constructor(socket: Socket, timeoutMs = 60_000) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.setTimeout(timeoutMs, () => {
      this.destroy(new VfioError('ETIMEDOUT', { operation: OPERATION, message: `nothing moved for ${timeoutMs} ms` }));
    });
    socket.on('error', error => this.#fail(asVfioError(error, OPERATION)));
    socket.on('close', () => this.#fail(closed()));
    this.#frames = this.#read();
  }

  /** Bytes sent so far, headers included. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  async *#read(): AsyncGenerator<Frame> {
    // A broken frame must not close the socket before the peer was told why.
    const pieces = this.#socket.iterator({ destroyOnReturn: false });
    for await (const piece of pieces) yield* this.#parser.push(piece as Uint8Array);
  }

  /**
   * The next frame. Its payload is valid until the next call.
   * @throws VfioError ECONNRESET when the peer is gone, ECONNABORTED with its words when it gave up, EBADMSG for a broken stream
   */
  async next(): Promise<Frame> {
    let result: IteratorResult<Frame>;
    try {
      result = await this.#frames.next();
    } catch (error) {
      throw this.#failure ?? asVfioError(error, OPERATION, 'ECONNRESET');
    }
    if (result.done) throw this.#failure ?? closed();
    if (result.value.type === FrameType.ABORT) throw decodeAbort(result.value.payload);
    return result.value;
  }

  /** The next frame, which must be of this type. @throws VfioError as {@link FrameChannel.next}; EPROTO for another frame */
  async expect(type: FrameType): Promise<Uint8Array> {
    const frame = await this.next();
    if (frame.type !== type) throw unexpected(frame.type, frameName(type));
    return frame.payload;
  }

  /** Sends a frame; done when there is room for another, not when the peer has it. @throws VfioError ECONNRESET */
  async send(type: FrameType, payload: Uint8Array = new Uint8Array(0)): Promise<void> {
    await this.sendFilled(type, payload.length, into => into.set(payload));
  }

  /** Sends a frame whose payload of `length` bytes `fill` writes, straight into the channel's buffer. @throws VfioError ECONNRESET */
  async sendFilled(type: FrameType, length: number, fill: (into: Uint8Array) => void): Promise<void> {
    const buffer = await this.#buffer();
    const payload = buffer.subarray(FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + length);
    fill(payload);
    encodeFrameHeader(buffer, type, this.#sequence++, payload);
    this.#bytesSent += FRAME_HEADER_SIZE + length;
    this.#socket.write(buffer.subarray(0, FRAME_HEADER_SIZE + length), error => {
      if (error) this.#fail(asVfioError(error, OPERATION));
      this.#release(buffer);
    });
  }

  /** Sends a part of a device's migration data, at most a block. @throws VfioError ECONNRESET */
  async sendDeviceState(device: number, data: Uint8Array): Promise<void> {
    await this.sendFilled(FrameType.DEVICE_STATE, 8 + data.length, into => {
      viewOf(into).setUint32(0, device, true);
      viewOf(into).setUint32(4, 0, true);
      into.set(data, 8);
    });
  }

  #buffer(): Promise<Uint8Array> | Uint8Array {
    if (this.#failure !== undefined) throw this.#failure;
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

  /** Tells the peer why, as far as that still works, and closes. */
  async abort(error: VfioError): Promise<void> {
    if (this.#failure === undefined) {
      await this.send(FrameType.ABORT, encodeAbort(error)).catch(() => {});
      this.#discardIncoming();
      await this.end();
    }
    this.destroy(error);
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
    this.#socket.destroy();
  }

  #fail(error: VfioError): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
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
