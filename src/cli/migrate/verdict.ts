import type { MigrationReport, RehearsalReport } from '../../migration/index.js';
import { ExitCode } from '../exit-code.js';
import { count, milliseconds, speed } from '../progress/quantities.js';
import type { MigrationPlan } from './migrate-output.js';

const PAGE_SIZE = 4096;

/** The exit code that a migration's end has. */
export function exitCodeOf(report: MigrationReport): number {
  if (report.outcome === 'moved') return report.verified === false ? ExitCode.CHECK_FAILED : ExitCode.DONE;
  if (report.runningAt !== 'source') return ExitCode.FAILURE;
  if (report.outcome === 'not-converged') return ExitCode.NOT_CONVERGED;
  return report.error?.errno === 'ECANCELED' ? ExitCode.INTERRUPTED : ExitCode.RUNS_AT_SOURCE;
}

/** Where the machine is after a migration, and what that means, for people. */
export function whereabouts({ runningAt, outcome, error }: MigrationReport, { host, to }: MigrationPlan): string {
  switch (runningAt) {
    case 'destination':
      return error === undefined
        ? `The machine runs at ${to}.`
        : `The machine is ${to}'s by its record, but that end's word that it runs did not come: ${error.message}`;
    case 'source':
      return host === 'another'
        ? 'The machine runs here, as before.'
        : 'The machine is here. Its devices keep their state and wait for a host, which this command was, to give them memory again.';
    case 'nowhere':
      return 'The machine runs nowhere: the destination has not taken it, and its devices here did not start again.';
    case 'unknown':
      return outcome === 'failed' && to !== undefined
        ? `Where the machine runs is not known here: look at ${to} before you start it anywhere. Here it is left as it is.`
        : 'Where the machine runs is not known here.';
  }
}

/** Which option may help a migration that has failed, where the error itself cannot know; `undefined`: none is known to. */
export function adviceOn({ phase, error }: Pick<MigrationReport, 'phase' | 'error'>): string | undefined {
  if (phase !== 'connect') return undefined;
  // An end that speaks TLS and one that does not understand nothing of each other.
  if (error?.errno === 'ECONNRESET')
    return 'Is it the same at both ends? --tls-ca, --tls-cert and --tls-key go with both, or with none.';
  if (error?.errno === 'EACCES' && /altnames/.test(error.message))
    return "--tls-name says which name is in the destination's certificate.";
  return undefined;
}

/** What a rehearsal says, for people. */
export function rehearsalVerdict(report: RehearsalReport): string {
  const { wouldMove, stoppedBy, reason, link, passes, downtimeLimitMs } = report;
  const last = passes.at(-1)!;
  const done = `after ${passes.length} ${passes.length === 1 ? 'pass' : 'passes'} in ${milliseconds(report.preCopyMs)}`;
  const downtime = `an expected downtime of ${milliseconds(report.estimatedDowntimeMs)}`;
  if (stoppedBy === 'fits') return `${done}, with ${downtime} (limit ${downtimeLimitMs} ms).`;
  const dirtying = `${count(last.dirtyPagesPerSecond)} different pages a second are written (${speed(last.dirtyPagesPerSecond * PAGE_SIZE)})`;
  if (wouldMove)
    return `${done}, whatever the downtime: ${reason}. ${dirtying}, and the link moves ${speed(link.bytesPerSecond)}.`;
  return `${done}: ${reason}. ${dirtying}, and the link moves ${speed(link.bytesPerSecond)}.`;
}
