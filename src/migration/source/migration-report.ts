import type { LostLog } from '../../tracker/index.js';
import type { VfioError } from '../../uapi/index.js';

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

/** TLS with certificates at both ends: PEM texts. */
export interface MigrationTls {
  ca: string | Buffer;
  cert: string | Buffer;
  key: string | Buffer;
  /** The name in the other end's certificate, where it is not the one that was connected to. */
  servername?: string;
}

/** How long a phase took, and what is in it. */
export interface PhaseReport {
  phase: string;
  /** For people. */
  covers: string;
  /** Since the migration's beginning, milliseconds. */
  startMs: number;
  durationMs: number;
}

/** A downtime in its parts, each a member `…Ms`. */
export interface DowntimeBreakdown {
  totalMs: number;
}

/** One pass over memory, while the machine ran or (the last one) after it stopped. */
export interface PassReport {
  /** 0: all memory. */
  pass: number;
  pagesSent: number;
  /** Headers included. */
  bytesSent: number;
  /** From the pass's first page to its last; without reading the logs. */
  durationMs: number;
  /** Pages found dirty when the pass was done; 0 for the last one. */
  dirtyPages: number;
  /** Those, per second since the logs were read before. */
  dirtyPagesPerSecond: number;
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
  | { event: 'log-lost'; tracker: string; error: VfioError };

/** How a migration ended, seen from the source. */
export interface MigrationReport {
  /** `not-converged`: the pass limit was reached. `failed`: see `error`. */
  outcome: 'moved' | 'not-converged' | 'failed';
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
  /** All passes together. */
  pagesSent: number;
  bytesSent: number;
  stateBytes: number;
  /** From the call to its end, connecting and verifying included. */
  totalMs: number;
  /**
   * From telling the first device to stop until the destination's word that its devices run has arrived here. Without `verifyMs`. 0 when it
   * did not come to that.
   */
  downtimeMs: number;
  /** What was expected when the decision to stop was made. */
  estimatedDowntimeMs: number;
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
  /** What took how long. */
  phases?: PhaseReport[];
  /** What was expected when the decision to stop was made, and what came. */
  downtime?: { estimated: DowntimeBreakdown; actual: DowntimeBreakdown };
  /** Which rule ended the passes. */
  stoppedBy?: string;
}

/** The report of a migration that has not begun. */
export function emptyReport(): MigrationReport {
  return {
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
