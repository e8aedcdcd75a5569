import { MigrationState, migrationStateName } from '../uapi/index.js';

/*
 * Changes of the migration state that Linux must not be asked for, as it does not answer them with an error (measured on 6.12, read in
 * vfio_main.c and mtty.c):
 *   from STOP_COPY to PRE_COPY and PRE_COPY_P2P   it looks for the next state for ever; the thread cannot be killed, and its CPU is lost
 *   from ERROR                                    it answers EINVAL, but warns of itself, which ends a machine that runs with panic_on_warn
 *   from RESUMING, where a user before has left   the data is gone with that user; mtty follows a null pointer, and every later change of its
 *   the device                                    state waits for ever
 *
 * Example: a process dies while it writes migration data into a device. The next one opens it, reads state RESUMING, and gets no descriptor for
 * the data, as it does not enter the state. It may only reset the device.
 */

/**
 * Why a change of the migration state is refused here.
 * @param holdsData whether this side has the descriptor of the migration data
 * @returns `undefined` for one that the kernel is asked for
 */
export function refusedArc(from: number, to: number, holdsData: boolean): string | undefined {
  const arc = `${migrationStateName(from)} to ${migrationStateName(to)}`;
  switch (from) {
    case MigrationState.STOP_COPY:
      if (to !== MigrationState.PRE_COPY && to !== MigrationState.PRE_COPY_P2P) return undefined;
      return `${arc}: there is no such way, and Linux would look for one for ever: go to RUNNING first`;
    case MigrationState.ERROR:
      return `${arc}: only a reset leads out of ERROR`;
    case MigrationState.RESUMING:
      if (holdsData || to === MigrationState.RESUMING) return undefined;
      return `${arc}: whoever wrote the device's data has left it: reset the device`;
    default:
      return undefined;
  }
}
