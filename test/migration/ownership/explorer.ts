/** Something that can happen next in a {@link World}. */
export interface Step {
  name: string;
  /** How many faults it is. */
  faults: 0 | 1;
  /** Whether it need never happen: a world in which only such steps are left is at rest. */
  optional?: boolean;
  happen(): void;
}

/** Real code among simulated surroundings that only move step by step. */
export interface World {
  start(): void;
  /** What can happen now, always in the same order. */
  steps(): Step[];
  /** What tells this world from others: two with the same key have the same future. */
  key(): string;
  /** @throws when what must always hold does not */
  checkAlways(): void;
  /** @throws when what must hold at rest does not */
  checkAtRest(faults: number): void;
}

/** What {@link exploreAll} has seen. */
export interface Exploration {
  states: number;
  atRest: number;
}

/**
 * Lets everything happen in every order: depth first, with at most `mostFaults` faults. A state that was seen is not looked at again. Promises
 * cannot be copied, so each path is walked anew from its beginning, by the numbers of its steps.
 *
 * @throws what a check throws, with the names of the steps that lead there
 */
export async function exploreAll(create: () => World, mostFaults: number): Promise<Exploration> {
  const seen = new Set<string>();
  const exploration: Exploration = { states: 0, atRest: 0 };
  const paths: number[][] = [[]];
  for (let path = paths.pop(); path !== undefined; path = paths.pop()) {
    const { world, faults, names } = await walk(create, path);
    const key = `${faults} ${world.key()}`;
    if (seen.has(key)) continue;
    seen.add(key);
    exploration.states++;
    const steps = world.steps();
    try {
      world.checkAlways();
      if (steps.every(step => step.optional === true || step.faults > 0)) {
        exploration.atRest++;
        world.checkAtRest(faults);
      }
    } catch (error) {
      throw new Error(`after ${names.join(', ')}: ${(error as Error).message}`, { cause: error });
    }
    for (const [index, step] of steps.entries()) if (faults + step.faults <= mostFaults) paths.push([...path, index]);
  }
  return exploration;
}

async function walk(create: () => World, path: readonly number[]) {
  const world = create();
  const names: string[] = [];
  let faults = 0;
  world.start();
  await microtasks();
  for (const index of path) {
    const step = world.steps()[index]!;
    step.happen();
    faults += step.faults;
    names.push(step.name);
    await microtasks();
  }
  return { world, faults, names };
}

/** More than the longest chain of awaits between two steps. A turn of the event loop would be sure, and takes thirty times as long. */
const MOST_AWAITS = 60;

async function microtasks(): Promise<void> {
  for (let round = 0; round < MOST_AWAITS; round++) await undefined;
}
