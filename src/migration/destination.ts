import { createServer, type Server, type Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import type { DeviceHandle } from '../device/index.js';
import { asVfioError, MigrationState, requireBytes, VfioError, viewOf } from '../uapi/index.js';
import { FrameChannel, unexpected } from './frame-channel.js';
import { checkHello } from './hello.js';
import { type MachineMemory, PAGE_SIZE } from './machine-memory.js';
import { applyMemoryBlock } from './memory-block.js';
import { digestMemory, digestPages } from './memory-digest.js';
import { decodeRecord, type Ownership, type OwnershipRecord, type TakeLink, takeMachine } from './ownership/index.js';
import {
  BLOCK_SIZE,
  DigestKind,
  decodeHello,
  encodeHello,
  FrameType,
  type Hello,
  STREAM_VERSION,
} from './stream-format.js';

/** How many may be connected at a time, before one of them has shown to be the source. Each costs a buffer of a block. */
const MOST_CONNECTIONS = 16;

/** How long a connection may be without a HELLO, milliseconds. */
const HELLO_MS = 5000;

/** What a {@link MigrationReceiver} fills and starts. */
export interface ReceiveOptions {
  /** Where to listen; default 127.0.0.1 and any port. The stream is neither encrypted nor authenticated. */
  listen?: { host?: string; port?: number };
  memory: MachineMemory;
  /** In the order in which the source has its own. They must be in state RUNNING as after a reset, and idle. */
  devices: readonly DeviceHandle[];
  /** How long the source may be silent, milliseconds; default 60,000. */
  timeoutMs?: number;
  /**
   * Where it is recorded who may run the machine, and who this side is: the machine then runs here only when the record says so. The source
   * must have the same store and machine.
   */
  ownership?: Ownership;
}

/** How receiving ended. */
export interface ReceiveReport {
  pagesReceived: number;
  stateBytes: number;
  /** From the source's SWITCH until the devices' states were loaded. */
  loadMs: number;
  /** From the source's GO until the devices ran. */
  resumeMs: number;
}

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
        report => this.#settle.resolve(report),
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

/** One connection, from HELLO to RESUMED. */
class Reception {
  readonly #options: ReceiveOptions;
  readonly #channel: FrameChannel;
  readonly #claim: () => void;
  readonly #report: ReceiveReport = { pagesReceived: 0, stateBytes: 0, loadMs: 0, resumeMs: 0 };
  /** Whether this is the one that fills memory and devices. */
  hasMachine = false;
  /** The machine is this end's, or may be, and stays so whatever becomes of the connection. */
  #hasGo = false;
  /** The ownership record as both ends had it when they agreed. */
  #offered: OwnershipRecord | undefined;
  /** Ends the asking of a store that does not answer. */
  readonly #enough = new AbortController();

  /** @param claim takes the machine's place, or throws */
  constructor(options: ReceiveOptions, channel: FrameChannel, claim: () => void) {
    this.#options = options;
    this.#channel = channel;
    this.#claim = claim;
  }

  async run(): Promise<ReceiveReport> {
    try {
      await this.#agree();
      await this.#setAll(MigrationState.RESUMING);
      await this.#receive();
      await this.#load();
      await this.#waitForGo();
      await this.#take();
      await this.#resume();
    } catch (error) {
      const failure = asVfioError(error, 'receive');
      await this.#channel.abort({ error: failure, mayRun: this.#hasGo });
      if (this.hasMachine && !this.#hasGo)
        await Promise.allSettled(this.#options.devices.map(device => device.reset()));
      throw failure;
    }
    await this.#channel.send(FrameType.RESUMED).catch(() => {});
    await this.#channel.end();
    this.#channel.destroy();
    return this.#report;
  }

  /**
   * Takes no GO any more, tells the source, and closes. Once GO was taken the machine runs here, and nothing is done; but a store that does not
   * answer is not asked any more.
   */
  async giveUp(error: VfioError): Promise<void> {
    this.#enough.abort();
    if (this.#hasGo) return;
    await this.#channel.abort({ error, mayRun: false });
  }

  async #setAll(state: MigrationState): Promise<void> {
    for (const device of this.#options.devices) await device.features.setMigrationState(state);
  }

  async #agree(): Promise<void> {
    const { memory, devices } = this.#options;
    const ours: Hello = {
      version: STREAM_VERSION,
      pageSize: PAGE_SIZE,
      memory: memory.ranges,
      devices: await Promise.all(devices.map(device => device.features.migrationFlags())),
      timeoutMs: this.#channel.timeoutMs,
    };
    // A source has its HELLO ready; whoever lets one byte a minute trickle in is none.
    const late = new VfioError('ETIMEDOUT', { operation: 'HELLO', message: `did not come within ${HELLO_MS} ms` });
    const deadline = setTimeout(() => this.#channel.destroy(late), HELLO_MS);
    let theirs: Hello;
    try {
      theirs = decodeHello(await this.#channel.expect(FrameType.HELLO));
    } finally {
      clearTimeout(deadline);
    }
    ours.ownership = await this.#askOwner();
    checkHello(ours, theirs);
    this.#offered = ours.ownership?.record;
    this.#channel.keepAlive(theirs.timeoutMs);
    this.#claim();
    this.hasMachine = true;
    await this.#channel.send(FrameType.HELLO, encodeHello(ours));
  }

  /** Only now, when a source has come: it may have recorded itself a moment ago. */
  async #askOwner(): Promise<Hello['ownership']> {
    const { ownership } = this.#options;
    if (ownership === undefined) return undefined;
    return { self: ownership.self, record: await ownership.store.read(ownership.machine) };
  }

  async #receive(): Promise<void> {
    while (true) {
      const { type, payload } = await this.#channel.next();
      switch (type) {
        case FrameType.MEMORY:
          this.#report.pagesReceived += applyMemoryBlock(this.#options.memory, payload);
          break;
        case FrameType.DEVICE_STATE:
          await this.#takeState(payload);
          break;
        case FrameType.PASS:
          break;
        case FrameType.RESTART:
          await this.#restart();
          break;
        case FrameType.SWITCH:
          return;
        default:
          throw unexpected(type, 'memory or state');
      }
    }
  }

  /** Only a reset leaves RESUMING with its data forgotten. */
  async #restart(): Promise<void> {
    for (const device of this.#options.devices) await device.reset();
    await this.#setAll(MigrationState.RESUMING);
    this.#report.stateBytes = 0;
  }

  async #takeState(payload: Uint8Array): Promise<void> {
    requireBytes(payload, 8, 'DEVICE_STATE');
    const index = viewOf(payload).getUint32(0, true);
    const device = this.#options.devices[index];
    if (device === undefined) {
      throw new VfioError('EBADMSG', {
        operation: 'DEVICE_STATE',
        field: 'device',
        message: `there is no device ${index}`,
      });
    }
    const data = payload.subarray(8);
    await device.writeMigrationData(data);
    this.#report.stateBytes += data.length;
  }

  async #load(): Promise<void> {
    const startedAt = performance.now();
    await this.#setAll(MigrationState.STOP);
    this.#report.loadMs = performance.now() - startedAt;
    await this.#channel.send(FrameType.READY);
  }

  async #waitForGo(): Promise<void> {
    while (true) {
      const { type, payload } = await this.#channel.next();
      if (type === FrameType.GO) {
        // Either GO is taken or this end has given up: the source may rely on it. Nothing waits between the two lines.
        this.#channel.throwIfGivenUp();
        this.#hasGo = true;
        return;
      }
      if (type !== FrameType.VERIFY) throw unexpected(type, 'VERIFY or GO');
      requireBytes(payload, 4, 'VERIFY');
      const kind = viewOf(payload).getUint32(0, true);
      const digest = await (kind === DigestKind.PAGES ? digestPages : digestMemory)(this.#options.memory);
      for (let at = 0; at < digest.length; at += BLOCK_SIZE) {
        await this.#channel.send(FrameType.DIGEST, digest.subarray(at, at + BLOCK_SIZE));
      }
    }
  }

  /** The commit: from here on the record says that the machine is this end's. */
  async #take(): Promise<void> {
    const { ownership } = this.#options;
    if (ownership === undefined) return;
    const link = takeLinkOver(this.#channel);
    const result = await takeMachine({ ownership, offered: this.#offered!, link, signal: this.#enough.signal });
    if (result.outcome === 'taken') return;
    this.#hasGo = result.outcome === 'unknown';
    throw result.error;
  }

  async #resume(): Promise<void> {
    const startedAt = performance.now();
    await this.#setAll(MigrationState.RUNNING);
    this.#report.resumeMs = performance.now() - startedAt;
  }
}

function takeLinkOver(channel: FrameChannel): TakeLink {
  return {
    async askToSettle() {
      await channel.send(FrameType.SETTLE);
      try {
        const payload = await channel.expect(FrameType.OWNER);
        return { record: decodeRecord(new TextDecoder().decode(payload), 'OWNER') };
      } catch (error) {
        if (channel.peerAbort === undefined) throw error;
        return { refused: channel.peerAbort.error };
      }
    },
  };
}
