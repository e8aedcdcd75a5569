import { MigrationState } from '../../src/uapi/index.js';

/*
 * The next state on the way from one state to another, as Linux's documented state machine has it (linux/vfio.h at enum
 * vfio_device_mig_state, and the table of vfio_mig_get_next_state), written down by hand for each set of optional states.
 *
 * S STOP, R RUNNING, C STOP_COPY, G RESUMING, P RUNNING_P2P, Y PRE_COPY, Q PRE_COPY_P2P; '=' there already, '-' refused. Columns are the
 * targets ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P.
 */

const { STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P } = MigrationState;

const letters: Readonly<Record<string, MigrationState>> = {
  S: STOP,
  R: RUNNING,
  C: STOP_COPY,
  G: RESUMING,
  P: RUNNING_P2P,
  Y: PRE_COPY,
  Q: PRE_COPY_P2P,
};

/** By MIGRATION flags, then by current state. States that such a device cannot be in are left out. */
const tables: Readonly<Record<number, Readonly<Record<string, string>>>> = {
  // STOP_COPY
  1: {
    //          E S R C G P Y Q
    ERROR: '    - - - - - - - -',
    STOP: '     - = R C G - - -',
    RUNNING: '  - S = S S - - -',
    STOP_COPY: '- S S = S - - -',
    RESUMING: ' - S S S = - - -',
  },
  // STOP_COPY, P2P
  3: {
    //            E S R C G P Y Q
    ERROR: '      - - - - - - - -',
    STOP: '       - = P C G P - -',
    RUNNING: '    - P = P P P - -',
    STOP_COPY: '  - S S = S S - -',
    RESUMING: '   - S S S = S - -',
    RUNNING_P2P: '- S R S S = - -',
  },
  // STOP_COPY, PRE_COPY
  5: {
    //          E S R C G P Y Q
    ERROR: '    - - - - - - - -',
    STOP: '     - = R C G - R -',
    RUNNING: '  - S = S S - Y -',
    STOP_COPY: '- S S = S - - -',
    RESUMING: ' - S S S = - S -',
    PRE_COPY: ' - R R C R - = -',
  },
  // STOP_COPY, P2P, PRE_COPY
  7: {
    //             E S R C G P Y Q
    ERROR: '       - - - - - - - -',
    STOP: '        - = P C G P P P',
    RUNNING: '     - P = P P P Y P',
    STOP_COPY: '   - S S = S S - -',
    RESUMING: '    - S S S = S S S',
    RUNNING_P2P: ' - S R S S = R Q',
    PRE_COPY: '    - R R Q R R = Q',
    PRE_COPY_P2P: '- P P C P P Y =',
  },
};

/** The sets of optional states that a device may have. */
export const flagSets: readonly number[] = Object.keys(tables).map(Number);

/** The states a device with these flags can be in. */
export function statesOf(flags: number): MigrationState[] {
  return Object.keys(tables[flags]!).map(name => MigrationState[name as keyof typeof MigrationState]);
}

/** The next state; the current one when it is the target; `undefined` when refused. */
export function nextState(flags: number, from: MigrationState, to: MigrationState): MigrationState | undefined {
  const name = Object.keys(MigrationState)[from]!;
  const cell = tables[flags]![name]!.trim().split(' ')[to]!;
  return cell === '=' ? from : letters[cell];
}
