import Table from 'cli-table3';
import type { PassReport } from '../../migration/index.js';
import { count, milliseconds, speed } from './quantities.js';

/** One pass as a line, where there is no bar to show it. */
export function passLine(pass: PassReport): string {
  const sent = `  pass ${pass.pass}: ${count(pass.pagesSent)} pages in ${milliseconds(pass.durationMs)}`;
  if (pass.estimatedDowntimeMs === undefined) return sent;
  const estimate = milliseconds(pass.estimatedDowntimeMs);
  return `${sent}, then ${count(pass.dirtyPages)} dirty (${count(pass.dirtyPagesPerSecond)}/s), est. downtime ${estimate}`;
}

/** All passes as a table. @param phase in which the migration ended: the last pass is the one of the stopped machine only beyond pre-copy */
export function passTable(passes: readonly PassReport[], phase: string): string {
  const table = new Table({
    head: ['pass', 'pages sent', 'time', 'speed', 'dirty after', 'dirty pages/s', 'est. downtime'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  });
  for (const pass of passes) {
    const isLast = pass.estimatedDowntimeMs === undefined && phase !== 'pre-copy';
    table.push([
      isLast ? 'stopped' : pass.pass === 0 ? '0 (all)' : String(pass.pass),
      count(pass.pagesSent),
      milliseconds(pass.durationMs),
      speed((pass.bytesSent * 1000) / pass.durationMs),
      isLast ? '' : count(pass.dirtyPages),
      isLast ? '' : count(pass.dirtyPagesPerSecond),
      pass.estimatedDowntimeMs === undefined ? '' : milliseconds(pass.estimatedDowntimeMs),
    ]);
  }
  return table.toString();
}
