import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import type { DeviceHandle } from '../../device/index.js';
import { DirtySet, LoggingSession, type Tracker, TrackerUnion } from '../../tracker/index.js';
import { VfioError } from '../../uapi/index.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import { type MachineMemory, PAGE_SIZE } from '../memory/machine-memory.js';
import type { Ownership } from '../ownership/index.js';
import { type ConvergenceHistory, type ConvergenceLimits, type Decision, decide } from '../source/convergence.js';
import { estimateDowntime } from '../source/downtime.js';
import { Interruption } from '../source/interruption.js';
import { type MigrationEvent, type PassReport, sentPass } from '../source/migration-report.js';
import { checkPassOptions, type PassOptions } from '../source/pass-options.js';
import { Recent } from '../source/recent.js';
import { SourceDevices } from '../source/source-devices.js';
import { SourceLink } from '../source/source-link.js';
import { OWN_PROTOCOL, REHEARSAL_FEATURE } from '../stream/hello.js';
import { measureLink } from './link-probe.js';
import type { RehearsalReport, RehearsedLink } from './rehearsal-report.js';

/** What {@link rehearse} rehearses. All that `migrate()` has too means the same there. */
export interface RehearseOptions extends PassOptions {
  memory: MachineMemory;
  devices: readonly DeviceHandle[];
  trackers?: readonly Tracker[];
  /** The destination's migration port, where the link is measured and the machine compared; it goes on waiting. */
  to?: { host: string; port: number };
  /** Bytes per second that may be used. Where there is no `to`, the link's speed. */
  bandwidth?: number;
  tls?: TlsIdentity;
  timeoutMs?: number;
  /** Only read, never claimed. */
  ownership?: Ownership;
  signal?: AbortSignal;
  onEvent?: (event: MigrationEvent) => void;
}

/** How often progress is told, milliseconds. */
const PROGRESS_MS = 50;

/**
 * What a migration would be like: tracks what is written for real, lets each pass take as long as the link would need, and decides as `migrate()`
 * does; but it sends no memory, stops nothing, and changes no device beyond switching its DMA log on and off. The machine runs on.
 *
 * It knows less than a migration: what a device only says when it is stopped, what compression saves, and how the destination's devices take
 * their states. And the machine is not slowed down by its own memory being read.
 *
 * Every device must be in state RUNNING, and nobody else may use its DMA log.
 *
 * @throws VfioError EINVAL for wrong arguments, neither `to` nor `bandwidth` among them; ECANCELED when `signal` ends it; whatever a migration
 *   would have failed with: a destination that does not answer or does not fit, a device that cannot migrate, a log that cannot be read
 */
export async function rehearse(options: RehearseOptions): Promise<RehearsalReport> {
  const { bandwidth, to } = options;
  if (to === undefined && bandwidth === undefined) throw badOption('bandwidth', 'needed where no destination is');
  return new Rehearsal(options, checkPassOptions(options)).run();
}

class Rehearsal {
  readonly #options: RehearseOptions;
  readonly #limits: ConvergenceLimits;
  readonly #devices: SourceDevices;
  readonly #tracker: TrackerUnion;
  readonly #interruption = new Interruption();
  readonly #cancelled = new VfioError('ECANCELED', { operation: 'rehearse', message: 'it was given up here' });
  readonly #passes: PassReport[] = [];
  readonly #lostLogs: RehearsalReport['lostLogs'] = [];
  readonly #collectMs = new Recent();
  readonly #requestMs = new Recent();
  #stateBytes = 0;
  readonly #sizeMs = new Recent();
  /** `undefined`: nobody said. */
  #destinationRequestMs: number | undefined;
  #storeMs = 0;
  #startedAt = 0;

