import Table from 'cli-table3';
import type { Downtime, MigrationReport } from '../../migration/index.js';
import { milliseconds } from '../progress/quantities.js';

/*
 * The downtime that was expected beside the one that came, part by part.
 *
 * Worked example: state 3 ms of 10 ms expected, 4 ms of 12 ms came:
 *   state          3.0 ms   4.0 ms   +1.0 ms
 *   total         10.0 ms  12.0 ms   +2.0 ms
 */

/** Empty where the report does not take the downtime apart. */
export function downtimeTable({ downtime }: MigrationReport): string {
  if (downtime === undefined) return '';
  const table = new Table({
    head: ['downtime', 'expected', 'came', 'difference'],
    colAligns: ['left', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  });
  const [expected, came] = [partsOf(downtime.estimated), partsOf(downtime.actual)];
  for (const name of new Set([...expected.keys(), ...came.keys(), 'totalMs'])) {
    if (name !== 'totalMs') table.push(row(name, expected.get(name), came.get(name)));
  }
  table.push(row('totalMs', downtime.estimated.totalMs, downtime.actual.totalMs));
  return table.toString();
}

function partsOf(downtime: Downtime): Map<string, number> {
  const entries: [string, unknown][] = Object.entries(downtime);
  return new Map(
    entries.filter((entry): entry is [string, number] => /Ms$/.test(entry[0]) && Number.isFinite(entry[1])),
  );
}

function row(name: string, expected: number | undefined, came: number | undefined): string[] {
  const difference = expected === undefined || came === undefined ? undefined : came - expected;
  const sign = difference !== undefined && difference < 0 ? '-' : '+';
  return [
    name.replace(/Ms$/, '').replace(/[A-Z]/g, letter => ` ${letter.toLowerCase()}`),
    expected === undefined ? '' : milliseconds(expected),
    came === undefined ? '' : milliseconds(came),
    difference === undefined ? '' : `${sign}${milliseconds(Math.abs(difference))}`,
  ];
}
