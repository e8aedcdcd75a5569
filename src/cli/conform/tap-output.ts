import {
  type Check,
  type CheckResult,
  type ConformanceReport,
  tapFooter,
  tapHeader,
  tapLine,
} from '../../conformance/index.js';
import type { ConformOutput } from './output.js';

/** TAP 14, as the checks end. */
export class TapOutput implements ConformOutput {
  #number = 0;

  begin(_target: string, checks: readonly Check[]): void {
    process.stdout.write(tapHeader(checks.length));
  }

  start(): void {}

  result(result: CheckResult): void {
    this.#number++;
    process.stdout.write(tapLine(result, this.#number));
  }

  finish(report: ConformanceReport): void {
    process.stdout.write(tapFooter(report));
  }

  fail(): void {
    process.stdout.write('Bail out! no device could be tried\n');
  }
}
