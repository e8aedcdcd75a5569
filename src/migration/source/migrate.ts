import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import type { DeviceHandle } from '../../device/index.js';
import { DirtySet, LoggingSession, type LostLog, type Tracker, TrackerUnion } from '../../tracker/index.js';
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
import { LZ4_FEATURE, OWN_PROTOCOL } from '../stream/hello.js';
import type { Compression } from '../stream/memory-encoder.js';
import { decodeTimes, FrameType, type Hello } from '../stream/stream-format.js';
import { ControlLane } from './control-lane.js';
import {
  type ConvergenceHistory,
  type ConvergenceLimits,
  type Decision,
  decide,
  type StopRule,
} from './convergence.js';
import { type Downtime, type DowntimeParts, DowntimeWatch, estimateDowntime } from './downtime.js';
import { HotPages, withhold } from './hot-pages.js';
import { Interruption } from './interruption.js';
import type { MemoryLane } from './memory-lane.js';
import { MemoryLanes } from './memory-lanes.js';
import {
  emptyReport,
  type MigrationEvent,
  type MigrationPhase,
  type MigrationReport,
  type PassReport,
  PhaseLog,
} from './migration-report.js';
import { checkPassOptions, type PassOptions } from './pass-options.js';
import { PassSender } from './pass-sender.js';
import { Recent } from './recent.js';
import { SourceDevices } from './source-devices.js';
import { SourceLink } from './source-link.js';
import { SourceMemory } from './source-memory.js';
import { offerLinkOver } from './source-switch.js';
import { verifyMemory } from './verify-memory.js';

/** How long a lost link is waited for while the machine is stopped, milliseconds; longer where the downtime may be. */
const SHORTEST_PATIENCE_MS = 1000;

/** What {@link migrate} moves, and where to. */
export interface MigrateOptions extends PassOptions {
  /** The destination's migration port. */
  to: { host: string; port: number };
  /** May change while it is moved, until the machine is stopped: {@link MachineMemory.add}, {@link MachineMemory.remove}. */
  memory: MachineMemory;
  /** In the order in which the destination has its own. All must be able to migrate. */
  devices: readonly DeviceHandle[];
  /** Who says which pages were written; default: the DMA log of every device. An empty list moves memory once, and loses what changes. */
  trackers?: readonly Tracker[];
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
  const { connections = 1 } = options;
  if (!(Number.isInteger(connections) && connections >= 1 && connections <= MOST_LANES)) {
    throw new VfioError('EINVAL', { operation: 'migrate', field: 'connections', message: `${connections}` });
  }
  return new MigrationSource(options, checkPassOptions(options)).run();
}

/** A rule has ended the passes: no failure, but no migration either. */
class NotConverged extends Error {
  readonly stoppedBy: StopRule;

  constructor({ stoppedBy, reason }: Exclude<Decision, { action: 'pass' }>) {
    super(reason);
    this.stoppedBy = stoppedBy;
  }
}

/** Below that, moving state measures the requests and not the way, bytes. */
const STATE_TO_MEASURE = 256 * 1024;

class MigrationSource {
  readonly #options: MigrateOptions;
  readonly #limits: ConvergenceLimits;
  readonly #devices: SourceDevices;
  readonly #memory: SourceMemory;
  readonly #tracker: TrackerUnion;
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
  readonly #phases = new PhaseLog();
  readonly #watch = new DowntimeWatch();
  readonly #estimatesMs: number[] = [];
  #expected: Downtime | undefined;
  #lane: MemoryLane | undefined;
  #hot = new HotPages([]);
  #dirtyPagesPerSecond = 0;
  #lastCollectAt = 0;
  #storeMs = 0;
  #lastPauseMs: number | undefined;
  #stateBytes = 0;
  #stateBytesPerMs = 0;
  readonly #collectMs = new Recent();
  readonly #requestMs = new Recent();
  readonly #roundTripMs = new Recent();

