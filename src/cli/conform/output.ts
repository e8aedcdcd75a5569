import type { Check, CheckResult, ConformanceReport } from '../../conformance/index.js';

/** Where a run's words go. */
export interface ConformOutput {
  /** Before the first check. */
  begin(target: string, checks: readonly Check[]): void;
  /** A check begins. */
  start(check: Check): void;
  /** A check has ended, or was not run. */
  result(result: CheckResult): void;
  finish(report: ConformanceReport): void;
  /** The run ends without a report. What went wrong is told elsewhere. */
  fail(): void;
}
