import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import type { TrackerUnion } from '../../tracker/index.js';
import { viewOf } from '../../uapi/index.js';
import { FrameType } from '../stream/stream-format.js';
import { type ConvergenceLimits, type Decision, decide, type StopRule } from './convergence.js';
import { DirtyPages } from './dirty-pages.js';
import type { Downtime } from './downtime.js';
import type { DowntimeEstimator } from './downtime-estimator.js';
import type { Interruption } from './interruption.js';
import type { MigrationProgress } from './migration-progress.js';
import type { PassReport } from './migration-report.js';
import { PassSender } from './pass-sender.js';
import type { Route } from './route.js';
import type { SourceDevices } from './source-devices.js';
import type { SourceMemory } from './source-memory.js';

/** A rule has ended the passes: no failure, but no migration either. */
export class NotConverged extends Error {
  readonly stoppedBy: StopRule;

  constructor({ stoppedBy, reason }: Exclude<Decision, { action: 'pass' }>) {
    super(reason);
    this.stoppedBy = stoppedBy;
  }
}

/** Why the machine is to be stopped. */
export interface StopDecision {
  stoppedBy: StopRule;
  /** For people. */
  reason: string;
}

/** What {@link Precopy} works on. */
export interface PrecopyParts {
  limits: ConvergenceLimits;
  /** Bytes of memory per second; `undefined`: as fast as the route is. */
  bandwidth: number | undefined;
  route: Route;
  devices: SourceDevices;
  memory: SourceMemory;
  tracker: TrackerUnion;
  estimator: DowntimeEstimator;
  progress: MigrationProgress;
  interruption: Interruption;
}

/** The passes over memory: those while the machine runs, with what decides how many there are, and the last one. */
export class Precopy {
  readonly #parts: PrecopyParts;
  readonly #passes: PassSender;
  readonly #dirty: DirtyPages;
  readonly #estimatesMs: number[] = [];
  #expected: Downtime | undefined;

  private constructor(parts: PrecopyParts, dirty: DirtyPages) {
    const { progress, bandwidth } = parts;
    this.#parts = parts;
    this.#dirty = dirty;
    this.#passes = new PassSender({ onEvent: event => progress.tell(event), bandwidth });
    progress.report.passes = this.#passes.passes;
  }

  /** Starts the logs, and what devices give of their state while they run. */
  static async start(parts: PrecopyParts): Promise<Precopy> {
    const { memory, route, tracker } = parts;
    // Nothing waits between a look at the machine's memory and the trackers' own.
    while (!memory.isCurrent) {
      await memory.followUntracked(route.link);
      route.lane.useMemory(memory.current);
    }
    const dirty = await DirtyPages.track(memory.current.ranges, tracker);
    const precopy = new Precopy(parts, dirty);
    await precopy.startStates();
    dirty.set.markAll();
    return precopy;
  }

  /** What was expected of the downtime when the decision to stop was made. */
  get expected(): Downtime {
    return this.#expected!;
  }

  /** Devices give what state they can while they run, which also shows how fast state moves. */
  async startStates(): Promise<void> {
    const { devices, route, estimator } = this.#parts;
    const bytesBefore = devices.stateBytes;
    const startedAt = performance.now();
    await devices.startPrecopy(route.link);
    estimator.stateMoved(devices.stateBytes - bytesBefore, performance.now() - startedAt);
  }

