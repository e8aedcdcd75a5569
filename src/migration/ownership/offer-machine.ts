import { asVfioError, VfioError } from '../../uapi/index.js';
import { staleOwnership } from './claim-ownership.js';
import { describeRecord, type OwnershipRecord, successor } from './ownership-record.js';
import { type Ownership, replaceRecord } from './ownership-store.js';
import { backOff, type Pause } from './pause.js';

/** What the destination says during the switch: it has the machine; it has not and never will; it cannot find out which. */
export type TakerWord = { word: 'taken' } | { word: 'refused'; error: VfioError } | { word: 'settle' };

/** The source's end of the link during the switch. */
export interface OfferLink {
  /** Says that the destination may take the machine. @throws when that was surely not said */
  offer(): Promise<void>;
  /** The destination's next word. @throws when there will be none */
  next(): Promise<TakerWord>;
  /** Says that the record, this one, names the destination. @throws when the link is broken */
  confirm(record: OwnershipRecord): Promise<void>;
}

/** What {@link offerMachine} needs. */
export interface Offer {
  ownership: Ownership;
  /** The record under which the machine ran here. */
  held: OwnershipRecord;
  /** The destination's name. */
  to: string;
  link: OfferLink;
  /** Stops asking a store that does not answer, and nothing else. */
  signal?: AbortSignal | undefined;
  /** Between two questions to the store; default: {@link backOff}. */
  pause?: Pause;
}

/** Whose the machine is after the offer. */
export type OfferResult =
  /** The destination's. `error`: why its word that it has the machine did not come; the record says so. */
  | { owner: 'destination'; error?: VfioError }
  /** This side's, for good: the destination cannot take it any more. */
  | { owner: 'source'; error: VfioError }
  /** Somebody else's, or nobody could find out: this side must not run it. */
  | { owner: 'unknown'; error: VfioError };

/**
 * The source's part of the switch. The machine must be stopped here, and everything of it sent and acknowledged.
 *
 * From the offer on, the machine is this side's again only when the destination has said that it never takes it, or when this side has
 * replaced the record: the destination's request, however late it comes, then finds another record than it expects.
 *
 * @throws what {@link OfferLink.offer} throws: nothing was offered then, and the machine is this side's as before
 */
export async function offerMachine(offer: Offer): Promise<OfferResult> {
  const { link } = offer;
  await link.offer();
  const first = await hear(link);
  if (first.word === 'taken') return { owner: 'destination' };
  if (first.word === 'refused') return { owner: 'source', error: first.error };
  const settled = await settle(offer);
  if (first.word === 'silent') return because(first.error, settled.result);
  if (settled.record === undefined) return settled.result;
  const second = await link.confirm(settled.record).then(() => hear(link), brokenBy);
  return second.word === 'taken' ? { owner: 'destination' } : because(lastWord(second), settled.result);
}

type Heard = TakerWord | { word: 'silent'; error: VfioError };

function hear(link: OfferLink): Promise<Heard> {
  return link.next().catch(brokenBy);
}

function brokenBy(error: unknown): Heard {
  return { word: 'silent', error: asVfioError(error, 'switch') };
}

/** Tries to keep the machine until the store says how that went. `record`: the destination's, when it has the machine. */
async function settle(offer: Offer): Promise<{ result: OfferResult; record?: OwnershipRecord }> {
  const { ownership, held, to, signal, pause = backOff } = offer;
  const kept = successor(held, ownership.self);
  for (let attempt = 0; ; attempt++) {
    const result = await replaceRecord(ownership.store, held, kept);
    if (result.outcome === 'set') return { result: { owner: 'source', error: keptHere(kept) } };
    if (result.outcome === 'conflict') {
      const { current } = result;
      const isTheirs = current?.owner === to && current.epoch === held.epoch + 1;
      if (isTheirs) return { result: { owner: 'destination' }, record: current };
      return { result: { owner: 'unknown', error: staleOwnership(ownership, current) } };
    }
    if (signal?.aborted) return { result: { owner: 'unknown', error: result.error } };
    await pause(attempt, signal);
  }
}

function because(error: VfioError | undefined, result: OfferResult): OfferResult {
  return result.owner === 'unknown' || error === undefined ? result : { ...result, error };
}

function lastWord(heard: Exclude<Heard, { word: 'taken' }>): VfioError {
  if (heard.word !== 'settle') return heard.error;
  const message = 'the destination asks again whether it has the machine, after it was told';
  return new VfioError('EPROTO', { operation: 'switch', message });
}

function keptHere(kept: OwnershipRecord): VfioError {
  const message = `the destination could not take the machine; it is kept by ${describeRecord(kept)}`;
  return new VfioError('ECANCELED', { operation: 'switch', message });
}
