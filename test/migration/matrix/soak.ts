// Plays runs of the fault matrix, one seed after another, until time or number is up, or one ends as it must not.
//
//   npm run soak -- --minutes 10 [--seed 1] [--runs 5000]
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { describeFailure, playAll, type Result } from './campaign.js';
import { PHASES } from './cells.js';
import { seedOfCell } from './run.js';

const PROGRESS_MS = 10_000;
const INTERRUPTED = 130;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string' },
    runs: { type: 'string' },
    seed: { type: 'string', default: String(seedOfCell(0, Date.now() % 1_000_000)) },
  },
});
const runs = Number(values.runs ?? Number.POSITIVE_INFINITY);
const minutes = Number(values.minutes ?? (values.runs === undefined ? 10 : Number.POSITIVE_INFINITY));
const seed = Number(values.seed);
if (!(runs > 0) || !(minutes > 0) || !Number.isSafeInteger(seed) || seed < 0) {
  throw new Error('--minutes and --runs are numbers above 0, --seed is a whole number');
}

const startedAt = performance.now();
const results: Result[] = [];
let failure: Result | undefined;
let isInterrupted = false;
let toldAt = startedAt;
process.on('SIGINT', () => {
  console.log('to end with the runs that are under way');
  isInterrupted = true;
});

function* seeds(): Generator<number> {
  for (let number = 0; number < runs; number++) {
    const isOver = (performance.now() - startedAt) / 60_000 >= minutes;
    if (isOver || isInterrupted || failure !== undefined) return;
    yield seed + number;
  }
}

function tell(result: Result): void {
  results.push(result);
  if (result.complaints.length > 0) failure ??= result;
  if (performance.now() - toldAt < PROGRESS_MS) return;
  toldAt = performance.now();
  const seconds = Math.round((toldAt - startedAt) / 1000);
  console.log(`${results.length} runs in ${seconds} s; the last one was seed ${result.run.seed}`);
}

/** How often each cell was played, and where the machine ended: S at the source, D at the destination, L lost with its owner. */
function summary(): string {
  const faults = [...new Set(results.map(({ run }) => run.cell.fault))];
  const head = ['', ...PHASES.map(phase => phase.replaceAll('-', '\n'))];
  const table = new Table({ head, style: { head: [], compact: true } });
  for (const fault of faults) {
    table.push([fault, ...PHASES.map(phase => countsOf(result => isOf(result, fault, phase)))]);
  }
  return table.toString();
}

function isOf({ run }: Result, fault: string, phase: string): boolean {
  return run.cell.fault === fault && run.cell.phase === phase;
}

function countsOf(isMeant: (result: Result) => boolean): string {
  const places = results.filter(isMeant).map(({ place }) => place?.[0]?.toUpperCase() ?? '?');
  return [...new Set(places)]
    .sort()
    .map(letter => `${letter}${places.filter(each => each === letter).length}`)
    .join(' ');
}

console.log(`soak: seed ${seed}`);
await playAll(seeds(), tell);
console.log(summary());
const slowest = Math.max(...results.map(({ milliseconds }) => milliseconds));
console.log(`${results.length} runs, the slowest took ${(slowest / 1000).toFixed(1)} s`);
if (failure !== undefined) console.error(describeFailure(failure));
// Not by itself: after hundreds of killed children Node was seen to spin for ever while it took itself down (CleanupHandles).
process.exit(failure !== undefined ? 1 : isInterrupted ? INTERRUPTED : 0);
