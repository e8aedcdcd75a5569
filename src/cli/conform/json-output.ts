import { type CheckResult, type ConformanceReport, reportJson, resultJson } from '../../conformance/index.js';
import type { ConformOutput } from './output.js';

/** Lines of JSON: one a check as it ends, the whole report last. */
export class JsonOutput implements ConformOutput {
  begin(): void {}

  start(): void {}

  result(result: CheckResult): void {
    console.log(JSON.stringify({ event: 'check', ...resultJson(result) }));
  }

  finish(report: ConformanceReport): void {
    console.log(JSON.stringify({ event: 'result', ...reportJson(report) }));
  }

  fail(): void {}
}
