import { describe, expect, test } from 'vitest';
import { isSupported, migrationPath } from '../../src/device/index.js';
import { MigrationState, migrationStateName } from '../../src/uapi/index.js';
import { flagSets, nextState, statesOf } from './next-states.js';

describe('the way from one migration state to another', () => {
  for (const flags of flagSets) {
    for (const from of statesOf(flags)) {
      test(`with flags ${flags}, every target from ${migrationStateName(from)} is reached step by step as Linux does`, () => {
        for (const to of Object.values(MigrationState)) {
          const expected: MigrationState[] = [];
          let state: MigrationState | undefined = from;
          do {
            state = nextState(flags, state, to);
            if (state !== undefined && state !== from) expected.push(state);
          } while (state !== undefined && state !== to);
          if (state === undefined) expect(() => migrationPath(from, to, flags)).toThrow('EINVAL');
          else expect(migrationPath(from, to, flags).map(migrationStateName)).toEqual(expected.map(migrationStateName));
        }
      });
    }
  }

  test('states that a device can be in are those that it supports', () => {
    for (const flags of flagSets) {
      const supported = Object.values(MigrationState).filter(state => state === 0 || isSupported(state, flags));
      expect(new Set(statesOf(flags))).toEqual(new Set(supported));
    }
  });

  test('numbers that are no state are EINVAL', () => {
    for (const to of [-1, 8, 100, 0xffff_ffff, 1.5, Number.NaN]) {
      expect(() => migrationPath(MigrationState.RUNNING, to, 7)).toThrow('EINVAL');
    }
  });

  test('a save that is open stays open from PRE_COPY to STOP_COPY (kernel row D23: the data fd is kept)', () => {
    expect(migrationPath(MigrationState.PRE_COPY, MigrationState.STOP_COPY, 7)).toEqual([
      MigrationState.PRE_COPY_P2P,
      MigrationState.STOP_COPY,
    ]);
    expect(migrationPath(MigrationState.PRE_COPY, MigrationState.STOP_COPY, 5)).toEqual([MigrationState.STOP_COPY]);
  });
});
