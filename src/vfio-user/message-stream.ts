import { OwnedFd, receive, send, type Watch, watch } from '../native/index.js';
import { asVfioError, VfioError } from '../uapi/index.js';
import { closeFds, FrameParser, type FrameSink } from './frame-parser.js';
import { LINGER_MS } from './limits.js';

/** What a {@link MessageStream} tells its owner. */
export interface StreamEvents extends FrameSink {
  /** Everything that was queued has been sent. */
  drained(): void;
  /** The connection is over; told once, and nothing after it. `reason` is missing when the peer has ended it. */
  closed(reason: VfioError | undefined): void;
}

interface QueuedMessage {
  bytes: Uint8Array;
  /** Duplicates, until the first byte has left with them. */
  fds: OwnedFd[];
  /** A chain, because taking the first of many from an array moves all the others. */
  next: QueuedMessage | undefined;
}

/** How often one wake-up receives before other descriptors get their turn. */
const RECEIVES_AT_ONCE = 16;

/**
 * Where bytes are received: the parser copies, and no receive happens inside another, so that all connections share it. It holds what one
 * send of a peer brings at most (219,264 bytes on a socket with its size unchanged).
 */
let sharedBuffer: Uint8Array | undefined;

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
  #first: QueuedMessage | undefined;
  #last: QueuedMessage | undefined;
  #queuedBytes = 0;
  #paused = false;
  #ending: NodeJS.Timeout | undefined;
  #endReason: VfioError | undefined;
  #deaf = false;
  #closed = false;

  /**
   * @param socket owned by the stream from now on; closed when this throws.
   * @param maxFds see {@link FrameParser}
   * @throws VfioError as `watch`
   */
  constructor(socket: OwnedFd, maxPayload: number, maxFds: number, events: StreamEvents) {
    this.#socket = socket;
    this.#events = events;
    this.#parser = new FrameParser(maxPayload, maxFds, events);
    try {
      this.#watch = watch(
        socket.fd,
        { readable: true },
        ready => this.#wake(ready.readable, ready.writable),
        error => this.destroy(asVfioError(error, 'connection')),
      );
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
    this.#enqueue({ bytes: rest, fds: kept, next: undefined });
  }

  #enqueue(message: QueuedMessage): void {
    this.#queuedBytes += message.bytes.length;
    if (this.#last !== undefined) this.#last.next = message;
    this.#last = message;
    if (this.#first !== undefined) return;
    this.#first = message;
    this.#updateInterest();
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
    if (writable) this.#flush();
    if (readable) this.#receive();
  }

  #receive(): void {
    sharedBuffer ??= new Uint8Array(256 * 1024);
    for (let count = 0; count < RECEIVES_AT_ONCE && !this.#paused && !this.#closed; count++) {
      const received = receive(this.#socket.fd, sharedBuffer);
      if (received === 'again') return;
      if (received === 'closed') {
        this.destroy(undefined);
        return;
      }
      this.#parser.push(sharedBuffer.subarray(0, received.bytes), received.fds, received.fdsLost);
      // A buffer that is not full was probably all: if not, the socket is still readable, and says so again.
      if (received.bytes < sharedBuffer.length) return;
    }
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
      if (!(error instanceof VfioError && (error.errno === 'EPIPE' || error.errno === 'ECONNRESET'))) throw error;
      this.#deaf = true;
      return bytes.length;
    }
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
      if (message.bytes.length === 0) this.#first = message.next;
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
    for (let message = this.#first; message !== undefined; message = message.next) closeFds(message.fds);
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
