import type { Duplex } from 'node:stream';
import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { BulkSocket } from '../link/bulk-socket.js';
import { type Dial, type LinkEvent, LinkKeeper, type LinkUser } from '../link/link-keeper.js';
import type { Resume } from '../link/resume.js';
import type { Frame } from './frame-parser.js';
import { Inbox } from './inbox.js';
import { SendWindow } from './send-window.js';
import {
  type Abort,
  decodeAbort,
  encodeAbort,
  encodeControlFrame,
  encodeFrameHeader,
  FRAME_HEADER_SIZE,
  FrameType,
  frameName,
  isSequenced,
} from './stream-format.js';
import { unexpected } from './unexpected.js';

export { unexpected };

/** An acknowledgement is due after so many frames: a quarter of what a sender keeps, of a lane half. */
const FRAMES_TO_ACKNOWLEDGE = 2;

/** How long a link that is lost is waited for with the word that this end gives up, milliseconds. */
const LAST_WORD_MS = 1000;

/** What a {@link FrameChannel} is made of. */
export interface FrameChannelOptions {
  /** The channel's number in its session; default 0, the migration's own. */
  number?: number;
  /** How long the other end may be silent, or out of reach, milliseconds; default 60,000. */
  timeoutMs?: number | undefined;
  /** How many frames may be sent and not yet acknowledged; default 8. Each takes memory for a block. */
  window?: number;
  /** Makes a connection, at the end that connects: see {@link FrameChannel.connect}. */
  dial?: Dial;
  /** Hears when connections are lost, and when the channel goes on. */
  onLinkEvent?: ((event: LinkEvent) => void) | undefined;
}

/**
 * Frames both ways, over one connection after another.
 *
 * A connection that is lost, or that brings damaged bytes, is replaced by another: the end that connects dials again, both say where they
 * are, and each sends again what the other has not got. Frames come exactly once and in order, whatever becomes of connections. That ends
 * with {@link FrameChannel.sendDecisive} and {@link FrameChannel.keepConnection}, when the session's {@link FrameChannel.token} is not known
 * yet at the end that listens, when for {@link FrameChannel.patienceMs} no connection came, or none that brought anything on, when for a tenth
 * of that every attempt was refused, or when what came was damaged three times in a row.
 *
 * Sent frames are kept until the other end has applied them. Sending waits while the window is full of those; receiving takes two frames at most
 * before it is asked, so that a fast peer waits for a slow disk or device. Guest memory is copied into a buffer of the channel's own before
 * its checksum is taken: a device may write the page at the same time, and a checksum of bytes that then change would refuse a good block.
 *
 * Each end tells the other that it is there while it is busy with something else, hashing memory or loading a device; so silence means that
 * the link or the peer is dead.
 */
export class FrameChannel {
  /** The channel's number in its session. */
  readonly number: number;
  /** How long this end waits for a sign of life, milliseconds. */
  readonly timeoutMs: number;
  readonly #keeper: LinkKeeper;
  readonly #inbox = new Inbox(frame => this.#takeControl(frame));
  readonly #window: SendWindow;
  #reader: { resolve: (frame: Frame) => void; reject: (error: unknown) => void } | undefined;
  /** The sequence up to which the other end was told what was applied here, on the connection that is there; and in the last RESUME. */
  #acknowledged = 0;
  #resumedAt = 0;
  /** The channel is of no use any more. */
  #failure: VfioError | undefined;
  /** This end has given up: nothing more is taken or sent, but the last word. */
  #givenUp: VfioError | undefined;
  #peerAbort: Abort | undefined;
  #farewell: Promise<void> | undefined;
  #bytesSent = 0;

  constructor(options: FrameChannelOptions = {}) {
    const { number = 0, timeoutMs = 60_000, window, dial, onLinkEvent } = options;
    this.number = number;
    this.timeoutMs = timeoutMs;
    this.#window = new SendWindow(window);
    this.#keeper = new LinkKeeper({ channel: number, timeoutMs, dial, onLinkEvent }, this.#linkUser());
  }

