import { lookup } from 'node:dns/promises';
import type { Duplex } from 'node:stream';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { ConnectionListener } from '../link/connection-listener.js';
import { Door } from '../link/door.js';
import { readFirstFrame } from '../link/first-frame.js';
import { decodeResume, type Resume } from '../link/resume.js';
import { FrameChannel, unexpected } from '../stream/frame-channel.js';
import { encodeAbort, encodeControlFrame, FrameType } from '../stream/stream-format.js';
import { HELLO_MS, type ReceiveOptions, type ReceiveReport, Reception } from './reception.js';

/** How many may speak at a time, before one of them has shown to be the source. */
const MOST_RECEPTIONS = 16;
/** How long somebody who is refused may take to read why, milliseconds. */
const LINGER_MS = 1000;

/**
 * The destination of one migration. It listens, takes the first source that connects and fits, lets it come again when its connection is
 * lost, and runs the machine when that source says GO; never before, and never without. Where there is an ownership record, it puts itself in there first.
 */
export class MigrationReceiver {
  readonly #options: ReceiveOptions;
  readonly #door: Door;
  readonly #listener: ConnectionListener;
  readonly #host: string;
  readonly #finished: Promise<ReceiveReport>;
  #settle!: { resolve: (report: ReceiveReport) => void; reject: (error: unknown) => void };
  #claimed = false;
  /** Connections that have not yet said what they are for, or are told that it is not for here. */
  readonly #strangers = new Set<Duplex>();
  readonly #receptions = new Set<Reception>();

  /** @param host an address, and no name */
  private constructor(options: ReceiveOptions, host: string, port: number) {
    this.#options = options;
    this.#host = host;
    this.#door = new Door({
      tls: options.tls,
      handshakeMs: HELLO_MS,
      onConnection: socket => void this.#accept(socket),
      onRefused: (socket, error) => {
        this.#watch(socket);
        this.#refuse(socket, error);
      },
    });
    this.#finished = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever never asks for the end must not be ended by it.
    this.#finished.catch(() => {});
    this.#listener = new ConnectionListener(host, port, connection => this.#door.letIn(connection));
  }

  /** Begins to listen. @throws VfioError EINVAL for a number of connections that is none; EADDRINUSE, EACCES… as the system says */
  static async listen(options: ReceiveOptions): Promise<MigrationReceiver> {
    const { connections = 1 } = options;
    if (!(Number.isInteger(connections) && connections >= 1)) {
      throw new VfioError('EINVAL', { operation: 'receive', field: 'connections', message: `${connections}` });
    }
    const { host = '127.0.0.1', port = 0 } = options.listen ?? {};
    try {
      const { address } = await lookup(host);
      return new MigrationReceiver(options, address, port);
    } catch (error) {
      throw asVfioError(error, 'listen');
    }
  }

  /** Where a source can connect. */
  get address(): { host: string; port: number } {
    return { host: this.#host, port: this.#listener.port };
  }

  /**
   * Done when the machine runs here.
   * @throws VfioError why it does not. Before GO the devices are then reset, and memory holds whatever had come; after it they are as the
   *   failure left them.
   */
  finished(): Promise<ReceiveReport> {
    return this.#finished;
  }

  /**
   * Stops listening, and gives up a migration that is under way: its source is told, and runs the machine on. Done when that word is out and the
   * connections are closed, a few seconds at most for a source that does not answer; {@link MigrationReceiver.finished} then throws
   * ECANCELED as soon as the devices are reset.
   *
   * After GO it is too late: the machine runs here, and the migration goes on to its end. Only an ownership store that does not answer is asked no
   * more; the machine then stays stopped here, and the record says whose it is. Idempotent.
   */
  async close(): Promise<void> {
    const error = new VfioError('ECANCELED', { operation: 'receive', message: 'the receiver was closed' });
    this.#stopListening();
    await Promise.all([...this.#receptions].map(reception => reception.giveUp(error)));
    if (!this.#claimed) this.#settle.reject(error);
  }

  async #accept(socket: Duplex): Promise<void> {
    this.#watch(socket);
    try {
      const { type, payload } = await readFirstFrame(socket, HELLO_MS);
      if (type === FrameType.HELLO) this.#receive(socket);
      else if (type === FrameType.RESUME) this.#goOn(socket, decodeResume(payload));
      else throw unexpected(type, 'HELLO or RESUME');
      this.#strangers.delete(socket);
    } catch (error) {
      this.#refuse(socket, asVfioError(error, 'receive'));
    }
  }

  #watch(socket: Duplex): void {
    this.#strangers.add(socket);
    socket.once('close', () => this.#strangers.delete(socket));
  }

  /** Whoever is refused hears why, and has a second to go. The machine never ran here for its sake. */
  #refuse(socket: Duplex, error: VfioError): void {
    // What was damaged on its way may be well on the next.
    if (error.errno === 'EBADMSG') socket.destroy();
    if (socket.destroyed) return;
    const deadline = setTimeout(() => socket.destroy(), LINGER_MS);
    socket.once('close', () => clearTimeout(deadline));
    socket.on('error', () => {});
    socket.resume();
    socket.end(encodeControlFrame(FrameType.ABORT, encodeAbort({ error, mayRun: false })));
  }

  /** A source has lost its connection, and comes by another. */
  #goOn(socket: Duplex, resume: Resume): void {
    for (const reception of this.#receptions) {
      const channel = reception.channelOf(resume.token, resume.channel);
      if (channel === undefined) continue;
      channel.attach(socket, resume);
      return;
    }
    throw new VfioError('ESTALE', { operation: 'RESUME', field: 'token', message: 'there is no such migration here' });
  }

  #receive(socket: Duplex): void {
    if (this.#receptions.size >= MOST_RECEPTIONS) throw busy('too many want to be the source');
    const { timeoutMs, onEvent } = this.#options;
    const channel = new FrameChannel({ timeoutMs, onLinkEvent: onEvent });
    const reception = new Reception(this.#options, channel, {
      requireFree: () => this.#requireFree(),
      claim: () => this.#claim(),
    });
    channel.begin(socket);
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

  #stopListening(): void {
    this.#listener.close();
    this.#door.close();
    for (const stranger of this.#strangers) stranger.destroy();
  }

  #finish(): void {
    this.#stopListening();
    for (const other of this.#receptions) void other.giveUp(busy('another migration came first'));
  }

  #requireFree(): void {
    if (this.#claimed) throw busy('another migration is under way');
  }

  /** The first source that fits gets the machine's place; the others hear that it is taken. */
  #claim(): void {
    this.#requireFree();
    this.#claimed = true;
  }
}

function busy(message: string): VfioError {
  return new VfioError('EBUSY', { operation: 'receive', message });
}
