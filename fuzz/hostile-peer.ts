import { type OwnedFd, receive, send } from '../src/native/index.js';
import { VfioError } from '../src/uapi/index.js';
import { turn } from '../test/vfio-user/peer.js';

/** How many turns of the event loop a full socket is waited for: a server need not read a client that it has not answered. */
const PATIENCE = 20;

/** An end of a connection that keeps no rules. */
export class HostilePeer {
  readonly #socket: OwnedFd;
  readonly #buffer = new Uint8Array(65536);

  /** @param socket owned by the peer from now on. */
  constructor(socket: OwnedFd) {
    this.#socket = socket;
  }

  /** Whether the connection is over, as far as this end has noticed. */
  get closed(): boolean {
    return this.#socket.closed;
  }

  /** Sends bytes in pieces, with a turn of the event loop between them; gives up, and leaves, when nobody takes them. */
  async send(bytes: Uint8Array, fds: readonly number[], cuts: readonly number[]): Promise<void> {
    const ends = [...cuts.map(cut => 1 + (cut % bytes.length)), bytes.length].sort((a, b) => a - b);
    let start = 0;
    for (const end of ends) {
      if (end === start || this.closed) continue;
      await this.#sendPiece(bytes.subarray(start, end), start === 0 ? fds : []);
      start = end;
      if (end < bytes.length) await turn();
    }
  }

  async #sendPiece(bytes: Uint8Array, fds: readonly number[]): Promise<void> {
    let [rest, withFds] = [bytes, fds];
    for (let tries = 0; rest.length > 0 && tries < PATIENCE; tries++) {
      const count = this.#trySend(rest, withFds);
      if (count === 'again') {
        await turn();
        continue;
      }
      withFds = [];
      rest = rest.subarray(count);
    }
    if (rest.length > 0) this.leave();
  }

  #trySend(bytes: Uint8Array, fds: readonly number[]): number | 'again' {
    try {
      return send(this.#socket.fd, bytes, fds);
    } catch (error) {
      if (!(error instanceof VfioError && (error.errno === 'EPIPE' || error.errno === 'ECONNRESET'))) throw error;
      this.leave();
      return bytes.length;
    }
  }

  /** Reads what is there, and throws it away; what came with it is closed. */
  read(): void {
    while (!this.closed) {
      const received = receive(this.#socket.fd, this.#buffer);
      if (received === 'again') return;
      if (received === 'closed') {
        this.leave();
        return;
      }
      for (const fd of received.fds) fd.close();
    }
  }

  /** Vanishes: what was not read stays unread. */
  leave(): void {
    this.#socket.close();
  }
}
