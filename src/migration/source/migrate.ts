import { performance } from 'node:perf_hooks';
import type { DeviceHandle } from '../../device/index.js';
import { DirtySet, LoggingSession, type Tracker, TrackerUnion } from '../../tracker/index.js';
import { asVfioError, VfioError, viewOf } from '../../uapi/index.js';
import { decodeLanePorts, lanesOf, MOST_LANES } from '../lane/lane-ports.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import { type MachineMemory, PAGE_SIZE } from '../memory/machine-memory.js';
import {
  isSameRecord,
  type OfferLink,
  type Ownership,
  type OwnershipRecord,
  offerMachine,
  requireOwnership,
  staleOwnership,
} from '../ownership/index.js';
import { unexpected } from '../stream/frame-channel.js';
import { OWN_PROTOCOL } from '../stream/hello.js';
import { FrameType, type Hello } from '../stream/stream-format.js';
import { ControlLane } from './control-lane.js';
import { type ConvergenceLimits, decide, estimateDowntimeMs } from './convergence.js';
import { Interruption } from './interruption.js';
import type { MemoryLane } from './memory-lane.js';
import { MemoryLanes } from './memory-lanes.js';
import {
  emptyReport,
  type MigrationEvent,
  type MigrationPhase,
  type MigrationReport,
  type PassReport,
} from './migration-report.js';
import { PassSender } from './pass-sender.js';
import { SourceDevices } from './source-devices.js';
import { SourceLink } from './source-link.js';
import { offerLinkOver } from './source-switch.js';
import { verifyMemory } from './verify-memory.js';

/** How long a lost link is waited for while the machine is stopped, milliseconds; longer where the downtime may be. */
const SHORTEST_PATIENCE_MS = 1000;

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
  /** Whom to trust, and who this end is. Without it the destination must be on this host. */
  tls?: TlsIdentity;
  /**
   * How long the destination may be silent, or out of reach, milliseconds; default 60,000. A connection that is lost is made again meanwhile; while
   * the machine is stopped it is waited for no longer than twice the downtime limit, or a second.
   */
  timeoutMs?: number;
  /**
   * How many connections memory takes at a time, each with a thread at either end; 1 to 16. The destination may take fewer. Default 1: memory
   * takes the migration's own connection, in this thread.
   */
  connections?: number;
  /** Gives up, at once and in any phase: the machine then runs on at the source. Too late once the destination was told to run;
   * then it only ends the waiting for an ownership store that does not answer. */
  signal?: AbortSignal;
  /**
   * Where it is recorded who may run the machine, and who this side is. The destination must have the same store and machine. Without it the
   * source cannot know whose the machine is when the link breaks at the switch.
   */
  ownership?: Ownership;
  onEvent?: (event: MigrationEvent) => void;
}

/**
 * Moves a running machine: pre-copy passes until the rest fits the downtime limit, then stop-and-copy, then the destination runs.
 *
 * The source gives the machine away with one word, GO, which it sends only after the destination has said that it has loaded everything.
 * Before GO every failure ends with the machine running at the source. After GO the source never runs it again, unless the destination
 * says that it has not taken it; or unless a record outside the two ends says so: see {@link MigrateOptions.ownership}, docs/ownership.md.
 *
 * Every device must be in state RUNNING. One that is not (a machine that was moved away already) is left as it is.
 *
 * @returns how it ended, whatever happens; only wrong arguments throw
 * @throws VfioError EINVAL for wrong arguments
 */
export async function migrate(options: MigrateOptions): Promise<MigrationReport> {
  const { downtimeLimitMs = 300, maxPasses = 30, connections = 1 } = options;
  if (!(downtimeLimitMs > 0)) throw badOption('downtimeLimitMs', downtimeLimitMs);
  if (!(Number.isInteger(maxPasses) && maxPasses > 0)) throw badOption('maxPasses', maxPasses);
  if (!(Number.isInteger(connections) && connections >= 1 && connections <= MOST_LANES)) {
    throw badOption('connections', connections);
  }
  return new MigrationSource(options, { downtimeLimitMs, maxPasses }).run();
}

/** The pass limit was reached: no failure, but no migration either. */
class NotConverged extends Error {}

