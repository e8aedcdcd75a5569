import {
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  migrationStateName,
  VfioError,
} from '../uapi/index.js';

/*
 * The arcs of the migration state machine, and the way from one state to another (contract "Also part of the picture";
 * linux/vfio.h at enum vfio_device_mig_state).
 *
 * Example: RUNNING to STOP_COPY is no arc. Its shortest path is RUNNING, RUNNING_P2P, STOP, STOP_COPY; the one by PRE_COPY and
 * PRE_COPY_P2P is as long, but its inner states are in the saving group, which would begin a save nobody asked for. A device
 * without P2P skips over RUNNING_P2P: RUNNING, STOP, STOP_COPY.
 */

const { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P } = MigrationState;

/** The arcs that exist of themselves: `[from, to]`. Every other way is a path over these. */
export const migrationArcs: readonly (readonly [MigrationState, MigrationState])[] = [
  [RUNNING_P2P, STOP],
  [STOP_COPY, STOP],
  [RESUMING, STOP],
  [PRE_COPY, RUNNING],
  [RUNNING_P2P, RUNNING],
  [PRE_COPY_P2P, RUNNING_P2P],
  [RUNNING, RUNNING_P2P],
  [STOP, RUNNING_P2P],
  [RUNNING, PRE_COPY],
  [RUNNING_P2P, PRE_COPY_P2P],
  [STOP, STOP_COPY],
  [PRE_COPY, PRE_COPY_P2P],
  [PRE_COPY_P2P, PRE_COPY],
  [PRE_COPY_P2P, STOP_COPY],
  [STOP, RESUMING],
];

/** States in which a save is open: they are never passed through on the way to another state. */
export function isSaving(state: MigrationState): boolean {
  return state === PRE_COPY || state === PRE_COPY_P2P || state === STOP_COPY;
}

/** States in which the device may start DMA and raise interrupts by itself. */
export function isRunning(state: MigrationState): boolean {
  return state === RUNNING || state === PRE_COPY;
}

/** Whether a device with these MIGRATION flags has the state. STOP, RUNNING, STOP_COPY and RESUMING come with STOP_COPY. */
export function isSupported(state: MigrationState, flags: number): boolean {
  switch (state) {
    case PRE_COPY:
      return (flags & MIGRATION_PRE_COPY) !== 0;
    case RUNNING_P2P:
      return (flags & MIGRATION_P2P) !== 0;
    case PRE_COPY_P2P:
      return (flags & MIGRATION_PRE_COPY) !== 0 && (flags & MIGRATION_P2P) !== 0;
    default:
      return (flags & MIGRATION_STOP_COPY) !== 0;
  }
}

/**
 * The states to go through from `from` to `to`, without `from`, ending with `to`; empty when they are equal.
 *
 * @param flags MIGRATION flags of the device; states it does not have are skipped over.
 * @throws VfioError EINVAL when `to` does not exist, is ERROR, is not supported, or cannot be reached (out of ERROR; STOP_COPY to
 *   PRE_COPY or PRE_COPY_P2P).
 */
export function migrationPath(from: MigrationState, to: number, flags: number): MigrationState[] {
  if (!isState(to) || to === ERROR || !isSupported(to, flags)) throw forbidden(from, to);
  if (from === to) return [];
  if (from === STOP_COPY && (to === PRE_COPY || to === PRE_COPY_P2P)) throw forbidden(from, to);
  const path = shortestPath(from, to);
  if (path === undefined) throw forbidden(from, to);
  return path.filter(state => isSupported(state, flags));
}

/**
 * Breadth first, so that the first path found is the shortest. No inner state of the saving group, unless the way begins and ends in it:
 * PRE_COPY to STOP_COPY goes by PRE_COPY_P2P, for the save that is open must stay open (Linux vfio_main.c; kernel row D23).
 */
function shortestPath(from: MigrationState, to: MigrationState): MigrationState[] | undefined {
  const stays = isSaving(from) && isSaving(to);
  const reached = new Map<MigrationState, MigrationState[]>([[from, []]]);
  for (const [state, path] of reached) {
    if (state === to) return path;
    if (state !== from && isSaving(state) && !stays) continue;
    for (const [arcFrom, arcTo] of migrationArcs) {
      if (arcFrom === state && !reached.has(arcTo)) reached.set(arcTo, [...path, arcTo]);
    }
  }
  return undefined;
}

function isState(state: number): state is MigrationState {
  return Number.isInteger(state) && state >= ERROR && state <= PRE_COPY_P2P;
}

function forbidden(from: MigrationState, to: number): VfioError {
  return new VfioError('EINVAL', {
    operation: 'MIG_DEVICE_STATE',
    field: 'device_state',
    message: `${migrationStateName(from)} to ${migrationStateName(to)} is not allowed`,
  });
}
