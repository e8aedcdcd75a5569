import type { MigrationEvent, MigrationReport, RehearsalReport } from '../../migration/index.js';
import type { VfioError } from '../../uapi/index.js';
import { printJson } from '../progress/print-json.js';
import type { MigrateOutput, MigrationPlan } from './migrate-output.js';

/** Events as lines of JSON; the last line is the result. */
export class JsonOutput implements MigrateOutput {
  begin(plan: MigrationPlan): void {
    printJson({ event: 'started', ...plan });
  }

  tell(event: MigrationEvent): void {
    printJson(event);
  }

  finish(report: MigrationReport, _plan: MigrationPlan, exitCode: number): void {
    printJson({ event: 'result', exitCode, ...report });
  }

  finishRehearsal(report: RehearsalReport, _plan: MigrationPlan, exitCode: number): void {
    printJson({ event: 'result', exitCode, outcome: 'rehearsed', ...report });
  }

  fail(error: VfioError, exitCode: number): void {
    printJson({ event: 'result', exitCode, outcome: 'failed', error });
  }
}
