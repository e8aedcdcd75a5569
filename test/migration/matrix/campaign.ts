import type { Place } from './cells.js';
import { complaintsAbout, placeOf } from './judge.js';
import { type RunEnd, World } from './play.js';
import { describeRun, nameOf, type Run } from './run.js';

/** How many runs are under way at a time: most of a run is waiting. */
const WORLDS = 2;

/** How a run ended. */
export interface Result {
  readonly run: Run;
  readonly place: Place | undefined;
  /** None: as it must. */
  readonly complaints: readonly string[];
  readonly milliseconds: number;
}

/** Plays runs, one for each seed; `tell` hears of each. All processes are gone when it is done, whatever comes. */
export async function playAll(seeds: Iterator<number>, tell: (result: Result) => void): Promise<void> {
  const players = Array.from({ length: WORLDS }, () => playSome(seeds, tell));
  const failed = (await Promise.allSettled(players)).find(player => player.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

async function playSome(seeds: Iterator<number>, tell: (result: Result) => void): Promise<void> {
  let world = await World.open();
  try {
    for (let next = seeds.next(); !next.done; next = seeds.next()) {
      const result = await playOne(world, describeRun(next.value));
      tell(result);
      if (result.complaints.length === 0) continue;
      // What failed may have left anything.
      await world.close();
      world = await World.open();
    }
  } finally {
    await world.close();
  }
}

async function playOne(world: World, run: Run): Promise<Result> {
  const startedAt = performance.now();
  const since = () => performance.now() - startedAt;
  try {
    const end = await world.play(run);
    const complaints = complaintsAbout(run, end);
    if (complaints.length > 0) complaints.push(...wordsOf(end));
    return { run, place: placeOf(end), complaints, milliseconds: since() };
  } catch (error) {
    return { run, place: undefined, complaints: [String(error)], milliseconds: since() };
  }
}

/** What both ends say of it. */
function wordsOf({ report, received }: RunEnd): string[] {
  const source = report && `${report.outcome} in ${report.phase}: ${report.error?.message ?? 'no error'}`;
  return [`source: ${source ?? 'killed'}`, `destination: ${received ?? 'killed'}`];
}

/** A failure as people want it: what happened, what is wrong, and how to see it again. */
export function describeFailure({ run, complaints }: Result): string {
  return [nameOf(run), ...complaints.map(each => `  ${each}`), `  npm run soak -- --seed ${run.seed} --runs 1`].join(
    '\n',
  );
}
