import { performance } from 'node:perf_hooks';
import { LoggingSession, TrackerUnion } from '../../tracker/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { PAGE_SIZE } from '../memory/machine-memory.js';
import { OWN_PROTOCOL } from '../stream/hello.js';
import { decodeTimes, FrameType } from '../stream/stream-format.js';
import type { ConvergenceLimits } from './convergence.js';
import { type DowntimeParts, DowntimeWatch } from './downtime.js';
import { DowntimeEstimator } from './downtime-estimator.js';
import { Interruption } from './interruption.js';
import type { MigrateOptions } from './migrate-options.js';
import { MigrationProgress } from './migration-progress.js';
import type { MigrationReport } from './migration-report.js';
import { NotConverged, Precopy } from './precopy.js';
import { Route } from './route.js';
import { SourceDevices } from './source-devices.js';
import { SourceMemory } from './source-memory.js';
import { SourceOwnership } from './source-ownership.js';
import { verifyMemory } from './verify-memory.js';

/** How long a lost link is waited for while the machine is stopped, milliseconds; longer where the downtime may be. */
const SHORTEST_PATIENCE_MS = 1000;

/** The source of one migration, from the first word to the last. */
export class MigrationSource {
  readonly #options: MigrateOptions;
  readonly #limits: ConvergenceLimits;
  readonly #devices: SourceDevices;
  readonly #memory: SourceMemory;
  readonly #tracker: TrackerUnion;
  readonly #interruption = new Interruption();
  readonly #ownership: SourceOwnership;
  readonly #progress: MigrationProgress;
  readonly #report: MigrationReport;
  readonly #estimator = new DowntimeEstimator();
  readonly #watch = new DowntimeWatch();
  /** From the first attempt to connect on. */
  #route: Route | undefined;
  #destinationName = '';

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
    this.#ownership = new SourceOwnership(options.ownership, this.#interruption, options.signal);
    this.#progress = new MigrationProgress(options.onEvent);
    this.#report = this.#progress.report;
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
    this.#progress.end();
    return this.#report;
  }

  #giveUpBecauseAsked(): void {
    if (this.#ownership.isGiven) return;
    const error = new VfioError('ECANCELED', { operation: 'migrate', message: 'it was given up here' });
    this.#route?.giveUp(error);
    this.#interruption.interrupt(error);
  }

  async #move(): Promise<void> {
    this.#progress.enter('connect');
    const route = await this.#connect();
    this.#progress.enter('pre-copy');
    const precopy = await this.#startPrecopy(route);
    await this.#precopyUntilStopped(route, precopy);
    await this.#sendRest(route, precopy);
    await this.#load(route);
    await this.#verify(route);
    this.#progress.enter('switch');
    await this.#switch(route);
    const actual = this.#watch.downtime;
    this.#report.downtimeMs = actual.totalMs;
    this.#report.downtime = { estimated: precopy.expected, actual };
  }

  async #connect(): Promise<Route> {
    const { to, tls, timeoutMs, compression, connections = 1 } = this.#options;
    await this.#devices.take();
    this.#estimator.storeAnswered(await this.#ownership.require());
    const interruption = this.#interruption;
    const onLinkEvent = this.#progress.tell.bind(this.#progress);
    const route = new Route({ to, tls, timeoutMs, compression, interruption, onLinkEvent });
    this.#route = route;
    const memory = this.#memory.current;
    const ours = {
      ...OWN_PROTOCOL,
      pageSize: PAGE_SIZE,
      memory: memory.ranges,
      devices: [...this.#devices.flags],
      timeoutMs: route.link.channel.timeoutMs,
      connections,
      ...this.#ownership.words,
    };
    const theirs = await route.open(ours, memory);
    this.#estimator.destinationAnswers(theirs.requestMs);
    this.#destinationName = theirs.ownership?.self ?? '';
    return route;
  }

  #startPrecopy(route: Route): Promise<Precopy> {
    return Precopy.start({
      limits: this.#limits,
      bandwidth: this.#options.bandwidth,
      route,
      devices: this.#devices,
      memory: this.#memory,
      tracker: this.#tracker,
      estimator: this.#estimator,
      progress: this.#progress,
      interruption: this.#interruption,
    });
  }

  /**
   * Passes while the machine runs, until a rule ends them and the machine is stopped.
   *
   * The last reading of the logs, after the stop, may bring far more than was expected: a device that loses its log at that moment makes
   * everything dirty. Then the machine runs again, and the passes go on.
   */
  async #precopyUntilStopped(route: Route, precopy: Precopy): Promise<void> {
    while (true) {
      const decision = await precopy.untilStop();
      await this.#ownership.requireStill();
      // Whoever waits for the machine waits for the link with it.
      const { channel } = route.link;
      const patienceMs = Math.max(SHORTEST_PATIENCE_MS, 2 * this.#limits.downtimeLimitMs);
      route.patienceMs = Math.min(channel.timeoutMs, patienceMs);
      await this.#stop(precopy);
      const confirmed = precopy.confirmStop(decision);
      if (confirmed !== undefined) {
        this.#report.stoppedBy = confirmed.stoppedBy;
        this.#report.reason = confirmed.reason;
        return;
      }
      await this.#runAgain(route, precopy);
    }
  }

  /** From here on the machine is down. */
  async #stop(precopy: Precopy): Promise<void> {
    const stoppedAt = performance.now();
    this.#watch.start(stoppedAt);
    this.#progress.enter('stop-and-copy');
    await this.#devices.stop();
    this.#lap('pauseMs');
    this.#estimator.devicesStopped(performance.now() - stoppedAt);
    await precopy.collect();
    this.#lap('logMs');
  }

  #lap(part: keyof DowntimeParts): void {
    this.#watch.lap(part, performance.now());
  }

  async #runAgain(route: Route, precopy: Precopy): Promise<void> {
    await this.#devices.runAgain();
    this.#memory.thaw();
    route.patienceMs = route.link.channel.timeoutMs;
    await route.link.channel.send(FrameType.RESTART);
    this.#progress.enter('pre-copy');
    await precopy.startStates();
  }

  /** The memory that is left, and the devices' states. */
  async #sendRest({ link }: Route, precopy: Precopy): Promise<void> {
    await precopy.last();
    this.#lap('memoryMs');
    await this.#devices.sendStates(link);
    this.#lap('stateMs');
  }

  async #load({ link }: Route): Promise<void> {
    await link.channel.send(FrameType.SWITCH);
    const { loadMs = 0 } = decodeTimes(await link.expect(FrameType.READY));
    this.#watch.lapElsewhere('loadMs', loadMs, performance.now());
  }

  async #verify({ link }: Route): Promise<void> {
    const { verify = 'off' } = this.#options;
    if (verify === 'off') return;
    this.#progress.enter('verify');
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

  async #switch({ link }: Route): Promise<void> {
    // What the destination has said meanwhile must be heard first: it may have given up.
    await link.throwIfPeerFailed();
    this.#watch.skip(performance.now());
    const { resumeMs, error } = await this.#ownership.give(link, this.#destinationName, () => {
      this.#report.runningAt = 'unknown';
    });
    this.#watch.lapElsewhere('resumeMs', resumeMs, performance.now());
    this.#report.error = error;
  }

  /** The machine runs elsewhere: what is left here is stopped for good. Failing at it harms nobody. */
  async #letGo(): Promise<void> {
    await settle(() => this.#tracker.stop());
    await this.#devices.letGo();
    await this.#route?.end();
  }

  /** The machine first: the destination cannot run it without GO. Then whoever else must know. */
  async #giveUp(cause: unknown): Promise<void> {
    const ownership = this.#ownership;
    const route = this.#route;
    const channel = route?.link.channel;
    const word = this.#noteFailure(cause);
    route?.giveUp(word);
    if (channel?.peerAbort?.mayRun === false) ownership.refused();
    this.#report.runningAt = ownership.isGiven ? 'unknown' : await this.#devices.resume();
    await settle(() => this.#tracker.stop());
    await route?.closeLanes();
    // To a destination that still tries to find out whether it has the machine, ABORT means that it has not.
    if (ownership.isGiven && ownership.isRecorded) channel?.destroy(word);
    else await channel?.abort({ error: word, mayRun: false });
  }

  /** @returns what to tell the destination */
  #noteFailure(cause: unknown): VfioError {
    const report = this.#report;
    if (cause instanceof NotConverged) {
      report.outcome = 'not-converged';
      report.stoppedBy = cause.stoppedBy;
      report.reason = cause.message;
      const message = `it did not converge: ${cause.message}`;
      return new VfioError('ETIMEDOUT', { operation: 'migrate', message });
    }
    const error = asVfioError(this.#causeOf(cause), 'migrate');
    report.outcome = 'failed';
    report.error = error;
    report.reason = error.message;
    return error;
  }

  /** What the destination said is nearer to the cause than that the connection is gone. */
  #causeOf(cause: unknown): unknown {
    const wasAsked = cause instanceof VfioError && cause.errno === 'ECANCELED';
    return wasAsked ? cause : (this.#route?.link.peerFailure ?? cause);
  }
}

async function settle(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch {
    // There is nobody left to tell, and nothing that could still be done.
  }
}
