import { describe, expect, it } from 'vitest';
import { exploreAll } from './explorer.js';
import { SwitchWorld } from './switch-world.js';

describe('the switch, in every order of its steps', () => {
  it('has one end when nothing fails', async () => {
    expect(await exploreAll(() => new SwitchWorld(), 0)).toMatchObject({ atRest: 1 });
  });

  it('never has two that run, with two faults; and leaves one that runs, with one', { timeout: 300_000 }, async () => {
    const { states, atRest } = await exploreAll(() => new SwitchWorld(), 2);
    // Fewer would say that faults are not tried.
    expect(states).toBeGreaterThan(2000);
    expect(atRest).toBeGreaterThan(100);
  });
});
