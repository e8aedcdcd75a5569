import { CELLS, PHASES } from './cells.js';

/** The matrix as docs/faults.md has it: a line for each fault, a column for each phase, and in it where the machine may be in the end. */
export function matrixTable(): string {
  const faults = [...new Set(CELLS.map(({ fault }) => fault))];
  const lines = faults.map(fault => [fault, ...PHASES.map(phase => placesOf(fault, phase))]);
  return [['', ...PHASES.map(phase => phase.replaceAll('-', ' '))], ['---', ...PHASES.map(() => '---')], ...lines]
    .map(line => `| ${line.join(' | ')} |`)
    .join('\n');
}

function placesOf(fault: string, phase: string): string {
  const cell = CELLS.find(each => each.fault === fault && each.phase === phase);
  return cell?.places.map(place => place[0]!.toUpperCase()).join(' ') ?? '';
}
