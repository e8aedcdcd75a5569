import { acceptConnection, type OwnedFd, TcpListener, type Watch, watch } from '../../native/index.js';

/** How long nobody is let in when the process has no descriptor left, milliseconds. */
const REST_MS = 100;

/** A port, and the connections that come to it. */
export class ConnectionListener {
  readonly #listener: TcpListener;
  readonly #watch: Watch;
  readonly #onConnection: (connection: OwnedFd) => void;
  #rest: NodeJS.Timeout | undefined;

  /**
   * Begins to listen.
   * @param address IPv4 or IPv6, no name
   * @param port 0: any
   * @param onConnection owns what it gets
   * @throws VfioError EADDRINUSE, EACCES… as the system says
   */
  constructor(address: string, port: number, onConnection: (connection: OwnedFd) => void) {
    this.#onConnection = onConnection;
    this.#listener = TcpListener.listen(address, port);
    this.#watch = watch(this.#listener.fd, { readable: true }, () => this.#accept());
  }

  /** Where it listens. */
  get port(): number {
    return this.#listener.port;
  }

  #accept(): void {
    try {
      for (;;) {
        const connection = acceptConnection(this.#listener.fd);
        if (connection === 'again') return;
        this.#onConnection(connection);
      }
    } catch {
      // The connection still waits, and would be told of again at once.
      this.#watch.update({});
      this.#rest = setTimeout(() => this.#watch.update({ readable: true }), REST_MS);
    }
  }

  /** Idempotent. */
  close(): void {
    clearTimeout(this.#rest);
    this.#watch.close();
    this.#listener.close();
  }
}
