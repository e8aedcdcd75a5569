import {
  endReceiving,
  OwnedFd,
  type Received,
  receive,
  receiveAllWaiting,
  receiveWaiting,
  send,
  sendFrom,
  type Watch,
  waitInReceive,
  watch,
} from '../../native/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { NO_BYTES } from './constants.js';
import { closeFds, FrameParser, type FrameSink } from './frame-parser.js';
import { LINGER_MS, TURN_MS } from './limits.js';

/** What a {@link MessageStream} tells its owner. */
export interface StreamEvents extends FrameSink {
  /**
   * Takes whole messages that came without descriptors off the front of what was received, where that is quicker than frames.
   * @param bytes only valid until the call returns; what was received are the first `length`, and they begin with a message
   * @returns how many bytes were taken; the rest becomes frames
   */
  take?(bytes: Uint8Array, length: number): number;
  /** Everything that was queued has been sent. */
  drained(): void;
  /** The connection is over; told once, and nothing after it. `reason` is missing when the peer has ended it. */
  closed(reason: VfioError | undefined): void;
}

interface QueuedMessage {
  bytes: Uint8Array;
  /** Duplicates, until the first byte has left with them. */
  fds: OwnedFd[];
  /** Told when the bytes are no longer needed. */
  giveBack: (() => void) | undefined;
  /** A chain, because taking the first of many from an array moves all the others. */
  next: QueuedMessage | undefined;
}

/** How often one wake-up receives before other descriptors get their turn. */
const RECEIVES_AT_ONCE = 16;

/** How often one receives between two looks at the clock: a look costs 250 ns, and each receive may have waited for {@link WAIT_MS}. */
const RECEIVES_A_CLOCK = 2;

/** How long a stream with a thread for itself waits in the kernel for the next message, milliseconds: a tick of a slow clock. */
const WAIT_MS = 4;

/**
 * Where bytes are received: the parser copies, and no receive happens inside another, so that all connections share it. It holds what one
 * send of a peer brings at most (219,264 bytes on a socket with its size unchanged).
 */
const RECEIVE_SIZE = 256 * 1024;
let sharedBuffer: Uint8Array | undefined;

function receiveBuffer(): Uint8Array {
  sharedBuffer ??= new Uint8Array(RECEIVE_SIZE);
  return sharedBuffer;
}

/**
 * A UNIX socket as a stream of messages. It owns the socket.
 *
 * What does not fit into the socket is queued; the owner holds back when {@link MessageStream.queuedBytes} is not 0. A peer that no longer
 * reads ends nothing by itself: what it has sent is still received, up to its end.
 */
export class MessageStream {
  readonly #socket: OwnedFd;
  readonly #parser: FrameParser;
  readonly #events: StreamEvents;
  readonly #watch: Watch;
  readonly #mayWait: (() => boolean) | undefined;
  #first: QueuedMessage | undefined;
  #last: QueuedMessage | undefined;
  #queuedBytes = 0;
  #wakeUps = 0;
  #paused = false;
  #ending: NodeJS.Timeout | undefined;
  #endReason: VfioError | undefined;
  #deaf = false;
  #closed = false;

