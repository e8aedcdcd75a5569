import { expect, it } from 'vitest';
import { seedOfRun } from '../ownership/seed.js';
import { describeFailure, playAll } from './campaign.js';
import { CELLS } from './cells.js';
import { describeRun, seedOfCell } from './run.js';

/** Every cell once, and some of the next round. */
const RUNS = 200;
const seeds = Array.from({ length: RUNS }, (_, number) => number);

it('has a run for every cell', () => {
  const first = seedOfCell(0, 7);
  expect(new Set(seeds.map(number => describeRun(first + number).cell)).size).toBe(CELLS.length);
});

it('describes the same run for the same seed, always', () => {
  for (const seed of [0, 1, 17_000_000, 2 ** 40]) expect(describeRun(seed)).toEqual(describeRun(seed));
});

it('leaves the machine at one place with all its memory, whatever breaks and when', { timeout: 900_000 }, async () => {
  const round = seedOfRun('fault matrix') % 1_000_000;
  // Which cells come twice is chance as well.
  const first = seedOfCell(round % CELLS.length, round);
  const failures: string[] = [];
  await playAll(seeds.map(number => first + number).values(), result => {
    if (result.complaints.length > 0) failures.push(describeFailure(result));
  });
  expect(failures.join('\n')).toBe('');
});
