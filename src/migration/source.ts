import { once } from 'node:events';
import { connect } from 'node:net';
import { performance } from 'node:perf_hooks';
import { RunCursor } from '../bitmap/index.js';
import { type DeviceHandle, isRunning } from '../device/index.js';
import { DirtySet, LoggingSession, type Tracker, TrackerUnion } from '../tracker/index.js';
import {
  asVfioError,
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  migrationStateName,
  VfioError,
  viewOf,
} from '../uapi/index.js';
import { decide, estimateDowntimeMs } from './convergence.js';
import { FrameChannel, unexpected } from './frame-channel.js';
import type { Frame } from './frame-parser.js';
import { checkHello } from './hello.js';
import { type MachineMemory, PAGE_SIZE } from './machine-memory.js';
import { MemoryBlock } from './memory-block.js';
import { countDifferentPages, digestMemory, digestPages } from './memory-digest.js';
import type { MigrationEvent, MigrationPhase, MigrationReport, PassReport } from './migration-report.js';
import { DigestKind, decodeHello, encodeHello, FrameType, type Hello, STREAM_VERSION } from './stream-format.js';

/** What {@link migrate} moves, and where to. */
export interface MigrateOptions {
  /** The destination's migration port. */
  to: { host: string; port: number };
  memory: MachineMemory;
  /** In the order in which the destination has its own. All must be able to migrate. */
  devices: readonly DeviceHandle[];
  /** Who says which pages were written; default: the DMA log of every device. An empty list moves memory once, and loses what changes. */
  trackers?: readonly Tracker[];
  /** Longest downtime wanted, milliseconds; default 300. */
  downtimeLimitMs?: number;
  /** Most passes while the machine runs; default 30. */
  maxPasses?: number;
  /**
   * `abort`: compare digests of all memory at the switch, and stay at the source when they differ. `report`: compare, and only say so. Both
   * keep the machine stopped while hashing. Default `off`.
   */
  verify?: 'off' | 'abort' | 'report';
  /** How long the destination may be silent, or out of reach, milliseconds; default 60,000. */
  timeoutMs?: number;
  /** Gives up, at once and in any phase: the machine then runs on at the source. Too late once the destination was told to run. */
  signal?: AbortSignal;
  onEvent?: (event: MigrationEvent) => void;
}

/**
 * Moves a running machine: pre-copy passes until the rest fits the downtime limit, then stop-and-copy, then the destination runs.
 *
 * The source gives the machine away with one word, GO, which it sends only after the destination has said that it has loaded everything.
 * Before GO every failure ends with the machine running at the source. After GO the source never runs it again, unless the destination
 * says that it has not taken it.
 *
 * Every device must be in state RUNNING. One that is not (a machine that was moved away already) is left as it is.
 *
 * @returns how it ended, whatever happens; only wrong arguments throw
 * @throws VfioError EINVAL for wrong arguments
 */
export async function migrate(options: MigrateOptions): Promise<MigrationReport> {
  const { downtimeLimitMs = 300, maxPasses = 30 } = options;
  if (!(downtimeLimitMs > 0)) throw badOption('downtimeLimitMs', downtimeLimitMs);
  if (!(Number.isInteger(maxPasses) && maxPasses > 0)) throw badOption('maxPasses', maxPasses);
  return new MigrationSource(options, { downtimeLimitMs, maxPasses }).run();
}

/** Devices that a migration in this process is moving. Two at a time would each undo what the other does. */
const moving = new WeakSet<DeviceHandle>();

/** The pass limit was reached: no failure, but no migration either. */
class NotConverged extends Error {}

class MigrationSource {
  readonly #options: MigrateOptions;
  readonly #limits: { downtimeLimitMs: number; maxPasses: number };
  readonly #tracker: Tracker;
  readonly #report: MigrationReport;
  readonly #block: MemoryBlock;
  readonly #startedAt = performance.now();
  #channel: FrameChannel | undefined;
  #answer: Promise<Frame> | undefined;
  #peerFailure: unknown;
  /** The devices are this migration's, and no other's. */
  #reserved = false;
  /** They were found running: so they shall run again if it fails. */
  #mayResume = false;
  /** GO is on its way: the machine is the destination's. */
  #given = false;
  /** Rejects when the caller gives up. */
  readonly #interrupted: Promise<never>;
  #interrupt: (error: VfioError) => void = () => {};
  #flags: number[] = [];
  #lastCollectAt = 0;
  #collectMs = 0;
  #roundTripMs = 0;
  #bytesPerSecond = 0;