  /**
   * @param socket owned by the stream from now on; closed when this throws.
   * @param maxFds see {@link FrameParser}
   * @param mayWait for a stream that has its thread for itself: asked after each message whether the next one may be waited for in the
   *   kernel, where nothing else of this thread runs. That is quicker than a trip through the event loop, which still has its turn every
   *   {@link TURN_MS}, and when nothing comes for some milliseconds.
   * @throws VfioError as `watch`
   */
  constructor(
    socket: OwnedFd,
    maxPayload: number,
    maxFds: number,
    events: StreamEvents,
    mayWait: (() => boolean) | undefined = undefined,
  ) {
    this.#socket = socket;
    this.#events = events;
    this.#mayWait = mayWait;
    this.#parser = new FrameParser(maxPayload, maxFds, events);
    try {
      this.#watch = watch(
        socket.fd,
        { readable: true },
        ready => this.#wake(ready.readable, ready.writable),
        error => this.destroy(asVfioError(error, 'connection')),
      );
      if (mayWait !== undefined) waitInReceive(socket.fd, WAIT_MS);
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  /** Most bytes behind the header of a message that is received from now on. */
  set maxPayload(bytes: number) {
    this.#parser.maxPayload = bytes;
  }

  /** Bytes that the socket has not taken yet. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** How often the event loop has come round to this stream. */
  get wakeUps(): number {
    return this.#wakeUps;
  }

  /** Whether the connection is over. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Sends a message, at once if it fits, else later. Once the peer is gone, it goes nowhere.
   * @param fds stay the caller's, who may close them when this returns.
   * @throws VfioError EMFILE when a message must wait and its descriptors cannot be kept; EBADF for one that is not open. Nothing was sent then.
   */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    if (this.#closed || this.#deaf) return;
    const rest = this.#first === undefined ? this.#sendNow(bytes, fds) : bytes;
    if (rest.length === 0) return;
    const kept = rest.length === bytes.length ? duplicateAll(fds) : [];
    this.#enqueue({ bytes: rest, fds: kept, giveBack: undefined, next: undefined });
  }

  /**
   * Sends the first `length` bytes of a buffer that is used again: what does not fit at once is copied.
   * For messages without descriptors, one or several.
   */
  sendFrom(buffer: Uint8Array, length: number): void {
    if (this.#closed || this.#deaf) return;
    const count = this.#first === undefined ? this.#trySendFrom(buffer, length) : 'again';
    const sent = count === 'again' ? 0 : count;
    if (sent === length) return;
    this.#enqueue({ bytes: buffer.slice(sent, length), fds: [], giveBack: undefined, next: undefined });
  }

  /**
   * Sends a message that stays where it is until it has left.
   * @param giveBack told once, when the bytes are the caller's again: they have left, or never will
   * @throws VfioError as send(2) for a socket that is none; the bytes are the caller's then
   */
  sendLent(bytes: Uint8Array, giveBack: () => void): void {
    let rest = NO_BYTES;
    try {
      if (!this.#closed && !this.#deaf) rest = this.#first === undefined ? this.#sendNow(bytes, []) : bytes;
    } finally {
      if (rest.length === 0) giveBack();
    }
    if (rest.length > 0) this.#enqueue({ bytes: rest, fds: [], giveBack, next: undefined });
  }

  #enqueue(message: QueuedMessage): void {
    this.#queuedBytes += message.bytes.length;
    if (this.#last !== undefined) this.#last.next = message;
    this.#last = message;
    if (this.#first !== undefined) return;
    this.#first = message;
    this.#updateInterest();
  }

  /** Takes the memory of a message's payload, or of a part of it, that nobody holds any more, for the next large one. */
  reuse(payload: Uint8Array): void {
    this.#parser.reuse(payload);
  }

  /** Receives no more until {@link MessageStream.resume}. */
  pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#updateInterest();
  }

  /** Receives again. */
  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#updateInterest();
  }

  /** Takes nothing from the peer any more but what it has sent already; then the connection is over, as if the peer had ended it. */
  endReceiving(): void {
    if (!this.#closed) endReceiving(this.#socket.fd);
  }

  /** Receives no more, and ends the connection when what is queued has been sent, or cannot be within {@link LINGER_MS}. */
  end(reason: VfioError | undefined): void {
    if (this.#closed || this.#ending !== undefined) return;
    this.#parser.close();
    if (this.#first === undefined) {
      this.destroy(reason);
      return;
    }
    this.#endReason = reason;
    this.#ending = setTimeout(() => this.destroy(reason), LINGER_MS);
    this.pause();
  }

  /** Ends the connection at once. A second call does nothing. */
  destroy(reason: VfioError | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#ending);
    this.#parser.close();
    this.#dropQueue();
    this.#watch.close();
    this.#socket.close();
    this.#events.closed(reason);
  }

  #wake(readable: boolean, writable: boolean): void {
    this.#wakeUps++;
    if (writable) this.#flush();
    if (!readable) return;
    this.#receive();
    if (this.#mayWait !== undefined) this.#receiveWaiting(this.#mayWait);
  }

  #receive(): void {
    for (let count = 0; count < RECEIVES_AT_ONCE && !this.#paused && !this.#closed; count++) {
      // A buffer that is not full was probably all: if not, the socket is still readable, and says so again.
      if (this.#takeNow() < RECEIVE_SIZE) return;
    }
  }

  #receiveWaiting(mayWait: () => boolean): void {
    const turnEnds = performance.now() + TURN_MS;
    for (let count = 1; !this.#paused && !this.#closed && this.#first === undefined && mayWait(); count++) {
      if (this.#takeWaiting() === 0) return;
      if (count % RECEIVES_A_CLOCK === 0 && performance.now() > turnEnds) return;
    }
  }

  /**
   * Waits in the kernel for what the peer sends next, and hands it over. For the owner of a stream that may wait, and who knows that something
   * is to come.
   * @returns false when nothing came within some milliseconds, or nothing may be received now
   */
  receiveNext(): boolean {
    if (this.#paused || this.#closed || this.#first !== undefined) return false;
    return this.#takeWaiting() > 0;
  }

  /** The rest of a large message comes to its place at once. */
  #takeNow(): number {
    const rest = this.#parser.unfilled;
    if (rest !== undefined) return this.#takeInPlace(receive(this.#socket.fd, rest));
    return this.#take(receive(this.#socket.fd, receiveBuffer()));
  }

  #takeWaiting(): number {
    const rest = this.#parser.unfilled;
    if (rest !== undefined) return this.#takeInPlace(receiveAllWaiting(this.#socket.fd, rest));
    return this.#take(receiveWaiting(this.#socket.fd, receiveBuffer()));
  }

  #takeInPlace(received: Received | 'again' | 'closed'): number {
    if (this.#isNothing(received)) return 0;
    this.#parser.filled(received.bytes, received.fds, received.fdsLost);
    return received.bytes;
  }

  /** @returns how many bytes were received. */
  #take(received: Received | 'again' | 'closed'): number {
    if (this.#isNothing(received)) return 0;
    const buffer = receiveBuffer();
    const taken = this.#takeQuickly(received, buffer);
    if (taken < received.bytes) {
      this.#parser.push(buffer.subarray(taken, received.bytes), received.fds, received.fdsLost);
    }
    return received.bytes;
  }

  #isNothing(received: Received | 'again' | 'closed'): received is 'again' | 'closed' {
    if (received === 'closed') this.destroy(undefined);
    return received === 'again' || received === 'closed';
  }

  #takeQuickly({ bytes, fds, fdsLost }: Received, buffer: Uint8Array): number {
    if (this.#events.take === undefined || fds.length > 0 || fdsLost || !this.#parser.isBetweenMessages) return 0;
    return this.#events.take(buffer, bytes);
  }

  /** @returns the bytes that did not fit. */
  #sendNow(bytes: Uint8Array, fds: readonly number[]): Uint8Array {
    let rest = bytes;
    while (rest.length > 0) {
      const isWhole = rest.length === bytes.length;
      const count = isWhole ? this.#trySend(rest, fds) : this.#sendRest(rest);
      if (count === 'again') return rest;
      rest = rest.subarray(count);
    }
    return rest;
  }

  /** A message of which a part has left must follow whole: what cannot be sent any more ends the connection. */
  #sendRest(bytes: Uint8Array): number | 'again' {
    try {
      return this.#trySend(bytes, []);
    } catch (error) {
      this.destroy(asVfioError(error, 'send'));
      return bytes.length;
    }
  }

