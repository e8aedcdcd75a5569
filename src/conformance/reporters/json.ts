import type { Check, CheckResult } from '../check.js';
import type { ConformanceReport } from '../runner.js';

/** A check as programs read it. */
export function checkJson({ name, group, demand, source, needs = ['logging'], profiles }: Check): object {
  return { name, group, demand, source, needs, profiles: profiles ?? 'all' };
}

/** One result as programs read it. */
export function resultJson({ check, verdict, seen, durationMs }: CheckResult): object {
  const { name, group, demand, source } = check;
  return { name, group, verdict, seen, demand, source, durationMs: Math.round(durationMs) };
}

/** A whole report as programs read it. */
export function reportJson({ results, leftBehind, stimulus, ...report }: ConformanceReport): object {
  return {
    ...report,
    stimulus: stimulus ?? null,
    leftBehind: leftBehind ?? null,
    checks: results.map(resultJson),
  };
}
