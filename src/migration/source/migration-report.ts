import type { FoundPages, LostLog } from '../../tracker/index.js';
import type { VfioError } from '../../uapi/index.js';
import type { LinkEvent } from '../link/link-keeper.js';
import type { StopRule } from './convergence.js';
import type { Downtime } from './downtime.js';
import type { DeviceReport } from './source-device.js';
import type { MemoryChange } from './source-memory.js';

/** Where a migration is. */
export type MigrationPhase =
  /** Connecting, agreeing on version, memory and devices. */
  | 'connect'
  /** The machine runs; memory is sent pass by pass. */
  | 'pre-copy'
  /** The machine is stopped; the last dirty pages and the devices' states are sent. */
  | 'stop-and-copy'
  /** The machine is stopped; both ends take digests of all memory. Only when asked for. */
  | 'verify'
  /** The destination was told to run. */
  | 'switch';

/** What the time of a phase includes. */
const COVERS: Record<MigrationPhase, string> = {
  connect:
    'asking the devices what they can, connecting, and agreeing with the destination on version, memory, devices and owner',
  'pre-copy':
    'the machine runs: starting to log, state that devices give while they run, all passes and the reading of the logs after each',
  'stop-and-copy':
    'the machine is stopped: stopping its devices, reading the logs, the last pass, the states, and loading them at the destination',
  verify: 'the machine is stopped: both ends take digests of all memory, which are compared',
  switch:
    'the machine is stopped: from telling the destination to run, the ownership record included, until its word that it runs',
};

/** A phase that is over. */
export interface PhaseReport {
  phase: MigrationPhase;
  /** What the duration includes, for people. */
  covers: string;
  /** From the call to the phase's beginning. */
  startMs: number;
  durationMs: number;
}

/** Phases in order, each from the end of the one before. A machine that ran again after a stop has been in some of them twice. */
export class PhaseLog {
  readonly phases: PhaseReport[] = [];

  /** @param now milliseconds since the call */
  enter(phase: MigrationPhase, now: number): void {
    this.end(now);
    this.phases.push({ phase, covers: COVERS[phase], startMs: now, durationMs: 0 });
  }

  /** The last phase ends. */
  end(now: number): void {
    const last = this.phases.at(-1);
    if (last !== undefined) last.durationMs = now - last.startMs;
  }
}

/** One pass over memory, while the machine ran or (the last one) after it stopped. */
export interface PassReport {
  /** 0: all memory. */
  pass: number;
  pagesSent: number;
  /** Those of them that were zero, and only named. */
  zeroPages: number;
  /** Headers included. */
  bytesSent: number;
  /** From the pass's first page until the last was in the destination's memory; without reading the logs. */
  durationMs: number;
  /** Pages that were not sent because they change in every pass; 0 for the last one, which sends them. */
  hotPages: number;
  /** Pages dirty when the pass was done, `hotPages` included; 0 for the last one. */
  dirtyPages: number;
  /** Pages written, per second since the logs were read before. */
  dirtyPagesPerSecond: number;
  /** What each tracker found when the pass was done; a page that several found counts for each. Empty for the last pass. */
  dirtyBySource: readonly FoundPages[];
  /** Downtime to expect if the machine had been stopped after this pass; `undefined` for the last one. */
  estimatedDowntimeMs: number | undefined;
}

/** What a migration tells while it runs. */
export type MigrationEvent =
  | { event: 'phase'; phase: MigrationPhase }
  | {
      event: 'progress';
      pass: number;
      /** Pages of this pass still to send. */
      pagesLeft: number;
      /** Pages of this pass in all. */
      pagesTotal: number;
      bytesPerSecond: number;
      /** As the last reading of the logs found; 0 before it. */
      dirtyPagesPerSecond: number;
      /** `undefined` before the first reading of the logs. */
      estimatedDowntimeMs: number | undefined;
    }
  | ({ event: 'pass' } & PassReport)
  /** The machine's memory changed, and both ends have taken it up. */
  | ({ event: 'memory' } & MemoryChange)
  | { event: 'log-lost'; tracker: string; error: VfioError }
  | LinkEvent;