  /** Sends what fits; all of it goes nowhere when the peer no longer reads. */
  #trySend(bytes: Uint8Array, fds: readonly number[]): number | 'again' {
    try {
      return send(this.#socket.fd, bytes, fds);
    } catch (error) {
      return this.#becomeDeaf(error, bytes.length);
    }
  }

  #trySendFrom(buffer: Uint8Array, length: number): number | 'again' {
    try {
      return sendFrom(this.#socket.fd, buffer, length);
    } catch (error) {
      return this.#becomeDeaf(error, length);
    }
  }

  #becomeDeaf(error: unknown, length: number): number {
    if (!(error instanceof VfioError && (error.errno === 'EPIPE' || error.errno === 'ECONNRESET'))) throw error;
    this.#deaf = true;
    return length;
  }

  #flush(): void {
    for (let message = this.#first; message !== undefined; message = this.#first) {
      const files = message.fds.map(owned => owned.fd);
      const count = this.#trySend(message.bytes, files);
      if (count === 'again') return;
      if (this.#deaf) break;
      closeFds(message.fds.splice(0));
      this.#queuedBytes -= count;
      message.bytes = message.bytes.subarray(count);
      if (message.bytes.length > 0) continue;
      this.#first = message.next;
      message.giveBack?.();
    }
    this.#dropQueue();
    if (this.#ending !== undefined) {
      this.destroy(this.#endReason);
      return;
    }
    this.#updateInterest();
    this.#events.drained();
  }

  #dropQueue(): void {
    for (let message = this.#first; message !== undefined; message = message.next) {
      closeFds(message.fds);
      message.giveBack?.();
    }
    this.#first = undefined;
    this.#last = undefined;
    this.#queuedBytes = 0;
  }

  #updateInterest(): void {
    if (!this.#closed) this.#watch.update({ readable: !this.#paused, writable: this.#first !== undefined });
  }
}

/** Duplicates for a message that waits: the originals may be closed meanwhile. @throws VfioError EMFILE, EBADF, with none made */
function duplicateAll(fds: readonly number[]): OwnedFd[] {
  const duplicates: OwnedFd[] = [];
  try {
    for (const fd of fds) duplicates.push(new OwnedFd(fd).duplicate());
    return duplicates;
  } catch (error) {
    closeFds(duplicates);
    throw error;
  }
}
