import type { MigrationEvent, MigrationReport, RehearsalReport } from '../../migration/index.js';
import type { VfioError } from '../../uapi/index.js';

/** What is known before a migration begins. */
export interface MigrationPlan {
  purpose: 'migration' | 'rehearsal';
  /** `HOST:PORT`; `undefined` for a rehearsal without a destination. */
  to: string | undefined;
  devices: readonly string[];
  memoryBytes: number;
  downtimeLimitMs: number;
  /** Who gives the devices their memory. */
  host: 'this' | 'another';
}

/** Where the words of `dmalog migrate` go. */
export interface MigrateOutput {
  begin(plan: MigrationPlan): void;
  tell(event: MigrationEvent): void;
  /** The migration has ended, whichever way. */
  finish(report: MigrationReport, plan: MigrationPlan, exitCode: number): void;
  finishRehearsal(report: RehearsalReport, plan: MigrationPlan, exitCode: number): void;
  /** It ends without a report: nothing was done. What went wrong is told to people elsewhere. */
  fail(error: VfioError, exitCode: number): void;
}
