import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import type { DeviceHandle } from '../../device/index.js';
import { DirtySet, LoggingSession, type Tracker, TrackerUnion } from '../../tracker/index.js';
import { VfioError } from '../../uapi/index.js';
import { type MachineMemory, PAGE_SIZE } from '../memory/machine-memory.js';
import type { Ownership } from '../ownership/index.js';
import { decide, estimateDowntimeMs } from '../source/convergence.js';
import { Interruption } from '../source/interruption.js';
import type { MigrationEvent, MigrationTls, PassReport } from '../source/migration-report.js';
import { SourceDevices } from '../source/source-devices.js';
import { SourceLink } from '../source/source-link.js';
import { STREAM_VERSION } from '../stream/stream-format.js';
import { measureLink } from './link-probe.js';
import type { RehearsalEnd, RehearsalReport, RehearsedLink } from './rehearsal-report.js';

/** What {@link rehearse} rehearses. All that `migrate()` has too means the same there. */
export interface RehearseOptions {
  memory: MachineMemory;
  devices: readonly DeviceHandle[];
  trackers?: readonly Tracker[];
  /** The destination's migration port, where the link is measured and the machine compared; it goes on waiting. */
  to?: { host: string; port: number };
  /** Bytes per second that may be used. Where there is no `to`, the link's speed. */
  bandwidth?: number;
  tls?: MigrationTls;
  downtimeLimitMs?: number;
  maxPasses?: number;
  /** Longest that passes may take together, milliseconds. */
  maxMs?: number;
  /** Most bytes that passes may send together. */
  maxBytes?: number;
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
  const { bandwidth, to, downtimeLimitMs = 300, maxPasses = 30 } = options;
  if (to === undefined && bandwidth === undefined) throw badOption('bandwidth', 'needed where no destination is');
  if (bandwidth !== undefined && !(bandwidth > 0)) throw badOption('bandwidth', `${bandwidth}`);
  if (!(downtimeLimitMs > 0)) throw badOption('downtimeLimitMs', `${downtimeLimitMs}`);
  if (!(Number.isInteger(maxPasses) && maxPasses > 0)) throw badOption('maxPasses', `${maxPasses}`);
  return new Rehearsal(options, { downtimeLimitMs, maxPasses }).run();
}

class Rehearsal {
  readonly #options: RehearseOptions;
  readonly #limits: { downtimeLimitMs: number; maxPasses: number };
  readonly #devices: SourceDevices;
  readonly #tracker: Tracker;
  readonly #interruption = new Interruption();
  readonly #cancelled = new VfioError('ECANCELED', { operation: 'rehearse', message: 'it was given up here' });
  readonly #passes: PassReport[] = [];
  readonly #lostLogs: RehearsalReport['lostLogs'] = [];
  #collectMs = 0;
  #stateBytes = 0;
  #startedAt = 0;

  constructor(options: RehearseOptions, limits: { downtimeLimitMs: number; maxPasses: number }) {
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
    const { memory, ownership, timeoutMs } = this.#options;
    const record = await this.#interruption.unlessInterrupted(readRecord(ownership));
    const link = new SourceLink(to, timeoutMs, this.#interruption);
    try {
      await link.connect();
      await link.agree({
        version: STREAM_VERSION,
        pageSize: PAGE_SIZE,
        memory: memory.ranges,
        devices: [...this.#devices.flags],
        timeoutMs: link.channel.timeoutMs,
        purpose: 'rehearsal',
        ...(ownership && { ownership: { self: ownership.self, record } }),
      });
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
      await this.#collect(dirty);
      const now = performance.now();
      pass.dirtyPages = dirty.count();
      pass.dirtyPagesPerSecond = (pass.dirtyPages * 1000) / (now - collectedAt);
      collectedAt = now;
      pass.estimatedDowntimeMs = await this.#estimate(link, pass.dirtyPages);
      this.#emit({ event: 'pass', ...pass });
      const end = this.#endAfter(pass.estimatedDowntimeMs);
      if (end !== undefined) return this.#report(link, end);
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
    const report: PassReport = {
      ...pass,
      durationMs: performance.now() - startedAt,
      dirtyPages: 0,
      dirtyPagesPerSecond: 0,
      estimatedDowntimeMs: undefined,
    };
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
    this.#collectMs = performance.now() - startedAt;
    for (const entry of lost) this.#emit({ event: 'log-lost', ...entry });
    this.#lostLogs.push(...lost);
  }

  async #estimate({ roundTripMs, bytesPerSecond }: RehearsedLink, dirtyPages: number): Promise<number> {
    this.#stateBytes = await this.#interruption.unlessInterrupted(this.#devices.expectedStateBytes());
    const fixedMs = roundTripMs * 2 + this.#collectMs;
    const dirtyBytes = dirtyPages * PAGE_SIZE;
    return estimateDowntimeMs({ dirtyBytes, stateBytes: this.#stateBytes, bytesPerSecond, fixedMs });
  }

  /** `undefined`: another pass. */
  #endAfter(estimatedDowntimeMs: number): RehearsalEnd | undefined {
    const { maxMs = Number.POSITIVE_INFINITY, maxBytes = Number.POSITIVE_INFINITY } = this.#options;
    const decision = decide(estimatedDowntimeMs, this.#passes.length, this.#limits);
    if (decision === 'switch') return 'fits';
    if (decision === 'give-up') return 'pass-limit';
    if (performance.now() - this.#startedAt >= maxMs) return 'time-limit';
    return this.#bytesSent >= maxBytes ? 'byte-limit' : undefined;
  }

  get #bytesSent(): number {
    return this.#passes.reduce((sum, { bytesSent }) => sum + bytesSent, 0);
  }

  #report(link: RehearsedLink, endedBy: RehearsalEnd): RehearsalReport {
    return {
      wouldMove: endedBy === 'fits',
      endedBy,
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
