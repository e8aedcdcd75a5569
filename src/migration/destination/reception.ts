import { performance } from 'node:perf_hooks';
import type { DeviceHandle } from '../../device/index.js';
import { asVfioError, requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { type MachineMemory, PAGE_SIZE } from '../memory/machine-memory.js';
import { digestMemory, digestPages } from '../memory/memory-digest.js';
import { decodeRecord, type Ownership, type OwnershipRecord, type TakeLink, takeMachine } from '../ownership/index.js';
import { answerProbes } from '../rehearsal/link-probe.js';
import type { MigrationTls } from '../source/migration-report.js';
import { type FrameChannel, unexpected } from '../stream/frame-channel.js';
import { checkHello } from '../stream/hello.js';
import { applyMemoryBlock } from '../stream/memory-block.js';
import {
  BLOCK_SIZE,
  DigestKind,
  decodeHello,
  encodeHello,
  FrameType,
  type Hello,
  STREAM_VERSION,
} from '../stream/stream-format.js';
import { DestinationDevices } from './destination-devices.js';

/** How long a connection may be without a HELLO, milliseconds. */
const HELLO_MS = 5000;

/** What a {@link MigrationReceiver} fills and starts. */
export interface ReceiveOptions {
  /** Where to listen; default 127.0.0.1 and any port. The stream is neither encrypted nor authenticated. */
  listen?: { host?: string; port?: number };
  memory: MachineMemory;
  /** In the order in which the source has its own. They must be in state RUNNING as after a reset, and idle. */
  devices: readonly DeviceHandle[];
  /** Only a source with a certificate of this authority is taken. */
  tls?: MigrationTls;
  /** Most connections that a source may have for its memory. */
  connections?: number;
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

/** One connection, from HELLO to RESUMED; or, of a rehearsal, to its last PROBE. */
export class Reception {
  readonly #options: ReceiveOptions;
  readonly #channel: FrameChannel;
  readonly #claim: () => void;
  readonly #devices: DestinationDevices;
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
    this.#devices = new DestinationDevices(options.devices);
  }

  /** @returns `undefined` after a rehearsal, which changes nothing here */
  async run(): Promise<ReceiveReport | undefined> {
    try {
      if ((await this.#agree()) === 'rehearsal') {
        await answerProbes(this.#channel);
        return undefined;
      }
      await this.#devices.prepare();
      await this.#receive();
      await this.#load();
      await this.#waitForGo();
      await this.#take();
      await this.#resume();
    } catch (error) {
      const failure = asVfioError(error, 'receive');
      await this.#channel.abort({ error: failure, mayRun: this.#hasGo });
      if (this.hasMachine && !this.#hasGo) await this.#devices.forget();
      throw failure;
    }
    await this.#channel.send(FrameType.RESUMED).catch(() => {});
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
    await this.#channel.abort({ error, mayRun: false });
  }

  async #agree(): Promise<Hello['purpose']> {
    const { memory } = this.#options;
    const ours: Hello = {
      version: STREAM_VERSION,
      pageSize: PAGE_SIZE,
      memory: memory.ranges,
      devices: await this.#devices.flags(),
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
    if (theirs.purpose === undefined) {
      this.#claim();
      this.hasMachine = true;
    }
    await this.#channel.send(FrameType.HELLO, encodeHello(ours));
    return theirs.purpose;
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
          await this.#devices.take(payload);
          break;
        case FrameType.PASS:
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
