import { VfioError } from '../../uapi/index.js';
import { describeRecord, firstRecord, type OwnershipRecord, requireName, successor } from './ownership-record.js';
import { type Ownership, replaceRecord } from './ownership-store.js';

/**
 * Makes this side the owner at a new epoch, which whoever starts a machine must do first: the first time, and again after a crash. The new
 * epoch shuts out a migration that the crashed process may have left under way.
 *
 * It does not find out whether an earlier process of the same name still runs the machine: whoever restarts it must know that.
 *
 * @returns the record under which the machine may run
 * @throws VfioError EPERM when the machine is somebody else's, ESTALE when somebody claims it at the same time, or why the store did not
 *   answer: the machine must not be started then; claiming again is safe
 */
export async function claimOwnership(ownership: Ownership): Promise<OwnershipRecord> {
  const current = await readOwn(ownership);
  const { store, machine, self } = ownership;
  const next = current === undefined ? firstRecord(machine, self) : successor(current, self);
  const result = await replaceRecord(store, current, next);
  if (result.outcome === 'set') return next;
  if (result.outcome !== 'conflict') throw result.error;
  throw staleOwnership(ownership, result.current);
}

/**
 * The record under which this side runs the machine. A machine that has none yet gets its first.
 * @throws VfioError EPERM when the machine is somebody else's, and as {@link claimOwnership}
 */
export async function requireOwnership(ownership: Ownership): Promise<OwnershipRecord> {
  return (await readOwn(ownership)) ?? (await claimOwnership(ownership));
}

async function readOwn({ store, machine, self }: Ownership): Promise<OwnershipRecord | undefined> {
  requireName('machine', machine);
  requireName('self', self);
  const current = await store.read(machine);
  if (current === undefined || current.owner === self) return current;
  const message = `${machine} belongs to ${describeRecord(current)}, not to ${self}, says ${store.name}`;
  throw new VfioError('EPERM', { operation: 'ownership', field: 'owner', message });
}

/** The record is not any more what this side held. */
export function staleOwnership({ store, machine }: Ownership, current: OwnershipRecord | undefined): VfioError {
  const message = `${machine} now belongs to ${describeRecord(current)}, says ${store.name}`;
  return new VfioError('ESTALE', { operation: 'ownership', field: 'epoch', message });
}
