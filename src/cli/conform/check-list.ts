import { type Check, checkJson } from '../../conformance/index.js';
import { colorsFor } from '../colors.js';

const pc = colorsFor(process.stdout);

/** The checks for people, or a line of JSON each. */
export function checkList(checks: readonly Check[], asJson: boolean): string {
  if (asJson) return checks.map(check => JSON.stringify(checkJson(check))).join('\n');
  return checks.map(describe).join('\n');
}

function describe({ name, demand, source, needs, profiles }: Check): string {
  const lines = [pc.bold(name), indented(demand), pc.dim(indented(`source: ${source}`))];
  if (needs !== undefined && needs.length > 0) lines.push(pc.dim(indented(`needs: ${needs.join(', ')}`)));
  if (profiles !== undefined) lines.push(pc.dim(indented(`profiles: ${profiles.join(', ')}`)));
  return lines.join('\n');
}

/** Between words, on a terminal; what goes elsewhere stays in one line, to be found by programs. */
function indented(text: string): string {
  const width = (process.stdout.columns ?? Number.POSITIVE_INFINITY) - 1;
  const lines: string[] = [];
  let line = ' ';
  for (const word of text.split(' ')) {
    const isFull = line.trim() !== '' && line.length + 1 + word.length > width;
    if (isFull) lines.push(line);
    line = isFull ? `    ${word}` : `${line} ${word}`;
  }
  return [...lines, line].join('\n');
}
