import { type Check, checkJson } from '../../conformance/index.js';
import { colorsFor } from '../colors.js';

const pc = colorsFor(process.stdout);

/** The checks for people, or a line of JSON each. */
export function checkList(checks: readonly Check[], asJson: boolean): string {
  if (asJson) return checks.map(check => JSON.stringify(checkJson(check))).join('\n');
  return checks.map(describe).join('\n');
}

function describe({ name, demand, source, needs, profiles }: Check): string {
  const lines = [pc.bold(name), `  ${demand}`, pc.dim(`  source: ${source}`)];
  if (needs !== undefined && needs.length > 0) lines.push(pc.dim(`  needs: ${needs.join(', ')}`));
  if (profiles !== undefined) lines.push(pc.dim(`  profiles: ${profiles.join(', ')}`));
  return lines.join('\n');
}
