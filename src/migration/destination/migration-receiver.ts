import { createServer, type Server, type Socket } from 'node:net';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { FrameChannel } from '../stream/frame-channel.js';
import { type ReceiveOptions, type ReceiveReport, Reception } from './reception.js';

/** How many may be connected at a time, before one of them has shown to be the source. Each costs a buffer of a block. */
const MOST_CONNECTIONS = 16;

/**
 * The destination of one migration. It listens, takes the first source that connects and fits, and runs the machine when that source says
 * GO; never before, and never without. Where there is an ownership record, it puts itself in there first.
 */
export class MigrationReceiver {
  readonly #options: ReceiveOptions;
  readonly #server: Server;
  readonly #finished: Promise<ReceiveReport>;
  #settle!: { resolve: (report: ReceiveReport) => void; reject: (error: unknown) => void };
  #claimed = false;
  readonly #receptions = new Set<Reception>();

  private constructor(options: ReceiveOptions) {
    this.#options = options;
    this.#server = createServer(socket => this.#accept(socket));
    this.#server.maxConnections = MOST_CONNECTIONS;
    this.#finished = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever never asks for the end must not be ended by it.
    this.#finished.catch(() => {});
  }

  /** Begins to listen. @throws VfioError EADDRINUSE, EACCES… as the system says */
  static listen(options: ReceiveOptions): Promise<MigrationReceiver> {
    const receiver = new MigrationReceiver(options);
    return new Promise((resolve, reject) => {
      // Later errors (no descriptor left for another connection) leave the listener as it is.
      receiver.#server.on('error', error => reject(asVfioError(error, 'listen')));
      const { host = '127.0.0.1', port = 0 } = options.listen ?? {};
      receiver.#server.listen({ host, port }, () => resolve(receiver));
    });
  }

  /** Where a source can connect. */
  get address(): { host: string; port: number } {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new VfioError('ENOTCONN', { operation: 'listen' });
    return { host: address.address, port: address.port };
  }

  /**
   * Done when the machine runs here.
   * @throws VfioError why it does not. Before GO the devices are then reset, and memory holds whatever had come; after it they are as the
   *   failure left them.
   */
  finished(): Promise<ReceiveReport> {
    return this.#finished;
  }

  /** Stops listening, and gives up a migration that is under way. Idempotent. */
  async close(): Promise<void> {
    const error = new VfioError('ECANCELED', { operation: 'receive', message: 'the receiver was closed' });
    this.#server.close();
    await Promise.all([...this.#receptions].map(reception => reception.giveUp(error)));
    if (!this.#claimed) this.#settle.reject(error);
  }

  #accept(socket: Socket): void {
    const reception = new Reception(this.#options, new FrameChannel(socket, this.#options.timeoutMs), () =>
      this.#claim(),
    );
    this.#receptions.add(reception);
    void reception
      .run()
      .then(
        report => {
          if (report !== undefined) this.#settle.resolve(report);
        },
        error => {
          // Somebody who is no source, or the wrong one, has spoiled nothing: the next may come.
          if (reception.hasMachine) this.#settle.reject(error);
        },
      )
      .finally(() => {
        this.#receptions.delete(reception);
        if (reception.hasMachine) this.#finish();
      });
  }

  #finish(): void {
    this.#server.close();
    const error = new VfioError('EBUSY', { operation: 'receive', message: 'another migration came first' });
    for (const other of this.#receptions) void other.giveUp(error);
  }

  /** The first source that fits gets the machine's place; the others hear that it is taken. */
  #claim(): void {
    if (this.#claimed)
      throw new VfioError('EBUSY', { operation: 'receive', message: 'another migration is under way' });
    this.#claimed = true;
  }
}