  /**
   * Passes while the machine runs, until a rule ends them. From then on the machine's memory stays as it is.
   * @throws NotConverged when the machine is to stay
   */
  async untilStop(): Promise<StopDecision> {
    const { route, devices, interruption } = this.#parts;
    while (true) {
      const report = await this.#sendPass();
      await this.#endPass(report);
      await devices.sendPrecopy(route.link);
      await this.#followMemory();
      await this.#askDevices();
      // Last: what is written from here on until the stop is not in the estimate by count.
      await this.collect();
      this.#expected = this.#estimate();
      this.#estimatesMs.push(this.#expected.totalMs);
      this.#tellPass(report, this.#expected);
      const decision = this.#decide();
      if (decision.action !== 'pass') {
        if (await this.#mayStop()) return decision;
      } else if (decision.afterMs > 0) await interruption.unlessInterrupted(delay(decision.afterMs));
    }
  }

  /** A pass over what is dirty, but for the pages that change in every pass. */
  async #sendPass(): Promise<PassReport> {
    const { limits, progress, route, estimator } = this.#parts;
    const mustEnd = () => progress.elapsedMs >= limits.maxMs || route.lane.bytesSent >= limits.maxBytes;
    let report!: PassReport;
    const hotPages = await this.#dirty.withoutHot(async () => {
      report = await this.#passes.send(route.lane, this.#dirty.set, mustEnd);
    });
    report.hotPages = hotPages;
    estimator.passSent(report);
    return report;
  }

  /** With nothing else under way, the word that a pass has ended takes a round trip. */
  async #endPass(report: PassReport): Promise<void> {
    const { route, estimator } = this.#parts;
    const endedAt = performance.now();
    await this.#announceEnd(report);
    await route.link.channel.flush();
    estimator.wentRound(performance.now() - endedAt);
  }

  async #announceEnd({ pass, pagesSent, zeroPages }: PassReport): Promise<void> {
    const { route, progress } = this.#parts;
    const number = new Uint8Array(4);
    viewOf(number).setUint32(0, pass, true);
    await route.link.channel.send(FrameType.PASS, number);
    progress.report.pagesSent += pagesSent;
    progress.report.zeroPages += zeroPages;
    progress.report.bytesSent = route.lane.bytesSent;
  }

  /** The machine's memory may have changed: contract rule 9. */
  async #followMemory(): Promise<void> {
    const { memory, route, tracker, progress } = this.#parts;
    if (memory.isCurrent) return;
    const change = await memory.follow(route.link, tracker, this.#dirty.set);
    this.#dirty.followRanges();
    route.lane.useMemory(memory.current);
    progress.tell({ event: 'memory', ...change });
  }

  /** How much state the devices have, how long it takes them to say so, and how long anything takes them. */
  async #askDevices(): Promise<void> {
    const { devices, estimator } = this.#parts;
    const askedAt = performance.now();
    await devices.ask();
    const answeredAt = performance.now();
    estimator.devicesAsked(answeredAt - askedAt);
    const bytes = await devices.expectedStateBytes();
    estimator.stateAsked(bytes, performance.now() - answeredAt);
  }

  /** Reads the logs. */
  async collect(): Promise<void> {
    const { estimator, progress } = this.#parts;
    const startedAt = performance.now();
    const lost = await this.#dirty.collect();
    estimator.logsRead(performance.now() - startedAt);
    for (const entry of lost) progress.tell({ event: 'log-lost', ...entry });
    progress.report.lostLogs.push(...lost);
  }

  #estimate(): Downtime {
    return this.#parts.estimator.estimate(this.#dirty.count, this.#dirty.pagesPerSecond);
  }

  #tellPass(report: PassReport, { totalMs }: Downtime): void {
    const { tracker, progress } = this.#parts;
    report.dirtyPages = this.#dirty.count;
    report.dirtyBySource = tracker.found;
    report.dirtyPagesPerSecond = this.#dirty.pagesPerSecond;
    report.estimatedDowntimeMs = totalMs;
    progress.report.estimatedDowntimeMs = totalMs;
    progress.tell({ event: 'pass', ...report });
  }

  /** @throws NotConverged when the machine is to stay */
  #decide(): Exclude<Decision, { action: 'give-up' }> {
    const { progress, route, limits } = this.#parts;
    const history = {
      estimatesMs: this.#estimatesMs,
      dirtyPages: this.#dirty.count,
      elapsedMs: progress.elapsedMs,
      bytesSent: route.lane.bytesSent,
    };
    const decision = decide(history, limits);
    if (decision.action === 'give-up') throw new NotConverged(decision);
    return decision;
  }

  /** What has to be done while the machine runs; when it took its time, another pass is due. */
  async #mayStop(): Promise<boolean> {
    const { devices, memory, route } = this.#parts;
    if (devices.initialDataLoaded) return memory.freeze();
    await devices.finishInitialData(route.link);
    return false;
  }

  /**
   * Whether a machine that was stopped stays so: what is dirty now is near enough to what was expected, or there is no more time for another
   * try.
   * @param decision what it was stopped by
   * @returns what it stays stopped by; `undefined`: it shall run again, and the passes go on
   * @throws NotConverged when there is no more time, and the machine is to stay
   */
  confirmStop(decision: StopDecision): StopDecision | undefined {
    if (decision.stoppedBy !== 'fits') return decision;
    const { totalMs } = this.#estimate();
    if (totalMs <= Math.max(this.#parts.limits.downtimeLimitMs, 2 * this.expected.totalMs)) return decision;
    this.#estimatesMs.splice(-1, 1, totalMs);
    const other = this.#decide();
    return other.action === 'pass' ? undefined : other;
  }

  /** The pass of a machine that is stopped: what was left, and what was written until then. */
  async last(): Promise<void> {
    const { route, progress } = this.#parts;
    const report = await this.#passes.send(route.lane, this.#dirty.set);
    await this.#announceEnd(report);
    progress.tell({ event: 'pass', ...report });
    route.finishLanes();
  }
}