  constructor(options: MigrateOptions, limits: { downtimeLimitMs: number; maxPasses: number }) {
    this.#options = options;
    this.#limits = limits;
    this.#tracker = new TrackerUnion(
      options.trackers ??
        options.devices.map(
          // Whoever logs on a device that nobody else migrates has died.
          ({ features, target }) => new LoggingSession(features, { name: `DMA log of ${target}`, takeOver: true }),
        ),
    );
    this.#interrupted = new Promise((_, reject) => {
      this.#interrupt = reject;
    });
    this.#interrupted.catch(() => {});
    this.#block = new MemoryBlock(options.memory);
    this.#report = {
      outcome: 'failed',
      runningAt: 'source',
      phase: 'connect',
      error: undefined,
      passes: [],
      pagesSent: 0,
      bytesSent: 0,
      stateBytes: 0,
      totalMs: 0,
      downtimeMs: 0,
      estimatedDowntimeMs: 0,
      verifyMs: 0,
      verified: undefined,
      digests: undefined,
      stalePages: undefined,
      lostLogs: [],
    };
  }

  async run(): Promise<MigrationReport> {
    const onAbort = () => this.#giveUpBecauseAsked();
    this.#options.signal?.addEventListener('abort', onAbort, { once: true });
    if (this.#options.signal?.aborted) onAbort();
    try {
      await this.#move();
      this.#report.outcome = 'moved';
      this.#report.runningAt = 'destination';
    } catch (error) {
      await this.#giveUp(error);
    } finally {
      this.#options.signal?.removeEventListener('abort', onAbort);
    }
    if (this.#report.outcome === 'moved') await this.#letGo();
    if (this.#reserved) for (const device of this.#options.devices) moving.delete(device);
    this.#report.totalMs = performance.now() - this.#startedAt;
    return this.#report;
  }

  #giveUpBecauseAsked(): void {
    if (this.#given) return;
    const error = new VfioError('ECANCELED', { operation: 'migrate', message: 'it was given up here' });
    this.#channel?.giveUp(error);
    this.#interrupt(error);
  }

  /** Waits for what may take long, but not longer than the caller wants. */
  #orInterrupted<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#interrupted]);
  }

  async #move(): Promise<void> {
    await this.#connect();
    const dirty = new DirtySet(this.#options.memory.ranges, BigInt(PAGE_SIZE));
    this.#enter('pre-copy');
    await this.#tracker.start(dirty.ranges);
    this.#lastCollectAt = performance.now();
    await this.#startPrecopy();
    dirty.markAll();
    const stoppedAt = await this.#precopyUntilStopped(dirty);
    await this.#lastPass(dirty);
    await this.#channelOrFail().send(FrameType.SWITCH);
    await this.#expect(FrameType.READY);
    const readyAt = performance.now();
    await this.#verify();
    this.#enter('switch');
    const goAt = performance.now();
    await this.#go();
    this.#report.downtimeMs = readyAt - stoppedAt + (performance.now() - goAt);
  }

  async #connect(): Promise<void> {
    this.#enter('connect');
    const { devices, memory, to, timeoutMs } = this.#options;
    this.#flags = await Promise.all(devices.map(device => requireMigratable(device)));
    this.#reserveDevices();
    for (const device of devices) await requireRunning(device);
    this.#mayResume = true;
    const socket = connect(to);
    const channel = new FrameChannel(socket, timeoutMs);
    this.#channel = channel;
    const deadline = AbortSignal.timeout(channel.timeoutMs);
    await this.#orInterrupted(once(socket, 'connect', { signal: deadline })).catch((error: unknown) => {
      throw deadline.aborted
        ? new VfioError('ETIMEDOUT', { operation: 'connect', message: `${to.host}:${to.port}` })
        : error;
    });
    const hello: Hello = {
      version: STREAM_VERSION,
      pageSize: PAGE_SIZE,
      memory: memory.ranges,
      devices: this.#flags,
      timeoutMs: channel.timeoutMs,
    };
    const sentAt = performance.now();
    await channel.send(FrameType.HELLO, encodeHello(hello));
    const theirs = decodeHello(await this.#orInterrupted(channel.expect(FrameType.HELLO)));
    checkHello(hello, theirs);
    this.#roundTripMs = performance.now() - sentAt;
    channel.keepAlive(theirs.timeoutMs);
    this.#listen();
  }

  /** All or none, with nothing that waits in between. @throws VfioError EBUSY while another migration moves one of them */
  #reserveDevices(): void {
    const { devices } = this.#options;
    const taken = devices.find(device => moving.has(device));
    if (taken !== undefined) {
      throw new VfioError('EBUSY', { operation: 'migrate', message: `${taken.target} is being migrated` });
    }
    for (const device of devices) moving.add(device);
    this.#reserved = true;
  }

  /** Asks for the next answer beforehand, so that a destination that gives up is noticed in the middle of a pass. */
  #listen(): void {
    this.#answer = this.#channelOrFail().next();
    this.#answer.catch(error => {
      this.#peerFailure = error;
    });
  }

  async #expect(type: FrameType): Promise<Uint8Array> {
    const frame = await this.#orInterrupted(this.#answer!);
    if (frame.type !== type) throw unexpected(frame.type, 'an answer');
    const payload = frame.payload.slice();
    this.#listen();
    return payload;
  }

  async #startPrecopy(): Promise<void> {
    for (const [index, device] of this.#options.devices.entries()) {
      if ((this.#flags[index]! & MIGRATION_PRE_COPY) === 0) continue;
      await device.features.setMigrationState(MigrationState.PRE_COPY);
      await this.#sendState(index, device, MOST_PRECOPY_STATE);
    }
  }

  /**
   * Passes while the machine runs, until the rest fits the downtime limit and the machine is stopped; the rest is then in `dirty`.
   *
   * The last reading of the logs, after the stop, may bring far more than was expected: a device that loses its log at that moment makes
   * everything dirty. Then the machine runs again, and the passes go on.
   *
   * @returns when the stop began
   */
  async #precopyUntilStopped(dirty: DirtySet): Promise<number> {
    while (true) {
      await this.#precopy(dirty);
      const stoppedAt = performance.now();
      this.#enter('stop-and-copy');
      await this.#stopDevices();
      await this.#collect(dirty);
      if (await this.#fits(dirty)) return stoppedAt;
      await this.#runAgain();
    }
  }

  /** Whether what is dirty now is near enough to what was expected. */
  async #fits(dirty: DirtySet): Promise<boolean> {
    const estimate = await this.#estimate(dirty.count());
    return estimate <= this.#limits.downtimeLimitMs || estimate <= 2 * this.#report.estimatedDowntimeMs;
  }

  async #runAgain(): Promise<void> {
    if (this.#report.passes.length >= this.#limits.maxPasses) throw new NotConverged();
    for (const device of this.#options.devices) await device.features.setMigrationState(MigrationState.RUNNING);
    await this.#channelOrFail().send(FrameType.RESTART);
    this.#enter('pre-copy');
    await this.#startPrecopy();
  }

  /** Passes while the machine runs. Returns when the rest, which is then in `dirty`, fits the downtime limit. */
  async #precopy(dirty: DirtySet): Promise<void> {
    while (true) {
      const report = await this.#sendPass(dirty);
      await this.#collect(dirty);
      const collectedAt = performance.now();
      report.dirtyPages = dirty.count();
      report.dirtyPagesPerSecond = (report.dirtyPages * 1000) / (collectedAt - this.#lastCollectAt);
      this.#lastCollectAt = collectedAt;
      const estimate = await this.#estimate(report.dirtyPages);
      report.estimatedDowntimeMs = estimate;
      this.#report.estimatedDowntimeMs = estimate;
      this.#emit({ event: 'pass', ...report });
      const decision = decide(estimate, this.#report.passes.length, this.#limits);
      if (decision === 'switch') return;
      if (decision === 'give-up') throw new NotConverged();
    }
  }

  async #estimate(dirtyPages: number): Promise<number> {
    let stateBytes = 0;
    for (const device of this.#options.devices) stateBytes += await dataSize(device);
    // Two round trips, SWITCH to READY and GO to RESUMED, in each of which the destination asks its devices as for HELLO; and the logs once more.
    const fixedMs = this.#roundTripMs * 2 + this.#collectMs;
    const bytesPerSecond = this.#bytesPerSecond;
    return estimateDowntimeMs({ dirtyBytes: dirtyPages * PAGE_SIZE, stateBytes, bytesPerSecond, fixedMs });
  }

  async #collect(dirty: DirtySet): Promise<void> {
    const startedAt = performance.now();
    const lost = await this.#tracker.collect(dirty);
    this.#collectMs = performance.now() - startedAt;
    for (const entry of lost) this.#emit({ event: 'log-lost', ...entry });
    this.#report.lostLogs.push(...lost);
  }

  /** Stops all devices: first none starts anything any more, so that no device writes into one that is stopped, then all save. */
  async #stopDevices(): Promise<void> {
    for (const [index, device] of this.#options.devices.entries()) {
      const flags = this.#flags[index]!;
      if ((flags & MIGRATION_P2P) === 0) continue;
      const quiet = (flags & MIGRATION_PRE_COPY) !== 0 ? MigrationState.PRE_COPY_P2P : MigrationState.RUNNING_P2P;
      await device.features.setMigrationState(quiet);
    }
    for (const device of this.#options.devices) await device.features.setMigrationState(MigrationState.STOP_COPY);
  }

  /** What was left, and what the devices wrote until they stopped; then their states. */
  async #lastPass(dirty: DirtySet): Promise<void> {
    const report = await this.#sendPass(dirty);
    this.#emit({ event: 'pass', ...report });
    for (const [index, device] of this.#options.devices.entries()) {
      await this.#sendState(index, device, Number.POSITIVE_INFINITY);
    }
  }

  /** @param most bytes; a running device may have more to say for ever */
  async #sendState(index: number, device: DeviceHandle, most: number): Promise<void> {
    for (let sent = 0; sent < most; ) {
      const data = await device.readMigrationData(STATE_PIECE);
      if (data.length === 0) return;
      await this.#channelOrFail().sendDeviceState(index, data);
      sent += data.length;
      this.#report.stateBytes += data.length;
    }
  }

  /** Sends the pages of `dirty`, and leaves it clean. */
  async #sendPass(dirty: DirtySet): Promise<PassReport> {
    const pass = this.#report.passes.length;
    const channel = this.#channelOrFail();
    const bytesBefore = channel.bytesSent;
    const startedAt = performance.now();
    const progress = new PassProgress(pass, dirty.count(), startedAt);
    for (const [index, range] of dirty.ranges.entries()) {
      const cursor = new RunCursor(range.bitmap, 0, range.pages);
      while (cursor.next()) {
        for (let page = cursor.start; page < cursor.end; ) {
          page += this.#block.add(index, page, cursor.end - page);
          if (this.#block.full) await this.#sendBlock(progress);
        }
      }
    }
    if (this.#block.pages > 0) await this.#sendBlock(progress);
    dirty.clear();
    const number = new Uint8Array(4);
    viewOf(number).setUint32(0, pass, true);
    await channel.send(FrameType.PASS, number);
    return this.#finishPass(progress, channel.bytesSent - bytesBefore);
  }

  async #sendBlock(progress: PassProgress): Promise<void> {
    if (this.#peerFailure !== undefined) throw this.#peerFailure;
    const pages = this.#block.pages;
    await this.#channelOrFail().sendFilled(FrameType.MEMORY, this.#block.payloadSize, into => this.#block.encode(into));
    progress.pagesSent += pages;
    const now = performance.now();
    if (now - progress.toldAt < 50) return;
    progress.toldAt = now;
    const last = this.#report.passes.at(-1);
    this.#emit({
      event: 'progress',
      pass: progress.pass,
      pagesTotal: progress.pagesTotal,
      pagesLeft: progress.pagesTotal - progress.pagesSent,
      bytesPerSecond: (progress.pagesSent * PAGE_SIZE * 1000) / (now - progress.startedAt),
      dirtyPagesPerSecond: last?.dirtyPagesPerSecond ?? 0,
      estimatedDowntimeMs: last?.estimatedDowntimeMs,
    });
  }

  #finishPass(progress: PassProgress, bytesSent: number): PassReport {
    const durationMs = performance.now() - progress.startedAt;
    // A pass of a few pages measures the clock, not the link.
    if (progress.pagesSent >= 1024 || this.#bytesPerSecond === 0) {
      this.#bytesPerSecond = (Math.max(bytesSent, 1) * 1000) / durationMs;
    }
    const report: PassReport = {
      pass: progress.pass,
      pagesSent: progress.pagesSent,
      bytesSent,
      durationMs,
      dirtyPages: 0,
      dirtyPagesPerSecond: 0,
      estimatedDowntimeMs: undefined,
    };
    this.#report.passes.push(report);
    this.#report.pagesSent += report.pagesSent;
    this.#report.bytesSent = this.#channelOrFail().bytesSent;
    return report;
  }

  async #verify(): Promise<void> {
    const { verify = 'off', memory } = this.#options;
    if (verify === 'off') return;
    this.#enter('verify');
    const startedAt = performance.now();
    const [source, destination] = await Promise.all([digestMemory(memory), this.#askDigest(DigestKind.MEMORY, 32)]);
    const verified = Buffer.compare(source, destination) === 0;
    this.#report.verified = verified;
    this.#report.digests = { source: toHex(source), destination: toHex(destination) };
    this.#report.stalePages = verified ? 0 : await this.#countStalePages();
    this.#report.verifyMs = performance.now() - startedAt;
    if (!verified && verify === 'abort') {
      throw new VfioError('EBADMSG', {
        operation: 'VERIFY',
        message: `memory differs at the switch: ${this.#report.stalePages} pages are stale`,
      });
    }
  }

  async #countStalePages(): Promise<number> {
    const { memory } = this.#options;
    const [ours, theirs] = await Promise.all([
      digestPages(memory),
      this.#askDigest(DigestKind.PAGES, memory.pages * 4),
    ]);
    return countDifferentPages(ours, theirs);
  }

  async #askDigest(kind: number, size: number): Promise<Uint8Array> {
    const question = new Uint8Array(4);
    viewOf(question).setUint32(0, kind, true);
    await this.#channelOrFail().send(FrameType.VERIFY, question);
    const digest = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const part = await this.#expect(FrameType.DIGEST);
      if (part.length === 0 || filled + part.length > size)
        throw unexpected(FrameType.DIGEST, `${size} bytes of digest`);
      digest.set(part, filled);
      filled += part.length;
    }
    return digest;
  }

  async #go(): Promise<void> {
    // What the destination has said meanwhile must be heard first: it may have given up.
    await new Promise(resolve => setImmediate(resolve));
    if (this.#peerFailure !== undefined) throw this.#peerFailure;
    // A send that throws has written nothing. One that does not may arrive or not: from then on the machine is not ours.
    await this.#channelOrFail().send(FrameType.GO);
    this.#given = true;
    this.#report.runningAt = 'unknown';
    await this.#expect(FrameType.RESUMED);
  }

  /** The machine runs elsewhere: what is left here is stopped for good. Failing at it harms nobody. */
  async #letGo(): Promise<void> {
    await settle(() => this.#tracker.stop());
    for (const device of this.#options.devices) {
      await settle(() => device.features.setMigrationState(MigrationState.STOP));
    }
    await this.#channel?.end();
    this.#channel?.destroy();
  }

  /** The machine first: the destination cannot run it without GO. Then whoever else must know. */
  async #giveUp(cause: unknown): Promise<void> {
    const report = this.#report;
    const failed = !(cause instanceof NotConverged);
    report.outcome = failed ? 'failed' : 'not-converged';
    report.error = failed ? asVfioError(this.#causeOf(cause), 'migrate') : undefined;
    const word = report.error ?? new VfioError('ETIMEDOUT', { operation: 'migrate', message: 'it did not converge' });
    this.#channel?.giveUp(word);
    if (this.#channel?.peerAbort?.mayRun === false) this.#given = false;
    report.runningAt = await this.#whereItRuns();
    await settle(() => this.#tracker.stop());
    await this.#channel?.abort({ error: word, mayRun: false });
  }

  /** What the destination said is nearer to the cause than that the connection is gone. */
  #causeOf(cause: unknown): unknown {
    const wasAsked = cause instanceof VfioError && cause.errno === 'ECANCELED';
    return wasAsked ? cause : (this.#peerFailure ?? cause);
  }

  async #whereItRuns(): Promise<MigrationReport['runningAt']> {
    if (this.#given) return 'unknown';
    // Devices that were never this migration's are only asked: they may belong to another, or have been moved away.
    if (!this.#mayResume) return (await this.#allAre(isRunningHere)) ? 'source' : 'unknown';
    return (await this.#allAre(resumeDevice)) ? 'source' : 'nowhere';
  }

  async #allAre(so: (device: DeviceHandle) => Promise<boolean>): Promise<boolean> {
    const answers = await Promise.allSettled(this.#options.devices.map(so));
    return answers.every(answer => answer.status === 'fulfilled' && answer.value);
  }

  #enter(phase: MigrationPhase): void {
    this.#report.phase = phase;
    this.#emit({ event: 'phase', phase });
  }

  #emit(event: MigrationEvent): void {
    this.#options.onEvent?.(event);
  }

  #channelOrFail(): FrameChannel {
    if (this.#channel === undefined) throw new VfioError('ENOTCONN', { operation: 'migrate' });
    return this.#channel;
  }
}

/** Bytes of state that are taken from a device while it runs; what is left comes when it is stopped. */
const MOST_PRECOPY_STATE = 64 * 1024 * 1024;

/** Bytes of a device's state asked for at a time; below what a vfio-user message takes. */
const STATE_PIECE = 512 * 1024;

class PassProgress {
  pagesSent = 0;
  toldAt: number;

  constructor(
    readonly pass: number,
    readonly pagesTotal: number,
    readonly startedAt: number,
  ) {
    this.toldAt = startedAt;
  }
}

async function requireMigratable(device: DeviceHandle): Promise<number> {
  const flags = await device.features.migrationFlags();
  if ((flags & MIGRATION_STOP_COPY) === 0) {
    throw new VfioError('ENOTTY', { operation: 'migrate', message: `${device.target} cannot migrate` });
  }
  return flags;
}

/** @throws VfioError EINVAL for a device that does not run here */
async function requireRunning(device: DeviceHandle): Promise<void> {
  const state = await device.features.migrationState();
  if (state !== MigrationState.RUNNING) {
    const message = `${device.target} does not run here: it is in state ${migrationStateName(state)}`;
    throw new VfioError('EINVAL', { operation: 'migrate', field: 'devices', message });
  }
}

async function isRunningHere(device: DeviceHandle): Promise<boolean> {
  if ((await device.features.migrationFlags()) === 0) return true;
  return isRunning((await device.features.migrationState()) as MigrationState);
}

async function resumeDevice(device: DeviceHandle): Promise<boolean> {
  await device.features.setMigrationState(MigrationState.RUNNING);
  return true;
}

async function settle(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch {
    // There is nobody left to tell, and nothing that could still be done.
  }
}

async function dataSize(device: DeviceHandle): Promise<number> {
  try {
    return Number(await device.features.migrationDataSize());
  } catch (error) {
    // Devices need not say; their state then counts as nothing.
    if (error instanceof VfioError && error.errno !== 'ECONNRESET') return 0;
    throw error;
  }
}

function badOption(field: string, value: unknown): VfioError {
  return new VfioError('EINVAL', { operation: 'migrate', field, message: `${value}` });
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