  #linkUser(): LinkUser {
    return {
      onPiece: piece => this.#takePiece(piece),
      place: () => {
        this.#resumedAt = this.#inbox.applied;
        return { next: this.#inbox.next, applied: this.#inbox.applied };
      },
      progress: () => this.#inbox.next + this.#window.acknowledged,
      framesBehind: theirs => {
        const frames = this.#window.from(theirs.next);
        this.#window.acknowledge(Math.min(theirs.applied, theirs.next));
        return frames;
      },
      onUnlinked: () => this.#inbox.restart(),
      onLinked: () => {
        // Frames may have been applied since this end said where it was.
        this.#acknowledged = this.#resumedAt;
        if (this.#reader !== undefined) this.#acknowledge();
        if (this.#inbox.isFull) this.#keeper.link?.pause();
      },
      onDrained: () => this.#acknowledge(),
      isStuck: () => this.#inbox.isFull && this.#window.isAwaited,
      onAbort: payload => this.#takeAbort(payload),
      onFailed: error => this.#fail(error),
    };
  }

  /** Bytes sent so far, headers included; what was sent again after a lost connection counts once. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** What the peer said when it gave up, if it did. */
  get peerAbort(): Abort | undefined {
    return this.#peerAbort;
  }

  /** How long to wait for another connection after one is lost, milliseconds; at first {@link FrameChannel.timeoutMs}. */
  get patienceMs(): number {
    return this.#keeper.patienceMs;
  }

  set patienceMs(patienceMs: number) {
    this.#keeper.patienceMs = patienceMs;
  }

  /** The session's secret, by which a source that comes again is known: 16 bytes that the destination makes. */
  get token(): Uint8Array | undefined {
    return this.#keeper.token;
  }

  set token(token: Uint8Array) {
    this.#keeper.token = token;
  }

  /** Whether there is a connection now. */
  get isConnected(): boolean {
    return this.#keeper.link !== undefined;
  }

  /** Makes the first connection. @throws as the dialling does: only later ones are tried again */
  async connect(): Promise<void> {
    await this.#keeper.connect();
  }

  /** Uses a first connection, at the end that listens. */
  begin(socket: Duplex): void {
    this.#keeper.begin(socket);
    this.#readInBulk(socket);
  }

  /**
   * Uses a connection by which the other end has come again. The one before is closed, if it was not: nothing of it is heard any more.
   * @param resume what the connection began with; its token and channel are this channel's
   * @throws VfioError ESTALE for a connection older than the one in use, or when there shall be no other; EPROTO for a place that cannot be.
   *   Nothing has happened then
   */
  attach(socket: Duplex, resume: Resume): void {
    this.#keeper.attach(socket, resume);
    this.#readInBulk(socket);
  }

  /** Straight to where the bytes belong, if that is known: that saves a copy. */
  #readInBulk(socket: Duplex): void {
    if (socket instanceof BulkSocket) socket.readInBulk(() => this.#inbox.place);
  }

  /** Gives a sign of life often enough for a peer that waits this long, milliseconds. */
  keepAlive(peerTimeoutMs: number): void {
    this.#keeper.giveSigns(peerTimeoutMs);
  }

  /** From here on the channel lives and dies with the connection that it has. */
  keepConnection(): void {
    this.#keeper.keepThisOnly();
  }

  /**
   * The next frame; the one before has been applied. Its payload is valid until the next call.
   * @throws VfioError ECONNRESET, ETIMEDOUT when the peer is gone, ECONNABORTED with its words when it gave up, EBADMSG, EPROTO for a broken
   *   stream, or why this end has given up
   */
  async next(): Promise<Frame> {
    const frame = this.#inbox.take();
    this.#keeper.healing(() => this.#inbox.goOn());
    if (!this.#inbox.isFull) this.#keeper.resumeReading();
    this.throwIfGivenUp();
    if (frame !== undefined) {
      if (this.#inbox.applied - this.#acknowledged >= FRAMES_TO_ACKNOWLEDGE) this.#acknowledge();
      return frame;
    }
    const later = this.#inbox.take();
    if (later !== undefined) return later;
    if (this.#failure !== undefined) throw this.#failure;
    // Nobody knows when the next one comes: whoever waits for this shall not wait as long.
    this.#acknowledge();
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
    });
  }

  /** The next frame, which must be of this type. @throws VfioError as {@link FrameChannel.next}; EPROTO for another frame */
  async expect(type: FrameType): Promise<Uint8Array> {
    const frame = await this.next();
    if (frame.type !== type) throw unexpected(frame.type, frameName(type));
    return frame.payload;
  }

  #takePiece(piece: Uint8Array): void {
    this.#inbox.push(piece);
    if (this.#reader !== undefined && this.#failure === undefined) {
      const frame = this.#inbox.take();
      if (frame !== undefined) {
        this.#reader.resolve(frame);
        this.#reader = undefined;
        this.#inbox.goOn();
      }
    }
    if (this.#inbox.isFull) this.#keeper.link?.pause();
  }

  #takeControl({ type, payload }: Frame): void {
    if (type === FrameType.ABORT) this.#takeAbort(payload);
    else if (type === FrameType.ACK) this.#takeAck(payload);
    else if (type !== FrameType.KEEP_ALIVE) throw unexpected(type, 'the next frame');
  }

  #takeAck(payload: Uint8Array): void {
    requireBytes(payload, 4, 'ACK');
    this.#window.acknowledge(viewOf(payload).getUint32(0, true));
  }

  #takeAbort(payload: Uint8Array): void {
    this.#peerAbort = decodeAbort(payload);
    this.#keeper.fail(this.#peerAbort.error);
  }

