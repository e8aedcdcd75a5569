import type { CheckResult } from '../check.js';
import type { ConformanceReport } from '../runner.js';

/*
 * TAP 14 (testanything.org): a line for each check, and a block of YAML behind those that did not pass. Strings in the block are JSON's, which
 * are YAML's too.
 *
 *   TAP version 14
 *   1..2
 *   ok 1 - start/one-range
 *     ---
 *     seen: "log pages of 4096 bytes"
 *     ...
 *   ok 2 - start/no-ranges-is-everything # SKIP the linux profile does not demand it
 */

/** What comes before the first result. @param count how many results there will be */
export function tapHeader(count: number): string {
  return `TAP version 14\n1..${count}\n`;
}

/** One result. @param number from 1 on */
export function tapLine({ check, verdict, seen, durationMs }: CheckResult, number: number): string {
  const name = escapeTap(check.name);
  if (verdict === 'not run') return `ok ${number} - ${name} # SKIP ${escapeTap(seen)}\n`;
  const facts: Record<string, string | number> = { seen, duration_ms: Math.round(durationMs) };
  if (verdict !== 'passed') Object.assign(facts, { verdict, demand: check.demand, source: check.source });
  const block = Object.entries(facts).map(([key, value]) => `  ${key}: ${JSON.stringify(value)}\n`);
  return `${verdict === 'passed' ? 'ok' : 'not ok'} ${number} - ${name}\n  ---\n${block.join('')}  ...\n`;
}

/** What comes after the last result. */
export function tapFooter({ interrupted, leftBehind }: ConformanceReport): string {
  if (leftBehind !== undefined) return `Bail out! ${leftBehind}\n`;
  return interrupted ? 'Bail out! interrupted\n' : '';
}

function escapeTap(text: string): string {
  return text.replace(/[\\#]/g, '\\$&');
}
