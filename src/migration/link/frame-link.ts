import type { Duplex } from 'node:stream';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { isTlsError, tlsRefusal } from './tls-identity.js';

/** How long a connection that is to end waits for the peer, milliseconds. */
const LINGER_MS = 1000;

/** What happens to a connection. */
export interface FrameLinkEvents {
  onPiece(piece: Uint8Array): void;
  /** What was written has left. */
  onDrained(): void;
  /** Nothing more comes: the peer has closed it, or it broke. */
  onLost(error: VfioError): void;
}

/** One connection of a channel. Once it is let go of, nothing of it is heard any more, whatever still arrives. */
export class FrameLink {
  readonly #socket: Duplex;
  #events: FrameLinkEvents | undefined;

  constructor(socket: Duplex, events: FrameLinkEvents) {
    this.#socket = socket;
    this.#events = events;
    if ('setNoDelay' in socket && typeof socket.setNoDelay === 'function') socket.setNoDelay(true);
    socket.on('data', (piece: Uint8Array) => this.#events?.onPiece(piece));
    socket.on('drain', () => this.#events?.onDrained());
    socket.on('error', error =>
      this.#lose(isTlsError(error) ? tlsRefusal(error) : asVfioError(error, 'migration stream', 'ECONNRESET')),
    );
    socket.on('end', () => this.#lose(closed()));
    socket.on('close', () => this.#lose(closed()));
    // Whoever read the first frame has paused it.
    socket.resume();
    if (socket.destroyed) queueMicrotask(() => this.#lose(closed()));
  }

  /** Whether nothing waits to leave. */
  get isIdle(): boolean {
    return this.#socket.writableLength === 0;
  }

  /** Whether so much waits to leave that whoever can should wait: {@link FrameLinkEvents.onDrained} says how long. */
  get isBacklogged(): boolean {
    return this.#socket.writableNeedDrain;
  }

  /** Whether the peer is kept from sending. */
  get isPaused(): boolean {
    return this.#socket.isPaused();
  }

  /** The bytes must stay as they are until the peer has them, or this connection is destroyed. */
  write(bytes: Uint8Array): void {
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /**
   * Says that nothing more comes, and waits for the peer to close too; a second at most. What still arrives is read and thrown away: closing
   * with bytes unread would reset the connection, and the peer might lose our last word with it.
   */
  async end(): Promise<void> {
    this.#events = undefined;
    if (this.#socket.destroyed) return;
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, LINGER_MS);
      this.#socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#socket.resume();
      this.#socket.end();
    });
    this.#socket.destroy();
  }

  /** Closes at once. Idempotent. */
  destroy(): void {
    this.#events = undefined;
    this.#socket.destroy();
  }

  #lose(error: VfioError): void {
    const events = this.#events;
    this.#events = undefined;
    events?.onLost(error);
  }
}

function closed(): VfioError {
  return new VfioError('ECONNRESET', { operation: 'migration stream', message: 'the connection was closed' });
}