class MigrationSource {
  readonly #options: MigrateOptions;
  readonly #limits: ConvergenceLimits;
  readonly #devices: SourceDevices;
  readonly #tracker: Tracker;
  readonly #passes: PassSender;
  readonly #interruption = new Interruption();
  readonly #report = emptyReport();
  readonly #startedAt = performance.now();
  #link: SourceLink | undefined;
  #lanes: MemoryLanes | undefined;
  /** The record under which the machine runs here. */
  #held: OwnershipRecord | undefined;
  #destinationName = '';
  /** GO is on its way: the machine is the destination's, as far as is known. */
  #given = false;
  #lastCollectAt = 0;
  #collectMs = 0;

  constructor(options: MigrateOptions, limits: ConvergenceLimits) {
    this.#options = options;
    this.#limits = limits;
    this.#devices = new SourceDevices(options.devices);
    this.#tracker = new TrackerUnion(
      options.trackers ??
        options.devices.map(
          // Whoever logs on a device that nobody else migrates has died.
          ({ features, target }) => new LoggingSession(features, { name: `DMA log of ${target}`, takeOver: true }),
        ),
    );
    this.#passes = new PassSender(event => this.#emit(event));
    this.#report.passes = this.#passes.passes;
  }

  async run(): Promise<MigrationReport> {
    const { signal } = this.#options;
    const onAbort = () => this.#giveUpBecauseAsked();
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    try {
      await this.#move();
      this.#report.outcome = 'moved';
      this.#report.runningAt = 'destination';
    } catch (error) {
      await this.#giveUp(error);
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
    if (this.#report.outcome === 'moved') await this.#letGo();
    this.#devices.release();
    this.#report.stateBytes = this.#devices.stateBytes;
    this.#report.totalMs = performance.now() - this.#startedAt;
    return this.#report;
  }

  #giveUpBecauseAsked(): void {
    if (this.#given) return;
    const error = new VfioError('ECANCELED', { operation: 'migrate', message: 'it was given up here' });
    this.#link?.channel.giveUp(error);
    this.#lanes?.giveUp(error);
    this.#interruption.interrupt(error);
  }

  async #move(): Promise<void> {
    const link = await this.#connect();
    const dirty = new DirtySet(this.#options.memory.ranges, BigInt(PAGE_SIZE));
    this.#enter('pre-copy');
    await this.#tracker.start(dirty.ranges);
    this.#lastCollectAt = performance.now();
    await this.#devices.startPrecopy(link.channel);
    dirty.markAll();
    const stoppedAt = await this.#precopyUntilStopped(link, dirty);
    await this.#lastPass(link, dirty);
    await link.channel.send(FrameType.SWITCH);
    await link.expect(FrameType.READY);
    const readyAt = performance.now();
    await this.#verify(link);
    this.#enter('switch');
    const goAt = performance.now();
    await this.#switch(link);
    this.#report.downtimeMs = readyAt - stoppedAt + (performance.now() - goAt);
  }

  async #connect(): Promise<SourceLink> {
    this.#enter('connect');
    const { memory, to, tls, timeoutMs, ownership, connections = 1 } = this.#options;
    await this.#devices.take();
    if (ownership !== undefined) this.#held = await this.#interruption.unlessInterrupted(requireOwnership(ownership));
    const onLinkEvent = (event: MigrationEvent) => this.#emit(event);
    const link = new SourceLink({ to, tls, timeoutMs, interruption: this.#interruption, onLinkEvent });
    this.#link = link;
    await link.connect();
    const theirs = await link.agree({
      ...OWN_PROTOCOL,
      pageSize: PAGE_SIZE,
      memory: memory.ranges,
      devices: [...this.#devices.flags],
      timeoutMs: link.channel.timeoutMs,
      connections,
      ...(ownership && { ownership: { self: ownership.self, record: this.#held } }),
    });
    this.#destinationName = theirs.ownership?.self ?? '';
    if (lanesOf(connections, theirs.connections) > 0) await this.#openLanes(link, theirs);
    return link;
  }

  async #openLanes(link: SourceLink, theirs: Hello): Promise<void> {
    const ports = decodeLanePorts(await link.expect(FrameType.LANES));
    const lanes = new MemoryLanes({
      host: this.#options.to.host,
      tls: this.#options.tls,
      ports,
      token: link.channel.token!,
      memory: this.#options.memory,
      timeoutMs: link.channel.timeoutMs,
      peerTimeoutMs: theirs.timeoutMs,
      onLinkEvent: event => this.#emit(event),
    });
    this.#lanes = lanes;
    link.whenPeerFails(error => lanes.giveUp(asVfioError(error, 'migrate')));
    await this.#interruption.unlessInterrupted(lanes.joined());
  }

  /**
   * Passes while the machine runs, until the rest fits the downtime limit and the machine is stopped; the rest is then in `dirty`.
   *
   * The last reading of the logs, after the stop, may bring far more than was expected: a device that loses its log at that moment makes
   * everything dirty. Then the machine runs again, and the passes go on.
   *
   * @returns when the stop began
   */
  async #precopyUntilStopped(link: SourceLink, dirty: DirtySet): Promise<number> {
    while (true) {
      await this.#precopy(link, dirty);
      await this.#requireStillOwner();
      const stoppedAt = performance.now();
      this.#enter('stop-and-copy');
      this.#waitForLinks(link, this.#patienceWhileStoppedMs(link));
      await this.#devices.stop();
      await this.#collect(dirty);
      if (await this.#fits(link, dirty)) return stoppedAt;
      await this.#runAgain(link);
    }
  }

  /** Passes while the machine runs. Returns when the rest, which is then in `dirty`, fits the downtime limit. */
  async #precopy(link: SourceLink, dirty: DirtySet): Promise<void> {
    while (true) {
      const report = await this.#sendPass(link, dirty);
      await this.#collect(dirty);
      const collectedAt = performance.now();
      report.dirtyPages = dirty.count();
      report.dirtyPagesPerSecond = (report.dirtyPages * 1000) / (collectedAt - this.#lastCollectAt);
      this.#lastCollectAt = collectedAt;
      const estimate = await this.#estimate(link, report.dirtyPages);
      report.estimatedDowntimeMs = estimate;
      this.#report.estimatedDowntimeMs = estimate;
      this.#emit({ event: 'pass', ...report });
      const decision = decide(estimate, this.#passes.passes.length, this.#limits);
      if (decision === 'switch') return;
      if (decision === 'give-up') throw new NotConverged();
    }
  }

  /** A store that cannot be reached now will not be reached at the switch either, and now the machine still runs. */
  async #requireStillOwner(): Promise<void> {
    const { ownership } = this.#options;
    if (ownership === undefined) return;
    const current = await this.#interruption.unlessInterrupted(ownership.store.read(ownership.machine));
    if (!isSameRecord(current, this.#held)) throw staleOwnership(ownership, current);
  }

  /** Whether what is dirty now is near enough to what was expected. */
  async #fits(link: SourceLink, dirty: DirtySet): Promise<boolean> {
    const estimate = await this.#estimate(link, dirty.count());
    return estimate <= this.#limits.downtimeLimitMs || estimate <= 2 * this.#report.estimatedDowntimeMs;
  }

  /** Whoever waits for the machine waits for the link with it. */
  #patienceWhileStoppedMs({ channel }: SourceLink): number {
    return Math.min(channel.timeoutMs, Math.max(SHORTEST_PATIENCE_MS, 2 * this.#limits.downtimeLimitMs));
  }

  #waitForLinks({ channel }: SourceLink, patienceMs: number): void {
    channel.patienceMs = patienceMs;
    if (this.#lanes !== undefined) this.#lanes.patienceMs = patienceMs;
  }

  async #runAgain(link: SourceLink): Promise<void> {
    const { channel } = link;
    if (this.#passes.passes.length >= this.#limits.maxPasses) throw new NotConverged();
    await this.#devices.runAgain();
    this.#waitForLinks(link, channel.timeoutMs);
    await channel.send(FrameType.RESTART);
    this.#enter('pre-copy');
    await this.#devices.startPrecopy(channel);
  }

  async #estimate({ roundTripMs }: SourceLink, dirtyPages: number): Promise<number> {
    const stateBytes = await this.#devices.expectedStateBytes();
    // Two round trips, SWITCH to READY and GO to RESUMED, in each of which the destination asks its devices as for HELLO; and the logs once more.
    const fixedMs = roundTripMs * 2 + this.#collectMs;
    const { bytesPerSecond } = this.#passes;
    return estimateDowntimeMs({ dirtyBytes: dirtyPages * PAGE_SIZE, stateBytes, bytesPerSecond, fixedMs });
  }

  async #collect(dirty: DirtySet): Promise<void> {
    const startedAt = performance.now();
    const lost = await this.#tracker.collect(dirty);
    this.#collectMs = performance.now() - startedAt;
    for (const entry of lost) this.#emit({ event: 'log-lost', ...entry });
    this.#report.lostLogs.push(...lost);
  }

  /** What was left, and what the devices wrote until they stopped; then their states. */
  async #lastPass(link: SourceLink, dirty: DirtySet): Promise<void> {
    const report = await this.#sendPass(link, dirty);
    this.#emit({ event: 'pass', ...report });
    this.#lanes?.finish();
    await this.#devices.sendStates(link.channel);
  }

  async #sendPass(link: SourceLink, dirty: DirtySet): Promise<PassReport> {
    const { memory } = this.#options;
    const lane: MemoryLane = this.#lanes ?? new ControlLane(memory, link);
    const report = await this.#passes.send(lane, dirty);
    const number = new Uint8Array(4);
    viewOf(number).setUint32(0, report.pass, true);
    await link.channel.send(FrameType.PASS, number);
    this.#report.pagesSent += report.pagesSent;
    this.#report.bytesSent = link.channel.bytesSent + (this.#lanes?.bytesSent ?? 0);
    return report;
  }

  async #verify(link: SourceLink): Promise<void> {
    const { verify = 'off', memory } = this.#options;
    if (verify === 'off') return;
    this.#enter('verify');
    const startedAt = performance.now();
    const verification = await verifyMemory(memory, link);
    Object.assign(this.#report, verification, { verifyMs: performance.now() - startedAt });
    if (!verification.verified && verify === 'abort') {
      throw new VfioError('EBADMSG', {
        operation: 'VERIFY',
        message: `memory differs at the switch: ${verification.stalePages} pages are stale`,
      });
    }
  }

  async #switch(link: SourceLink): Promise<void> {
    // What the destination has said meanwhile must be heard first: it may have given up.
    await link.throwIfPeerFailed();
    const words = offerLinkOver(link, () => {
      this.#given = true;
      this.#report.runningAt = 'unknown';
    });
    if (this.#held !== undefined) return this.#switchByRecord(link, words);
    await words.offer();
    const answer = await words.next();
    if (answer.word === 'refused') throw answer.error;
    if (answer.word !== 'taken') throw unexpected(FrameType.SETTLE, 'RESUMED');
  }

  async #switchByRecord(link: SourceLink, words: OfferLink): Promise<void> {
    const { ownership, signal } = this.#options;
    const offer = { ownership: ownership!, held: this.#held!, to: this.#destinationName, link: words, signal };
    const result = await offerMachine(offer);
    if (result.owner === 'destination') {
      // It has the machine, and has said that it cannot run it.
      if (link.channel.peerAbort !== undefined && result.error !== undefined) throw result.error;
      this.#report.error = result.error;
      return;
    }
    this.#given = result.owner === 'unknown';
    throw result.error;
  }

  /** The machine runs elsewhere: what is left here is stopped for good. Failing at it harms nobody. */
  async #letGo(): Promise<void> {
    await settle(() => this.#tracker.stop());
    await this.#devices.letGo();
    await this.#lanes?.close();
    await this.#link?.channel.end();
    this.#link?.channel.destroy();
  }

  /** The machine first: the destination cannot run it without GO. Then whoever else must know. */
  async #giveUp(cause: unknown): Promise<void> {
    const report = this.#report;
    const failed = !(cause instanceof NotConverged);
    report.outcome = failed ? 'failed' : 'not-converged';
    report.error = failed ? asVfioError(this.#causeOf(cause), 'migrate') : undefined;
    const word = report.error ?? new VfioError('ETIMEDOUT', { operation: 'migrate', message: 'it did not converge' });
    const channel = this.#link?.channel;
    channel?.giveUp(word);
    this.#lanes?.giveUp(word);
    if (this.#held === undefined && channel?.peerAbort?.mayRun === false) this.#given = false;
    report.runningAt = this.#given ? 'unknown' : await this.#devices.resume();
    await settle(() => this.#tracker.stop());
    await this.#lanes?.close();
    // To a destination that still tries to find out whether it has the machine, ABORT means that it has not.
    if (this.#given && this.#held !== undefined) channel?.destroy(word);
    else await channel?.abort({ error: word, mayRun: false });
  }

  /** What the destination said is nearer to the cause than that the connection is gone. */
  #causeOf(cause: unknown): unknown {
    const wasAsked = cause instanceof VfioError && cause.errno === 'ECANCELED';
    return wasAsked ? cause : (this.#link?.peerFailure ?? cause);
  }

  #enter(phase: MigrationPhase): void {
    this.#report.phase = phase;
    this.#emit({ event: 'phase', phase });
  }

  #emit(event: MigrationEvent): void {
    this.#options.onEvent?.(event);
  }
}

async function settle(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch {
    // There is nobody left to tell, and nothing that could still be done.
  }
}

function badOption(field: string, value: unknown): VfioError {
  return new VfioError('EINVAL', { operation: 'migrate', field, message: `${value}` });
}
