import type { VfioError } from '../../uapi/index.js';
import { staleOwnership } from './claim-ownership.js';
import { isSameRecord, type OwnershipRecord, successor } from './ownership-record.js';
import { type CompareAndSetResult, type Ownership, replaceRecord } from './ownership-store.js';
import { backOff, type Pause } from './pause.js';

/** The destination's end of the link during the switch. */
export interface TakeLink {
  /**
   * Asks the source to find out whose the machine is, and waits for its answer: the record that names this side, or why the source keeps the
   * machine.
   * @throws when no answer will come
   */
  askToSettle(): Promise<{ record: OwnershipRecord } | { refused: VfioError }>;
}

/** What {@link takeMachine} needs. */
export interface Take {
  ownership: Ownership;
  /** The record under which the machine ran at the source, as the source said when the migration began. */
  offered: OwnershipRecord;
  link: TakeLink;
  /** Stops asking a store that does not answer, and nothing else. */
  signal?: AbortSignal | undefined;
  /** Between two questions to the store; default: {@link backOff}. */
  pause?: Pause;
}

/** Whether the machine is this side's. */
export type TakeResult =
  /** It is, and no crash undoes it: it must be run. */
  | { outcome: 'taken'; record: OwnershipRecord }
  /** It is not, and never will be by this offer. */
  | { outcome: 'refused'; error: VfioError }
  /** Nobody could find out: this side must not run it. */
  | { outcome: 'unknown'; error: VfioError };

/**
 * The destination's part of the switch: the commit. Everything of the machine must be here and loaded, and the source must have offered it.
 *
 * The request may be repeated as often as it takes: it expects the record that the source held, and only one record ever follows that.
 */
export async function takeMachine(take: Take): Promise<TakeResult> {
  const { ownership, offered, link, signal } = take;
  const wanted = successor(offered, ownership.self);
  const first = await replaceRecord(ownership.store, offered, wanted);
  if (first.outcome === 'not-set') return { outcome: 'refused', error: first.error };
  if (first.outcome !== 'unknown') return verdict(take, wanted, first);
  const enough = new AbortController();
  const asked = signal === undefined ? enough.signal : AbortSignal.any([signal, enough.signal]);
  const insisted = insist({ ...take, signal: asked }, wanted, first.error);
  const settled = settledBySource(link, wanted);
  const result = await Promise.race([insisted, settled.then(answer => answer ?? insisted)]);
  enough.abort();
  return result;
}

/** Asks again until it is known. A request that was not done says nothing here: the one before it may still be under way. */
async function insist(take: Take, wanted: OwnershipRecord, firstError: VfioError): Promise<TakeResult> {
  const { ownership, offered, signal, pause = backOff } = take;
  let error = firstError;
  for (let attempt = 0; !signal?.aborted; attempt++) {
    await pause(attempt, signal);
    const result = await replaceRecord(ownership.store, offered, wanted);
    if (result.outcome === 'set' || result.outcome === 'conflict') return verdict(take, wanted, result);
    error = result.error;
  }
  return { outcome: 'unknown', error };
}

type Decided = Extract<CompareAndSetResult, { outcome: 'set' | 'conflict' }>;

function verdict({ ownership }: Take, wanted: OwnershipRecord, result: Decided): TakeResult {
  if (result.outcome === 'set') return { outcome: 'taken', record: wanted };
  return { outcome: 'refused', error: staleOwnership(ownership, result.current) };
}

/** `undefined` when the source does not say either. */
async function settledBySource(link: TakeLink, wanted: OwnershipRecord): Promise<TakeResult | undefined> {
  try {
    const answer = await link.askToSettle();
    if ('refused' in answer) return { outcome: 'refused', error: answer.refused };
    return isSameRecord(answer.record, wanted) ? { outcome: 'taken', record: wanted } : undefined;
  } catch {
    return undefined;
  }
}