  constructor(options: MigrateOptions, limits: ConvergenceLimits) {
    this.#options = options;
    this.#limits = limits;
    this.#devices = new SourceDevices(options.devices);
    this.#memory = new SourceMemory(options.memory);
    this.#tracker = new TrackerUnion(
      options.trackers ??
        options.devices.map(
          // Whoever logs on a device that nobody else migrates has died.
          ({ features, target }) => new LoggingSession(features, { name: `DMA log of ${target}`, takeOver: true }),
        ),
    );
    this.#passes = new PassSender({ onEvent: event => this.#emit(event), bandwidth: options.bandwidth });
    this.#report.passes = this.#passes.passes;
    this.#report.phases = this.#phases.phases;
    this.#report.devices = this.#devices.reports;
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
    this.#memory.end();
    this.#report.stateBytes = this.#devices.stateBytes;
    this.#report.totalMs = this.#elapsedMs;
    this.#phases.end(this.#report.totalMs);
    return this.#report;
  }

  get #elapsedMs(): number {
    return performance.now() - this.#startedAt;
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
    this.#enter('pre-copy');
    const dirty = await this.#startTracking(link);
    this.#lastCollectAt = performance.now();
    await this.#startPrecopy(link);
    dirty.markAll();
    await this.#precopyUntilStopped(link, dirty);
    await this.#lastPass(link, dirty);
    await this.#load(link);
    await this.#verify(link);
    this.#enter('switch');
    await this.#switch(link);
    const actual = this.#watch.downtime;
    this.#report.downtimeMs = actual.totalMs;
    this.#report.downtime = { estimated: this.#expected!, actual };
  }

  /** With nothing that waits between a look at the machine's memory and the trackers' own. */
  async #startTracking(link: SourceLink): Promise<DirtySet> {
    while (!this.#memory.isCurrent) {
      await this.#memory.followUntracked(link);
      this.#lanes?.useMemory(this.#memory.current);
    }
    const { current } = this.#memory;
    const dirty = new DirtySet(current.ranges, BigInt(PAGE_SIZE));
    await this.#tracker.start(dirty.ranges);
    this.#hot = new HotPages(current.ranges);
    this.#lane = this.#lanes ?? new ControlLane(current, link, this.#compressionOver(link));
    return dirty;
  }

  async #connect(): Promise<SourceLink> {
    this.#enter('connect');
    const { to, tls, timeoutMs, ownership, connections = 1 } = this.#options;
    await this.#devices.take();
    if (ownership !== undefined) {
      const askedAt = performance.now();
      this.#held = await this.#interruption.unlessInterrupted(requireOwnership(ownership));
      this.#storeMs = performance.now() - askedAt;
    }
    const onLinkEvent = (event: MigrationEvent) => this.#emit(event);
    const link = new SourceLink({ to, tls, timeoutMs, interruption: this.#interruption, onLinkEvent });
    this.#link = link;
    await link.connect();
    const theirs = await link.agree({
      ...OWN_PROTOCOL,
      pageSize: PAGE_SIZE,
      memory: this.#memory.current.ranges,
      devices: [...this.#devices.flags],
      timeoutMs: link.channel.timeoutMs,
      connections,
      ...(ownership && { ownership: { self: ownership.self, record: this.#held } }),
    });
    this.#destinationName = theirs.ownership?.self ?? '';
    const lanes = lanesOf(connections, theirs.connections);
    if (lanes > 0) await this.#openLanes(link, theirs, lanes);
    return link;
  }

  /** Devices give what state they can while they run, which also shows how fast state moves. */
  async #startPrecopy(link: SourceLink): Promise<void> {
    const bytesBefore = this.#devices.stateBytes;
    const startedAt = performance.now();
    await this.#devices.startPrecopy(link);
    const bytes = this.#devices.stateBytes - bytesBefore;
    if (bytes >= STATE_TO_MEASURE) this.#stateBytesPerMs = bytes / (performance.now() - startedAt);
  }

  #compressionOver({ agreement }: SourceLink): Compression {
    return agreement!.features.has(LZ4_FEATURE) ? (this.#options.compression ?? 'auto') : 'off';
  }

  async #openLanes(link: SourceLink, theirs: Hello, agreed: number): Promise<void> {
    const ports = decodeLanePorts(await link.expect(FrameType.LANES));
    if (ports.length !== agreed) {
      const message = `there are ${ports.length}, for the ${agreed} lanes that were agreed on`;
      throw new VfioError('EBADMSG', { operation: 'LANES', field: 'ports', message });
    }
    const lanes = new MemoryLanes({
      host: this.#options.to.host,
      tls: this.#options.tls,
      ports,
      token: link.channel.token!,
      memory: this.#memory.current,
      compression: this.#compressionOver(link),
      timeoutMs: link.channel.timeoutMs,
      peerTimeoutMs: theirs.timeoutMs,
      onLinkEvent: event => this.#emit(event),
    });
    this.#lanes = lanes;
    link.whenPeerFails(error => lanes.giveUp(asVfioError(error, 'migrate')));
    await this.#interruption.unlessInterrupted(lanes.joined());
  }

  /**
   * Passes while the machine runs, until a rule ends them and the machine is stopped; the rest is then in `dirty`.
   *
   * The last reading of the logs, after the stop, may bring far more than was expected: a device that loses its log at that moment makes
   * everything dirty. Then the machine runs again, and the passes go on.
   */
  async #precopyUntilStopped(link: SourceLink, dirty: DirtySet): Promise<void> {
    while (true) {
      const { stoppedBy, reason } = await this.#precopy(link, dirty);
      await this.#requireStillOwner();
      this.#waitForLinks(link, this.#patienceWhileStoppedMs(link));
      await this.#stop(dirty);
      this.#report.stoppedBy = stoppedBy;
      this.#report.reason = reason;
      if (stoppedBy !== 'fits' || this.#staysStopped(dirty)) return;
      await this.#runAgain(link);
    }
  }

  /** Passes while the machine runs. @returns why the machine is to be stopped; the rest is then in `dirty` */
  async #precopy(link: SourceLink, dirty: DirtySet): Promise<{ stoppedBy: StopRule; reason: string }> {
    while (true) {
      const report = await this.#sendPass(dirty);
      await this.#endPass(link, report);
      await this.#devices.sendPrecopy(link);
      await this.#followMemory(link, dirty);
      await this.#askStateSize();
      // Last: what is written from here on until the stop is not in the estimate by count.
      await this.#collect(dirty);
      this.#expected = this.#estimate(dirty.count());
      this.#estimatesMs.push(this.#expected.totalMs);
      this.#tellPass(report, dirty, this.#expected);
      const decision = decide(this.#history(dirty), this.#limits);
      if (decision.action === 'give-up') throw new NotConverged(decision);
      if (decision.action !== 'pass') {
        if (await this.#mayStop(link)) return decision;
      } else if (decision.afterMs > 0) await this.#interruption.unlessInterrupted(delay(decision.afterMs));
    }
  }

  /** The machine's memory may have changed: contract rule 9. */
  async #followMemory(link: SourceLink, dirty: DirtySet): Promise<void> {
    if (this.#memory.isCurrent) return;
    const change = await this.#memory.follow(link, this.#tracker, dirty);
    this.#hot!.changeRanges(dirty.ranges);
    this.#lane!.useMemory(this.#memory.current);
    this.#emit({ event: 'memory', ...change });
  }

  /** What has to be done while the machine runs; when it took its time, another pass is due. From a yes on, the machine's memory stays as it is. */
  async #mayStop(link: SourceLink): Promise<boolean> {
    if (this.#devices.initialDataLoaded) return this.#memory.freeze();
    await this.#devices.finishInitialData(link);
    return false;
  }

  /** A pass over what is dirty, but for the pages that change in every pass: they stay in `dirty`. */
  async #sendPass(dirty: DirtySet): Promise<PassReport> {
    const hot = this.#hot.pages;
    withhold(dirty, hot);
    const { maxMs, maxBytes } = this.#limits;
    const mustEnd = () => this.#elapsedMs >= maxMs || this.#lane!.bytesSent >= maxBytes;
    const report = await this.#passes.send(this.#lane!, dirty, mustEnd);
    report.hotPages = hot.count();
    dirty.or(hot);
    return report;
  }

  /** With nothing else under way, the word that a pass has ended takes a round trip. */
  async #endPass(link: SourceLink, report: PassReport): Promise<void> {
    const endedAt = performance.now();
    await this.#announceEnd(link, report);
    await link.channel.flush();
    this.#roundTripMs.add(performance.now() - endedAt);
  }

  async #announceEnd({ channel }: SourceLink, report: PassReport): Promise<void> {
    const number = new Uint8Array(4);
    viewOf(number).setUint32(0, report.pass, true);
    await channel.send(FrameType.PASS, number);
    this.#report.pagesSent += report.pagesSent;
    this.#report.zeroPages += report.zeroPages;
    this.#report.bytesSent = this.#lane!.bytesSent;
  }

  #tellPass(report: PassReport, dirty: DirtySet, estimate: Downtime): void {
    report.dirtyPages = dirty.count();
    report.dirtyBySource = this.#tracker.found;
    report.dirtyPagesPerSecond = this.#dirtyPagesPerSecond;
    report.estimatedDowntimeMs = estimate.totalMs;
    this.#report.estimatedDowntimeMs = estimate.totalMs;
    this.#emit({ event: 'pass', ...report });
  }

  #history(dirty: DirtySet): ConvergenceHistory {
    const bytesSent = this.#lane!.bytesSent;
    return { estimatesMs: this.#estimatesMs, dirtyPages: dirty.count(), elapsedMs: this.#elapsedMs, bytesSent };
  }

  /** A store that cannot be reached now will not be reached at the switch either, and now the machine still runs. */
  async #requireStillOwner(): Promise<void> {
    const { ownership } = this.#options;
    if (ownership === undefined) return;
    const current = await this.#interruption.unlessInterrupted(ownership.store.read(ownership.machine));
    if (!isSameRecord(current, this.#held)) throw staleOwnership(ownership, current);
  }

  /** From here on the machine is down. */
  async #stop(dirty: DirtySet): Promise<void> {
    const stoppedAt = performance.now();
    this.#watch.start(stoppedAt);
    this.#enter('stop-and-copy');
    await this.#devices.stop();
    this.#lap('pauseMs');
    this.#lastPauseMs = performance.now() - stoppedAt;
    await this.#collect(dirty);
    this.#lap('logMs');
  }

  /**
   * Whether what is dirty now is near enough to what was expected, or there is no more time for another try.
   * @throws NotConverged when there is none, and the machine is to stay
   */
  #staysStopped(dirty: DirtySet): boolean {
    const estimateMs = this.#estimate(dirty.count()).totalMs;
    if (estimateMs <= Math.max(this.#limits.downtimeLimitMs, 2 * this.#expected!.totalMs)) return true;
    this.#estimatesMs.splice(-1, 1, estimateMs);
    const decision = decide(this.#history(dirty), this.#limits);
    if (decision.action === 'give-up') throw new NotConverged(decision);
    if (decision.action === 'pass') return false;
    this.#report.stoppedBy = decision.stoppedBy;
    this.#report.reason = decision.reason;
    return true;
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
    await this.#devices.runAgain();
    this.#memory.thaw();
    this.#waitForLinks(link, link.channel.timeoutMs);
    await link.channel.send(FrameType.RESTART);
    this.#enter('pre-copy');
    await this.#startPrecopy(link);
  }

  /** Asking shows also how long the devices take to answer. */
  async #askStateSize(): Promise<void> {
    const askedAt = performance.now();
    this.#stateBytes = await this.#devices.expectedStateBytes();
    this.#requestMs.add(performance.now() - askedAt);
  }

  #estimate(dirtyPages: number): Downtime {
    const roundTripMs = this.#roundTripMs.median;
    const msPerPage = this.#passes.msPerPage(roundTripMs);
    return estimateDowntime({
      dirtyPages,
      dirtyPagesPerSecond: this.#dirtyPagesPerSecond,
      msPerPage,
      stateBytes: this.#stateBytes,
      stateBytesPerMs: this.#stateBytesPerMs || PAGE_SIZE / msPerPage,
      requestMs: this.#requestMs.median,
      lastPauseMs: this.#lastPauseMs,
      logMs: this.#collectMs.median,
      roundTripMs,
      storeMs: this.#storeMs,
    });
  }

  /** Reads the logs into `dirty`, and learns which pages change all the time, and how fast. */
  async #collect(dirty: DirtySet): Promise<void> {
    const fresh = this.#hot.begin();
    const startedAt = performance.now();
    try {
      this.#lostLogs(await this.#tracker.collect(fresh));
    } finally {
      dirty.or(fresh);
    }
    const now = performance.now();
    this.#collectMs.add(now - startedAt);
    this.#dirtyPagesPerSecond = (fresh.count() * 1000) / Math.max(now - this.#lastCollectAt, 1);
    this.#lastCollectAt = now;
    this.#hot.learn();
  }

  #lostLogs(lost: readonly LostLog[]): void {
    for (const entry of lost) this.#emit({ event: 'log-lost', ...entry });
    this.#report.lostLogs.push(...lost);
  }

  /** What was left, and what the devices wrote until they stopped; then their states. */
  async #lastPass(link: SourceLink, dirty: DirtySet): Promise<void> {
    const report = await this.#passes.send(this.#lane!, dirty);
    await this.#announceEnd(link, report);
    this.#emit({ event: 'pass', ...report });
    this.#lanes?.finish();
    this.#lap('memoryMs');
    await this.#devices.sendStates(link);
    this.#lap('stateMs');
  }

  async #load(link: SourceLink): Promise<void> {
    await link.channel.send(FrameType.SWITCH);
    const { loadMs = 0 } = decodeTimes(await link.expect(FrameType.READY));
    this.#watch.lapElsewhere('loadMs', loadMs, performance.now());
  }

  #lap(part: keyof DowntimeParts): void {
    this.#watch.lap(part, performance.now());
  }

  async #verify(link: SourceLink): Promise<void> {
    const { verify = 'off' } = this.#options;
    if (verify === 'off') return;
    this.#enter('verify');
    const startedAt = performance.now();
    const verification = await verifyMemory(this.#memory.current, link);
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
    let resumeMs = 0;
    this.#watch.skip(performance.now());
    const words = offerLinkOver(link, {
      onOffered: () => {
        this.#given = true;
        this.#report.runningAt = 'unknown';
      },
      onResumed: times => {
        resumeMs = times.resumeMs ?? 0;
      },
    });
    await this.#offer(link, words);
    this.#watch.lapElsewhere('resumeMs', resumeMs, performance.now());
  }

  async #offer(link: SourceLink, words: OfferLink): Promise<void> {
    if (this.#held !== undefined) return this.#offerByRecord(link, words);
    await words.offer();
    const answer = await words.next();
    if (answer.word === 'refused') throw answer.error;
    if (answer.word !== 'taken') throw unexpected(FrameType.SETTLE, 'RESUMED');
  }

  async #offerByRecord(link: SourceLink, words: OfferLink): Promise<void> {
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
    if (cause instanceof NotConverged) report.stoppedBy = cause.stoppedBy;
    report.reason = report.error?.message ?? (cause as NotConverged).message;
    const message = `it did not converge: ${report.reason}`;
    const word = report.error ?? new VfioError('ETIMEDOUT', { operation: 'migrate', message });
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
    this.#phases.enter(phase, this.#elapsedMs);
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