  constructor(options: RehearseOptions, limits: ConvergenceLimits) {
    this.#options = options;
    this.#limits = limits;
    this.#devices = new SourceDevices(options.devices);
    this.#tracker = new TrackerUnion(
      // A log that is in use is somebody's migration: it is not taken over for a rehearsal.
      options.trackers ??
        options.devices.map(({ features, target }) => new LoggingSession(features, { name: `DMA log of ${target}` })),
    );
  }

  async run(): Promise<RehearsalReport> {
    const { signal, memory } = this.#options;
    const onAbort = () => this.#interruption.interrupt(this.#cancelled);
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    try {
      await this.#devices.take();
      this.#emit({ event: 'phase', phase: 'connect' });
      const link = await this.#findLink();
      const dirty = new DirtySet(memory.ranges, BigInt(PAGE_SIZE));
      this.#emit({ event: 'phase', phase: 'pre-copy' });
      await this.#tracker.start(dirty.ranges);
      return await this.#precopy(link, dirty);
    } finally {
      signal?.removeEventListener('abort', onAbort);
      await this.#tracker.stop();
      this.#devices.release();
    }
  }

  async #findLink(): Promise<RehearsedLink> {
    const { to, bandwidth = Number.POSITIVE_INFINITY } = this.#options;
    if (to === undefined) return { bytesPerSecond: bandwidth, source: 'given', roundTripMs: 0 };
    const { bytesPerSecond, roundTripMs } = await this.#measure(to);
    const source = bytesPerSecond <= bandwidth ? 'measured' : 'given';
    return { bytesPerSecond: Math.min(bytesPerSecond, bandwidth), source, roundTripMs };
  }

  async #measure(to: { host: string; port: number }): Promise<{ bytesPerSecond: number; roundTripMs: number }> {
    const { memory, ownership, tls, timeoutMs } = this.#options;
    const askedAt = performance.now();
    const record = await this.#interruption.unlessInterrupted(readRecord(ownership));
    if (ownership !== undefined) this.#storeMs = performance.now() - askedAt;
    const link = new SourceLink({ to, tls, timeoutMs, interruption: this.#interruption });
    try {
      await link.connect();
      const theirs = await link.agree({
        ...OWN_PROTOCOL,
        requires: [REHEARSAL_FEATURE],
        pageSize: PAGE_SIZE,
        memory: memory.ranges,
        devices: [...this.#devices.flags],
        timeoutMs: link.channel.timeoutMs,
        purpose: 'rehearsal',
        ...(ownership && { ownership: { self: ownership.self, record } }),
      });
      this.#destinationRequestMs = theirs.requestMs;
      const bytesPerSecond = await this.#interruption.unlessInterrupted(measureLink(link));
      await link.channel.end();
      return { bytesPerSecond, roundTripMs: link.roundTripMs };
    } finally {
      link.channel.destroy();
    }
  }

  async #precopy(link: RehearsedLink, dirty: DirtySet): Promise<RehearsalReport> {
    this.#startedAt = performance.now();
    let collectedAt = this.#startedAt;
    dirty.markAll();
    while (true) {
      const pass = await this.#pretendPass(link, dirty);
      await this.#askDevices();
      await this.#collect(dirty);
      const now = performance.now();
      pass.dirtyPages = dirty.count();
      pass.dirtyBySource = this.#tracker.found;
      pass.dirtyPagesPerSecond = (pass.dirtyPages * 1000) / (now - collectedAt);
      collectedAt = now;
      pass.estimatedDowntimeMs = this.#estimate(link, pass);
      this.#emit({ event: 'pass', ...pass });
      const decision = decide(this.#history(pass), this.#limits);
      if (decision.action !== 'pass') return this.#report(link, decision);
      if (decision.afterMs > 0) await this.#pause(decision.afterMs);
    }
  }

  /** Takes as long as the pages would; what is written meanwhile is the next pass's. */
  async #pretendPass({ bytesPerSecond }: RehearsedLink, dirty: DirtySet): Promise<PassReport> {
    const pagesSent = dirty.count();
    const bytesSent = pagesSent * PAGE_SIZE;
    const pass = { pass: this.#passes.length, pagesSent, bytesSent };
    const neededMs = (bytesSent * 1000) / bytesPerSecond;
    dirty.clear();
    const startedAt = performance.now();
    for (let passed = 0; passed < neededMs; passed = performance.now() - startedAt) {
      await this.#pause(Math.min(PROGRESS_MS, neededMs - passed));
      this.#tellProgress(pass, Math.min(1, (performance.now() - startedAt) / neededMs), bytesPerSecond);
    }
    const report = sentPass({ ...pass, zeroPages: 0, durationMs: performance.now() - startedAt });
    this.#passes.push(report);
    return report;
  }

  async #pause(durationMs: number): Promise<void> {
    await delay(durationMs, undefined, { signal: this.#options.signal }).catch(() => {
      throw this.#cancelled;
    });
  }

  #tellProgress(pass: { pass: number; pagesSent: number }, done: number, bytesPerSecond: number): void {
    const last = this.#passes.at(-1);
    this.#emit({
      event: 'progress',
      pass: pass.pass,
      pagesTotal: pass.pagesSent,
      pagesLeft: pass.pagesSent - Math.floor(pass.pagesSent * done),
      bytesPerSecond,
      dirtyPagesPerSecond: last?.dirtyPagesPerSecond ?? 0,
      estimatedDowntimeMs: last?.estimatedDowntimeMs,
    });
  }

  async #collect(dirty: DirtySet): Promise<void> {
    const startedAt = performance.now();
    const lost = await this.#interruption.unlessInterrupted(this.#tracker.collect(dirty));
    this.#collectMs.add(performance.now() - startedAt);
    for (const entry of lost) this.#emit({ event: 'log-lost', ...entry });
    this.#lostLogs.push(...lost);
  }

  async #askDevices(): Promise<void> {
    const askedAt = performance.now();
    await this.#interruption.unlessInterrupted(this.#devices.ask());
    const answeredAt = performance.now();
    this.#requestMs.add(answeredAt - askedAt);
    this.#stateBytes = await this.#interruption.unlessInterrupted(this.#devices.expectedStateBytes());
    this.#sizeMs.add(performance.now() - answeredAt);
  }

  /** As a migration does, but for what only it can measure. */
  #estimate({ roundTripMs, bytesPerSecond }: RehearsedLink, pass: PassReport): number {
    const bytesPerMs = bytesPerSecond / 1000;
    return estimateDowntime({
      dirtyPages: pass.dirtyPages,
      dirtyPagesPerSecond: pass.dirtyPagesPerSecond,
      msPerPage: PAGE_SIZE / bytesPerMs,
      stateBytes: this.#stateBytes,
      stateBytesPerMs: bytesPerMs,
      requestMs: this.#requestMs.median,
      sizeMs: this.#sizeMs.median,
      destinationRequestMs: this.#destinationRequestMs ?? this.#requestMs.median,
      lastPauseMs: undefined,
      logMs: this.#collectMs.median,
      roundTripMs,
      storeMs: this.#storeMs,
    }).totalMs;
  }

  #history({ dirtyPages }: PassReport): ConvergenceHistory {
    return {
      estimatesMs: this.#passes.map(pass => pass.estimatedDowntimeMs!),
      dirtyPages,
      elapsedMs: performance.now() - this.#startedAt,
      bytesSent: this.#bytesSent,
    };
  }

  get #bytesSent(): number {
    return this.#passes.reduce((sum, { bytesSent }) => sum + bytesSent, 0);
  }

  #report(link: RehearsedLink, { action, stoppedBy, reason }: Exclude<Decision, { action: 'pass' }>): RehearsalReport {
    return {
      wouldMove: action === 'switch',
      stoppedBy,
      reason,
      link,
      passes: this.#passes,
      pagesSent: this.#bytesSent / PAGE_SIZE,
      bytesSent: this.#bytesSent,
      preCopyMs: performance.now() - this.#startedAt,
      stateBytes: this.#stateBytes,
      estimatedDowntimeMs: this.#passes.at(-1)!.estimatedDowntimeMs!,
      downtimeLimitMs: this.#limits.downtimeLimitMs,
      lostLogs: this.#lostLogs,
    };
  }

  #emit(event: MigrationEvent): void {
    this.#options.onEvent?.(event);
  }
}

async function readRecord(ownership: Ownership | undefined) {
  return ownership?.store.read(ownership.machine);
}

function badOption(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'rehearse', field, message });
}
