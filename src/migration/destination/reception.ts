import { randomBytes, timingSafeEqual } from 'node:crypto';
import { performance } from 'node:perf_hooks';
import type { DeviceHandle } from '../../device/index.js';
import { asVfioError, requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { encodeLanePorts, lanesOf } from '../lane/lane-ports.js';
import { TOKEN_SIZE } from '../link/resume.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import { type MachineMemory, PAGE_SIZE } from '../memory/machine-memory.js';
import { digestMemory, digestPages } from '../memory/memory-digest.js';
import { decodeRecord, type Ownership, type OwnershipRecord, type TakeLink, takeMachine } from '../ownership/index.js';
import { answerProbes } from '../rehearsal/link-probe.js';
import { type FrameChannel, unexpected } from '../stream/frame-channel.js';
import { type Agreement, checkHello, OWN_PROTOCOL } from '../stream/hello.js';
import { applyMemoryBlock } from '../stream/memory-block.js';
import {
  BLOCK_SIZE,
  DigestKind,
  decodeHello,
  encodeHello,
  encodeTimes,
  FrameType,
  type Hello,
} from '../stream/stream-format.js';
import { Arrival, type ReceiveEvent } from './arrival.js';
import { DestinationDevices } from './destination-devices.js';
import { DestinationMemory, type MemoryProvider } from './destination-memory.js';
import { ReceivingLanes } from './receiving-lanes.js';

/** How many connections memory may take, unless the options say otherwise. */
const CONNECTIONS = 8;

/** How long a connection may be without a HELLO, milliseconds. */
export const HELLO_MS = 5000;

/** What a {@link MigrationReceiver} fills and starts. */
export interface ReceiveOptions extends MemoryProvider {
  /** Where to listen; default 127.0.0.1 and any port. */
  listen?: { host?: string; port?: number };
  /** Whom to trust, and who this end is. Without it only a source on this host may come: anybody could read the stream, and bring another. */
  tls?: TlsIdentity;
  /** Changes while it is filled when the source's does: {@link MemoryProvider.memoryFor}. */
  memory: MachineMemory;
  /**
   * Most connections that memory may take at a time, each with a thread at either end; default 8. They come to the ports that follow the one
   * where this listens, or to any if that was not said. 1: memory takes the migration's own connection, in this thread.
   */
  connections?: number;
  /** In the order in which the source has its own. They must be in state RUNNING as after a reset, and idle. */
  devices: readonly DeviceHandle[];
  /** How long the source may be silent, or not come again after its connection was lost, milliseconds; default 60,000. */
  timeoutMs?: number;
  /**
   * Where it is recorded who may run the machine, and who this side is: the machine then runs here only when the record says so. The source
   * must have the same store and machine.
   */
  ownership?: Ownership;
  /** Hears how the machine comes, and when the source's connection is lost, and when it goes on. */
  onEvent?: (event: ReceiveEvent) => void;
}

/** The machine's place at this end: for one source alone. */
export interface MachinePlace {
  /** @throws VfioError EBUSY when it is taken */
  requireFree(): void;
  /** Takes it. @throws VfioError EBUSY when it is taken */
  claim(): void;
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

/** One source, from HELLO to RESUMED; or, of a rehearsal, to its last PROBE. */
export class Reception {
  readonly #options: ReceiveOptions;
  readonly #channel: FrameChannel;
  readonly #place: MachinePlace;
  readonly #devices: DestinationDevices;
  /** From HELLO on. */
  #memory: DestinationMemory | undefined;
  readonly #report: ReceiveReport = { pagesReceived: 0, stateBytes: 0, loadMs: 0, resumeMs: 0 };
  /** What both ends can do, as soon as that is known. */
  agreement: Agreement | undefined;
  /** Whether this is the one that fills memory and devices. */
  hasMachine = false;
  /** The machine is this end's, or may be, and stays so whatever becomes of the connection. */
  #hasGo = false;
  #lanes: ReceivingLanes | undefined;
  readonly #arrival: Arrival;
  /** The ownership record as both ends had it when they agreed. */
  #offered: OwnershipRecord | undefined;
  /** Ends the asking of a store that does not answer. */
  readonly #enough = new AbortController();

  constructor(options: ReceiveOptions, channel: FrameChannel, place: MachinePlace) {
    this.#options = options;
    this.#channel = channel;
    this.#place = place;
    this.#devices = new DestinationDevices(options.devices);
    this.#arrival = new Arrival(options.onEvent, () => this.#report.pagesReceived + (this.#lanes?.pagesReceived ?? 0));
  }

  /** The channel that a source which knows this token may go on with. */
  channelOf(token: Uint8Array, number: number): FrameChannel | undefined {
    const ours = this.#channel.token;
    const isOurs = ours !== undefined && timingSafeEqual(ours, token);
    return isOurs && number === this.#channel.number ? this.#channel : undefined;
  }

  /** @returns `undefined` after a rehearsal, which changes nothing here */
  async run(): Promise<ReceiveReport | undefined> {
    try {
      const theirs = await this.#agree();
      if (theirs.purpose === 'rehearsal') {
        await answerProbes(this.#channel);
        return undefined;
      }
      this.#arrival.begin();
      await this.#openLanes(theirs);
      await this.#devices.prepare();
      await this.#receive();
      this.#arrival.end();
      await this.#closeLanes();
      this.#arrival.enter('load');
      await this.#load();
      this.#arrival.enter('ready');
      await this.#waitForGo();
      await this.#requireDevices();
      await this.#take();
      await this.#resume();
    } catch (error) {
      const failure = asVfioError(error, 'receive');
      await Promise.all([this.#channel.abort({ error: failure, mayRun: this.#hasGo }), this.#closeLanes()]);
      if (this.hasMachine && !this.#hasGo) await this.#devices.forget();
      throw failure;
    } finally {
      this.#arrival.end();
      this.#memory?.end();
    }
    const { resumeMs } = this.#report;
    await this.#channel.send(FrameType.RESUMED, encodeTimes({ resumeMs })).catch(() => {});
    await this.#channel.end();
    this.#channel.destroy();
    return { ...this.#report, stateBytes: this.#devices.stateBytes };
  }

  /**
   * Takes no GO any more, tells the source, and closes. Once GO was taken the machine runs here, and nothing is done; but a store that does not
   * answer is not asked any more.
   */
  async giveUp(error: VfioError): Promise<void> {
    this.#enough.abort();
    if (this.#hasGo) return;
    await Promise.all([this.#channel.abort({ error, mayRun: false }), this.#closeLanes()]);
  }

  async #agree(): Promise<Hello> {
    const { connections = CONNECTIONS } = this.#options;
    const token = randomBytes(TOKEN_SIZE);
    const flags = await this.#devices.flags();
    // The first answer takes as long as it takes to load the code for it.
    const askedAt = performance.now();
    await this.#devices.flags();
    const ours: Hello = {
      ...OWN_PROTOCOL,
      pageSize: PAGE_SIZE,
      memory: this.#options.memory.ranges,
      devices: flags,
      requestMs: performance.now() - askedAt,
      timeoutMs: this.#channel.timeoutMs,
      connections,
      token,
    };
    // A source has its HELLO ready; whoever lets one byte a minute trickle in is none.
    const theirs = decodeHello(await this.#soon(this.#channel.expect(FrameType.HELLO)));
    ours.ownership = await this.#askOwner();
    ours.memory = this.#options.memory.ranges;
    this.agreement = checkHello(ours, theirs);
    this.#offered = ours.ownership?.record;
    this.#channel.keepAlive(theirs.timeoutMs);
    if (theirs.purpose === 'rehearsal') {
      await this.#channel.send(FrameType.HELLO, encodeHello(ours));
      return theirs;
    }
    this.#place.requireFree();
    this.#channel.token = token;
    await this.#channel.send(FrameType.HELLO, encodeHello(ours));
    // A source that lost its connection before it got the token comes again by another HELLO: until it has it, this one has no place here.
    await this.#soon(this.#channel.flush());
    this.#place.claim();
    this.hasMachine = true;
    this.#memory = new DestinationMemory(this.#options.memory, this.#options);
    return theirs;
  }

  /** Only for the source that has the machine's place: nobody else costs a thread. */
  async #openLanes({ connections, timeoutMs }: Hello): Promise<void> {
    const lanes = lanesOf(this.#options.connections ?? CONNECTIONS, connections);
    if (lanes === 0) return;
    const { host = '127.0.0.1', port = 0 } = this.#options.listen ?? {};
    this.#channel.throwIfGivenUp();
    this.#lanes = await ReceivingLanes.listen({
      lanes,
      host,
      tls: this.#options.tls,
      firstPort: port === 0 ? 0 : port + 1,
      token: this.#channel.token!,
      memory: this.#memory!.current,
      timeoutMs: this.#channel.timeoutMs,
      peerTimeoutMs: timeoutMs,
      onFailed: error => void this.giveUp(error),
    });
    await this.#channel.send(FrameType.LANES, encodeLanePorts(this.#lanes.ports));
  }

  /** Before the machine may run here: nobody writes its memory from then on. */
  async #closeLanes(): Promise<void> {
    const lanes = this.#lanes;
    if (lanes === undefined) return;
    await lanes.close();
    if (this.#lanes === undefined) return;
    this.#lanes = undefined;
    this.#report.pagesReceived += lanes.pagesReceived;
  }

  async #soon<T>(work: Promise<T>): Promise<T> {
    const late = new VfioError('ETIMEDOUT', { operation: 'HELLO', message: `did not come within ${HELLO_MS} ms` });
    const deadline = setTimeout(() => this.#channel.destroy(late), HELLO_MS);
    try {
      return await work;
    } finally {
      clearTimeout(deadline);
    }
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
          this.#report.pagesReceived += applyMemoryBlock(this.#memory!.current, payload);
          break;
        case FrameType.DEVICE_STATE:
          await this.#devices.take(payload);
          break;
        case FrameType.PASS:
          this.#arrival.endPass();
          break;
        case FrameType.INITIAL_DATA_SENT:
          // The devices have taken all that came before.
          await this.#channel.send(FrameType.INITIAL_DATA_LOADED);
          break;
        case FrameType.MEMORY_MAP:
          // What is gone is somebody else's as soon as it is given back, whatever still comes on a lane.
          await this.#lanes?.letGoOfMemory();
          await this.#memory!.follow(payload);
          await this.#lanes?.useMemory(this.#memory!.current);
          await this.#channel.send(FrameType.MEMORY_MAPPED);
          break;
        case FrameType.RESTART:
          await this.#devices.restart();
          break;
        case FrameType.SWITCH:
          return;
        default:
          throw unexpected(type, 'memory or state');
      }
    }
  }

  async #load(): Promise<void> {
    const startedAt = performance.now();
    await this.#devices.load();
    this.#report.loadMs = performance.now() - startedAt;
    await this.#channel.send(FrameType.READY, encodeTimes({ loadMs: this.#report.loadMs }));
  }

  async #waitForGo(): Promise<void> {
    while (true) {
      const { type, payload } = await this.#channel.next();
      if (type === FrameType.GO) {
        // Either GO is taken or this end has given up: the source may rely on it. Nothing waits between the two lines.
        this.#channel.throwIfGivenUp();
        this.#hasGo = true;
        this.#channel.keepConnection();
        return;
      }
      if (type !== FrameType.VERIFY) throw unexpected(type, 'VERIFY or GO');
      requireBytes(payload, 4, 'VERIFY');
      const kind = viewOf(payload).getUint32(0, true);
      const digest = await (kind === DigestKind.PAGES ? digestPages : digestMemory)(this.#memory!.current);
      for (let at = 0; at < digest.length; at += BLOCK_SIZE) {
        await this.#channel.send(FrameType.DIGEST, digest.subarray(at, at + BLOCK_SIZE));
      }
    }
  }

  /** A machine whose devices have died since they were loaded must not be taken: at the source it can still run. */
  async #requireDevices(): Promise<void> {
    try {
      await this.#devices.requireLoaded();
    } catch (error) {
      this.#hasGo = false;
      throw error;
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
    await this.#devices.run();
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
