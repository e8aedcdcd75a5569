import { describe, expect, test } from 'vitest';
import {
  type CheckResult,
  type ConformOptions,
  checkGroups,
  checks,
  conform,
  type OpenDevice,
} from '../../../src/conformance/index.js';
import { type ProfileName, profiles } from '../../../src/uapi/index.js';
import { knownDeviations } from './catalogue.js';
import type { KnownDeviation } from './deviation.js';
import { PlainDevice, PlainHandle, stimulusOf } from './plain-device.js';

/** Checks on a device in this process; default: all. */
async function resultsOf(
  device: PlainDevice,
  profile: ProfileName,
  { timeLimitMs, only }: ConformOptions = {},
): Promise<CheckResult[]> {
  const open: OpenDevice = async () => new PlainHandle(device, profiles[profile]);
  const { results } = await conform(open, { stimulus: stimulusOf(device), timeLimitMs, only });
  return [...results];
}

/** What did not pass, with the reason. */
function troubles(results: readonly CheckResult[]): string[] {
  return results
    .filter(({ verdict }) => verdict === 'failed' || verdict === 'error')
    .map(({ check, verdict, seen }) => `${verdict} ${check.name}: ${seen}`);
}

describe('a device that keeps the contract', () => {
  test.each(['linux', 'rfc', 'vfio-user'] as const)('passes every check of the %s profile', async profile => {
    const results = await resultsOf(new PlainDevice(), profile);
    expect(troubles(results)).toEqual([]);
    const missed = results.filter(({ verdict, check }) => verdict === 'not run' && check.profiles === undefined);
    expect(missed.map(({ check }) => check.name)).toEqual([]);
  });
});

describe('the check that is there for it finds a device that', () => {
  test.each(knownDeviations.map(known => [`${known.deviation} (${known.profile}: ${known.finds})`, known] as const))(
    '%s',
    async (_title, known) => {
      // In a group that may stumble over it, nobody looks at the others.
      const only = [known.finds, ...checkGroups.filter(group => !mayFail(known, group))];
      const results = await resultsOf(known.make(), known.profile, { timeLimitMs: known.timeLimitMs, only });
      const failed = results.filter(({ verdict }) => verdict === 'failed');
      expect(failed.map(({ check }) => check.name)).toContain(known.finds);
      // Nobody who looks for the reason should be led astray.
      const unrelated = results.filter(({ check, verdict }) => verdict !== 'passed' && check.name !== known.finds);
      expect(troubles(unrelated)).toEqual([]);
      expect(results.filter(({ verdict }) => verdict === 'error').map(({ seen }) => seen)).toEqual([]);
    },
  );
});

function mayFail({ finds, also }: KnownDeviation, group: string): boolean {
  return finds.startsWith(`${group}/`) || (also as readonly string[]).includes(group);
}

test('every check that the catalogue names exists, and no deviation is there twice', () => {
  const names = new Set(checks.map(({ name }) => name));
  expect(knownDeviations.filter(({ finds }) => !names.has(finds)).map(({ finds }) => finds)).toEqual([]);
  const keys = knownDeviations.map(({ deviation, profile, finds }) => `${deviation} ${profile} ${finds}`);
  expect(new Set(keys).size).toBe(keys.length);
});

test('there is no check that finds nothing: each has a deviation that it is there for', () => {
  const found = new Set(knownDeviations.map(({ finds }) => finds));
  // wire.test.ts has those of replies as they come.
  const here = checks.filter(({ needs }) => !needs?.includes('vfio-user wire'));
  expect(here.filter(({ name }) => !found.has(name)).map(({ name }) => name)).toEqual([]);
});