/** How a migration ended, seen from the source. */
export interface MigrationReport {
  /** `not-converged`: a rule has ended the passes, see `stoppedBy`. `failed`: see `error`. */
  outcome: 'moved' | 'not-converged' | 'failed';
  /** The rule that has ended the passes while the machine ran; `undefined` when it did not come to that. */
  stoppedBy: StopRule | undefined;
  /** Why it ended as it did, for people. */
  reason: string;
  /**
   * Where the machine runs. `destination`: it has said so, or the ownership record does. `nowhere`: the destination does not and the source's
   * devices could not be started again. `unknown`: the connection broke between telling the destination to run and its answer, and there is no
   * ownership record that could be asked; or the destination has the machine and its devices did not start. The source stays stopped, so that
   * never two run. Or the devices did not run, or did not answer, when the migration was asked for: nothing was done to them.
   */
  runningAt: 'source' | 'destination' | 'nowhere' | 'unknown';
  /** Phase in which it ended. */
  phase: MigrationPhase;
  /** Why it failed; or, of a machine that was moved by its ownership record, why the destination's word that it runs did not come. */
  error: VfioError | undefined;
  passes: PassReport[];
  /** Phases in order, and what each duration includes. */
  phases: PhaseReport[];
  /** All passes together. */
  pagesSent: number;
  /** Those of them that were zero, and only named. */
  zeroPages: number;
  /** On the migration's own connection and on those for memory, headers included. */
  bytesSent: number;
  stateBytes: number;
  /** Each device's share, in their order. */
  devices: readonly DeviceReport[];
  /** From the call to its end, connecting and verifying included. */
  totalMs: number;
  /**
   * From telling the first device to stop until the destination's word that its devices run has arrived here. Without `verifyMs`. 0 when it
   * did not come to that.
   */
  downtimeMs: number;
  /** What was expected when the decision to stop was made. */
  estimatedDowntimeMs: number;
  /** Both, and the parts that they consist of; `undefined` when it did not come to that. */
  downtime: { estimated: Downtime; actual: Downtime } | undefined;
  /** Taking and comparing digests while the machine was stopped; 0 when not asked for. */
  verifyMs: number;
  /** Whether both memories had the same SHA-256 at the switch; `undefined` when not asked for. */
  verified: boolean | undefined;
  /** SHA-256 of all memory at the switch, hexadecimal. */
  digests: { source: string; destination: string } | undefined;
  /** Pages that differed at the switch; `undefined` when not asked for. */
  stalePages: number | undefined;
  /** Logs that were lost and made everything dirty. */
  lostLogs: LostLog[];
}

/** The report of a pass whose pages are sent: what it left dirty is not known yet. */
export function sentPass(
  sent: Pick<PassReport, 'pass' | 'pagesSent' | 'zeroPages' | 'bytesSent' | 'durationMs'>,
): PassReport {
  const later = {
    hotPages: 0,
    dirtyPages: 0,
    dirtyBySource: [],
    dirtyPagesPerSecond: 0,
    estimatedDowntimeMs: undefined,
  };
  return { ...sent, ...later };
}

/** The report of a migration that has not begun. */
export function emptyReport(): MigrationReport {
  return {
    outcome: 'failed',
    runningAt: 'source',
    stoppedBy: undefined,
    reason: '',
    phase: 'connect',
    error: undefined,
    passes: [],
    phases: [],
    pagesSent: 0,
    zeroPages: 0,
    bytesSent: 0,
    stateBytes: 0,
    devices: [],
    totalMs: 0,
    downtimeMs: 0,
    estimatedDowntimeMs: 0,
    downtime: undefined,
    verifyMs: 0,
    verified: undefined,
    digests: undefined,
    stalePages: undefined,
    lostLogs: [],
  };
}
