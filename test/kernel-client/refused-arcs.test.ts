import fc from 'fast-check';
import { expect, test } from 'vitest';
import { refusedArc } from '../../src/kernel/refused-arcs.js';
import { MigrationState } from '../../src/uapi/index.js';

const { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY, PRE_COPY_P2P } = MigrationState;

test('STOP_COPY leads to no state of PRE_COPY, and the message says where to go first', () => {
  expect(refusedArc(STOP_COPY, PRE_COPY, true)).toMatch(/STOP_COPY to PRE_COPY: .*go to RUNNING first/);
  expect(refusedArc(STOP_COPY, PRE_COPY_P2P, false)).toMatch(/STOP_COPY to PRE_COPY_P2P/);
  for (const to of [STOP, RUNNING, STOP_COPY, RESUMING]) expect(refusedArc(STOP_COPY, to, true)).toBeUndefined();
});

test('ERROR is left by a reset alone', () => {
  for (const to of [STOP, RUNNING, PRE_COPY, ERROR]) expect(refusedArc(ERROR, to, true)).toMatch(/reset/);
});

test('RESUMING is left only by whoever can write the data', () => {
  expect(refusedArc(RESUMING, RUNNING, true)).toBeUndefined();
  expect(refusedArc(RESUMING, RUNNING, false)).toMatch(/RESUMING to RUNNING: .*reset the device/);
  expect(refusedArc(RESUMING, RESUMING, false)).toBeUndefined();
});

test('all else, numbers that are no states too, is left to the kernel', () => {
  const guarded: readonly number[] = [ERROR, STOP_COPY, RESUMING];
  const others = fc.nat(2 ** 32 - 1).filter(state => !guarded.includes(state));
  fc.assert(
    fc.property(others, fc.nat(2 ** 32 - 1), fc.boolean(), (from, to, holdsData) => {
      expect(refusedArc(from, to, holdsData)).toBeUndefined();
    }),
  );
});
