import type { LinkEvent, MigrationEvent } from '../../migration/index.js';
import type { IovaRange } from '../../uapi/index.js';
import { colorsFor } from '../colors.js';
import { passLine } from './passes.js';
import { milliseconds, size } from './quantities.js';

/*
 * What happens while a machine moves, as lines for people.
 */

const pc = colorsFor(process.stdout);

/** What happened, as every command tells it; `undefined` for what has no line, or none where a bar shows it. */
export function eventLine(event: Exclude<MigrationEvent, { event: 'phase' }>): string | undefined {
  switch (event.event) {
    case 'pass':
      // What the bar shows on a terminal.
      return process.stdout.isTTY ? undefined : passLine(event);
    case 'log-lost':
      return pc.yellow(`  ${event.tracker} lost its log, everything counts as dirty: ${event.error.message}`);
    case 'link-lost':
    case 'link-resumed':
      return pc.yellow(linkLine(event));
    case 'memory':
      return memoryLine(event);
    case 'progress':
      return undefined;
  }
}

/** A connection was lost, or goes on. */
export function linkLine(event: LinkEvent): string {
  const what = event.channel === 0 ? 'the link' : `memory connection ${event.channel}`;
  if (event.event === 'link-lost') return `  ${what} was lost, and is waited for: ${event.error.message}`;
  const why = event.reason === undefined ? '' : ` (the other end had dropped it: ${event.reason})`;
  return `  ${what} is back after ${milliseconds(event.afterMs)}, and goes on where it was${why}`;
}

/** The machine has other memory than before. */
function memoryLine({ added, removed }: Extract<MigrationEvent, { event: 'memory' }>): string {
  const changes = [...removed.map(range => `without ${words(range)}`), ...added.map(range => `with ${words(range)}`)];
  return `  the machine's memory has changed: ${changes.join(', ')}`;
}

function words({ iova, length }: IovaRange): string {
  return `${size(Number(length))} at 0x${iova.toString(16)}`;
}
