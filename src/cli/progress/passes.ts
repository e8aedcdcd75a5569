import Table from 'cli-table3';
import type { PassReport } from '../../migration/index.js';
import { count, milliseconds, speed } from './quantities.js';

/** One pass as a line, where there is no bar to show it. */
export function passLine(pass: PassReport): string {
  const zeros = pass.zeroPages === 0 ? '' : ` (${count(pass.zeroPages)} of them zero)`;
  const sent = `  pass ${pass.pass}: ${count(pass.pagesSent)} pages${zeros} in ${milliseconds(pass.durationMs)}`;
  if (pass.estimatedDowntimeMs === undefined) return sent;
  const estimate = milliseconds(pass.estimatedDowntimeMs);
  const hot = pass.hotPages === 0 ? '' : ` with ${count(pass.hotPages)} left for the end`;
  return `${sent}, then ${count(pass.dirtyPages)} dirty${hot} (${count(pass.dirtyPagesPerSecond)}/s), est. downtime ${estimate}`;
}

/** A column for what one tracker found. */
export interface SourceColumn {
  head: string;
  /** The tracker's name. */
  tracker: string;
}

/** Columns that are there only when there is something in them. */
const SPECIAL_PAGES = [
  { head: 'zero', field: 'zeroPages' },
  { head: 'left for the end', field: 'hotPages' },
] as const;

/**
 * All passes as a table.
 * @param phase in which the migration ended: the last pass is the one of the stopped machine only beyond pre-copy
 * @param sources a column each, instead of one for all
 */
export function passTable(passes: readonly PassReport[], phase: string, sources: readonly SourceColumn[] = []): string {
  const dirty = sources.length === 0 ? ['dirty after'] : sources.map(({ head }) => head);
  const special = SPECIAL_PAGES.filter(({ field }) => passes.some(pass => pass[field] > 0));
  const head = [
    'pages sent',
    ...special.map(({ head }) => head),
    'time',
    'speed',
    ...dirty,
    'dirty/s',
    'est. downtime',
  ];
  const table = new Table({
    head: ['pass', ...head],
    colAligns: ['left', ...head.map(() => 'right' as const)],
    style: { head: [], border: [] },
  });
  for (const pass of passes) {
    const isLast = pass.estimatedDowntimeMs === undefined && phase !== 'pre-copy';
    table.push([
      isLast ? 'stopped' : pass.pass === 0 ? '0 (all)' : String(pass.pass),
      count(pass.pagesSent),
      ...special.map(({ field }) => count(pass[field])),
      milliseconds(pass.durationMs),
      speed((pass.bytesSent * 1000) / pass.durationMs),
      ...(sources.length === 0 ? [count(pass.dirtyPages)] : sources.map(source => foundBy(source, pass))).map(text =>
        isLast ? '' : text,
      ),
      isLast ? '' : count(pass.dirtyPagesPerSecond),
      pass.estimatedDowntimeMs === undefined ? '' : milliseconds(pass.estimatedDowntimeMs),
    ]);
  }
  return table.toString();
}

/** A source without a log has dirty pages too, but nobody knows how many. */
function foundBy({ tracker }: SourceColumn, { dirtyBySource }: PassReport): string {
  const found = dirtyBySource.find(each => each.tracker === tracker);
  return found === undefined ? '?' : count(found.pages);
}
