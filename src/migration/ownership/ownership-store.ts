import type { VfioError } from '../../uapi/index.js';
import { isSameRecord, type OwnershipRecord } from './ownership-record.js';

/** What became of {@link OwnershipStore.compareAndSet}. */
export type CompareAndSetResult =
  /** The record is `next`, and a crash of anything does not undo it. */
  | { readonly outcome: 'set' }
  /** The record was another one, `current`, and the request changes nothing any more. */
  | { readonly outcome: 'conflict'; readonly current: OwnershipRecord | undefined }
  /** The request was refused, or never left: it changes nothing any more. */
  | { readonly outcome: 'not-set'; readonly error: VfioError }
  /** It may have changed the record, or may change it later still. */
  | { readonly outcome: 'unknown'; readonly error: VfioError };

/** Where the records are kept, outside the two processes. All methods may be called at any time, also concurrently. */
export interface OwnershipStore {
  /** Which store this is, for messages. */
  readonly name: string;

  /** The record of a machine as it is now, not as some cache has it; `undefined` when it has none. @throws VfioError when it cannot be known */
  read(machine: string): Promise<OwnershipRecord | undefined>;

  /**
   * Makes `next` the record of its machine if that is `expected` (`undefined`: there is none), as one indivisible step. Never throws: a caller
   * must tell apart what was surely not done from what is not known.
   */
  compareAndSet(expected: OwnershipRecord | undefined, next: OwnershipRecord): Promise<CompareAndSetResult>;
}

/** One side of an ownership: which machine, by which name this side is known, and where the record is. */
export interface Ownership {
  readonly store: OwnershipStore;
  /** The same at both ends. */
  readonly machine: string;
  /** This side's name. Not the other side's, also where both are on one host. */
  readonly self: string;
}

/**
 * {@link OwnershipStore.compareAndSet} for a caller that may ask several times with the same `next`: a conflict with its own record, which an
 * earlier request has brought, is success.
 */
export async function replaceRecord(
  store: OwnershipStore,
  expected: OwnershipRecord | undefined,
  next: OwnershipRecord,
): Promise<CompareAndSetResult> {
  const result = await store.compareAndSet(expected, next);
  const isOurs = result.outcome === 'conflict' && isSameRecord(result.current, next);
  return isOurs ? { outcome: 'set' } : result;
}
