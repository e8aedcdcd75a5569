import {
  type ErrnoName,
  encodeReport,
  FEATURE_GET,
  FEATURE_HEADER_SIZE,
  REPORT_INLINE_SIZE,
} from '../../uapi/index.js';
import type { Bench, Outcome } from '../bench.js';
import { Deviation } from '../deviation.js';
import type { ReportInterval } from '../expected-log.js';

/** An answer in words: `'success'`, `'EINVAL'`. */
export function answerText({ errno }: Outcome): string {
  return errno ?? 'success';
}

/** @throws Deviation when the answer is none of these errnos */
export function expectErrno(what: string, outcome: Outcome, ...wanted: ErrnoName[]): void {
  if (outcome.errno !== undefined && wanted.includes(outcome.errno)) return;
  throw new Deviation(`${what}: ${answerText(outcome)} instead of ${wanted.join(' or ')}`);
}

/** @throws Deviation when the answer is a success */
export function expectFailure(what: string, outcome: Outcome): void {
  if (outcome.errno === undefined) throw new Deviation(`${what} succeeded`);
}

/** @throws Deviation when the answer is no success */
export function expectSuccess(what: string, outcome: Outcome): void {
  if (outcome.errno !== undefined) throw new Deviation(`${what} failed with ${outcome.errno}`);
}

/** That nothing is logged now: START works. It is stopped again. @throws Deviation */
export async function expectNotStarted(bench: Bench, after: string): Promise<void> {
  expectSuccess(`START after ${after}`, await bench.tryStart());
  await bench.stop();
}

/** That logging goes on: REPORT works. @throws Deviation */
export async function expectStarted(bench: Bench, after: string): Promise<void> {
  const outcome = await bench.tryReport(bench.wholeWindow());
  if (outcome.errno !== undefined)
    throw new Deviation(`${after} has ended logging: REPORT fails with ${outcome.errno}`);
}

/** Bytes of bitmap lent to a {@link reportOf}: more than any that is asked for there. */
const ROOM = 4096;

/** A REPORT whose page size may be none, so that nobody can say how large its bitmap is: there is room for {@link ROOM} bytes. */
export async function reportOf(bench: Bench, asked: ReportInterval): Promise<Outcome> {
  if (bench.profile.pointers) {
    return bench.lending(new Uint8Array(ROOM), address => bench.reportAt(asked, address));
  }
  const argsz = FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE + ROOM;
  return bench.request({ index: bench.profile.report, flags: FEATURE_GET, argsz, data: encodeReport(asked) });
}