  #acknowledge(): void {
    const { applied } = this.#inbox;
    const { link } = this.#keeper;
    // A peer that sends much and reads nothing must not fill the memory here: one word for all is due when there is room.
    if (applied === this.#acknowledged || link === undefined || link.isBacklogged) return;
    const payload = new Uint8Array(4);
    viewOf(payload).setUint32(0, applied, true);
    this.#writeControl(FrameType.ACK, payload);
    this.#acknowledged = applied;
  }

  /**
   * Sends a frame; done when it is on its way, not when the peer has it. One without a sequence goes out before those that wait, if there is
   * a connection.
   * @throws VfioError ECONNRESET, or why this end has given up. Nothing was sent then.
   */
  async send(type: FrameType, payload: Uint8Array = new Uint8Array(0)): Promise<void> {
    if (!isSequenced(type)) {
      this.#throwIfEnded();
      this.#writeControl(type, payload);
      return;
    }
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
    this.#throwIfEnded();
    const buffer = await this.#window.buffer();
    this.#send(type, buffer, most, fill);
  }

  /**
   * Sends an empty frame that must not be sent twice: on a connection that is there, once. From then on the channel lives and dies with that
   * connection.
   * @throws VfioError as {@link FrameChannel.send}
   */
  async sendDecisive(type: FrameType): Promise<void> {
    this.#throwIfEnded();
    const buffer = await this.#window.buffer();
    while (!this.isConnected && this.#failure === undefined && this.#givenUp === undefined) await this.#keeper.linked();
    this.keepConnection();
    this.#send(type, buffer, 0, () => 0);
  }

  #send(type: FrameType, buffer: Uint8Array, most: number, fill: (into: Uint8Array) => number): void {
    let size: number;
    try {
      this.#throwIfEnded();
      size = FRAME_HEADER_SIZE + fill(buffer.subarray(FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + most));
    } catch (error) {
      this.#window.giveBack(buffer);
      throw error;
    }
    const frame = buffer.subarray(0, size);
    encodeFrameHeader(frame, type, this.#window.next, frame.subarray(FRAME_HEADER_SIZE));
    this.#window.keep(buffer, size);
    this.#bytesSent += size;
    this.#keeper.link?.write(frame);
  }

  /** Done when the other end has applied all that was sent. @throws VfioError as {@link FrameChannel.send} */
  async flush(): Promise<void> {
    this.#throwIfEnded();
    await this.#window.flushed();
  }

  /** A small frame of its own, past the buffers that may all be in use, on the connection that is there. */
  #writeControl(type: FrameType, payload: Uint8Array): void {
    const frame = encodeControlFrame(type, payload);
    this.#bytesSent += frame.length;
    this.#keeper.link?.write(frame);
  }

  /**
   * Gives up: whoever waits here gets `error`, and nothing that comes is taken any more. The peer is not told yet: see
   * {@link FrameChannel.abort}.
   */
  giveUp(error: VfioError): void {
    this.#givenUp ??= error;
    this.#rejectAll(this.#givenUp);
  }

  /** @throws VfioError why this end has given up, if it has */
  throwIfGivenUp(): void {
    if (this.#givenUp !== undefined) throw this.#givenUp;
  }

  /** Gives up, tells the peer why, as far as that still works, and closes: a second at most, and another for a link that is lost to come back. */
  abort(abort: Abort): Promise<void> {
    this.#farewell ??= this.#leave(abort);
    return this.#farewell;
  }

  async #leave(abort: Abort): Promise<void> {
    this.giveUp(abort.error);
    // Without the word the other end would wait for this one as long as it is patient.
    if (!this.isConnected) await this.#keeper.linkedWithin(LAST_WORD_MS);
    if (this.isConnected && this.#peerAbort === undefined) {
      this.#writeControl(FrameType.ABORT, encodeAbort(abort));
      await this.end();
    }
    this.destroy(abort.error);
  }

  /** Says that nothing more comes, and waits for the peer to close too; a second at most. */
  async end(): Promise<void> {
    await this.#keeper.end();
  }

  /** Closes at once. Idempotent. */
  destroy(error: VfioError = closed()): void {
    this.#keeper.destroy();
    this.#fail(error);
  }

  #throwIfEnded(): void {
    const reason = this.#givenUp ?? this.#failure;
    if (reason !== undefined) throw reason;
  }

  #fail(error: VfioError): void {
    this.#failure ??= error;
    this.#rejectAll(this.#givenUp ?? this.#failure);
  }

  #rejectAll(error: VfioError): void {
    this.#window.fail(error);
    this.#reader?.reject(error);
    this.#reader = undefined;
  }
}

function closed(): VfioError {
  return new VfioError('ECONNRESET', { operation: 'migration stream', message: 'the connection was closed' });
}
