import { describe, expect, it } from 'vitest';
import { exploreAll } from './explorer.js';
import { SwitchWorld } from './switch-world.js';

describe('the switch, in every order of its steps', () => {
  it('ends with the machine at the destination when nothing fails', async () => {
    const { states, atRest } = await exploreAll(() => new SwitchWorld(), 0);
    console.log(states, atRest);
  });
  it.each([1, 2])('never has two that run, and after one fault one that does: up to %i faults', async mostFaults => {
    console.time('x');
    const { states, atRest } = await exploreAll(() => new SwitchWorld(), mostFaults);
    console.timeEnd('x');
    console.log(states, atRest);
    expect(atRest).toBeGreaterThan(1);
  });
});
