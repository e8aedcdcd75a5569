import { performance } from 'node:perf_hooks';
import type { VfioError } from '../../uapi/index.js';
import {
  isSameRecord,
  type OfferLink,
  type Ownership,
  type OwnershipRecord,
  offerMachine,
  requireOwnership,
  staleOwnership,
} from '../ownership/index.js';
import { unexpected } from '../stream/frame-channel.js';
import { FrameType, type Hello } from '../stream/stream-format.js';
import type { Interruption } from './interruption.js';
import type { SourceLink } from './source-link.js';
import { offerLinkOver } from './source-switch.js';

/** How the machine was given away. */
export interface HandedOver {
  /** How long the destination's devices took to start, as it says; 0 when it did not say. */
  resumeMs: number;
  /** Why its word that it runs did not come; the ownership record says that it has the machine. */
  error: VfioError | undefined;
}

/**
 * Whose the machine is, as far as the source knows.
 *
 * From the moment GO may have left, it is the destination's: the source does not run it again, unless the destination says that it has not taken
 * it, or a record outside the two ends says so (docs/ownership.md).
 */
export class SourceOwnership {
  readonly #ownership: Ownership | undefined;
  readonly #interruption: Interruption;
  readonly #signal: AbortSignal | undefined;
  #record: OwnershipRecord | undefined;
  #isGiven = false;

  /** @param signal ends the waiting for a store that does not answer at the switch */
  constructor(ownership: Ownership | undefined, interruption: Interruption, signal: AbortSignal | undefined) {
    this.#ownership = ownership;
    this.#interruption = interruption;
    this.#signal = signal;
  }

  /** The machine was given away, or may have been. */
  get isGiven(): boolean {
    return this.#isGiven;
  }

  /** Whether a record outside of the two ends says who has the machine. */
  get isRecorded(): boolean {
    return this.#record !== undefined;
  }

  /** For HELLO. */
  get words(): Pick<Hello, 'ownership'> {
    return this.#ownership === undefined ? {} : { ownership: { self: this.#ownership.self, record: this.#record } };
  }

  /**
   * Requires that the machine is this end's, by the record if there is to be one.
   * @returns how long the store took to answer, milliseconds; 0 without one
   * @throws VfioError as {@link requireOwnership}
   */
  async require(): Promise<number> {
    if (this.#ownership === undefined) return 0;
    const askedAt = performance.now();
    this.#record = await this.#interruption.unlessInterrupted(requireOwnership(this.#ownership));
    return performance.now() - askedAt;
  }

  /** A store that cannot be reached now will not be reached at the switch either, and now the machine still runs. @throws VfioError ESTALE */
  async requireStill(): Promise<void> {
    if (this.#ownership === undefined) return;
    const { store, machine } = this.#ownership;
    const current = await this.#interruption.unlessInterrupted(store.read(machine));
    if (!isSameRecord(current, this.#record)) throw staleOwnership(this.#ownership, current);
  }

  /**
   * Gives the machine to the destination, which has said that it has loaded everything.
   * @param to the destination's name in the record
   * @param onOffered GO is on its way
   * @throws why it did not get it, or may not have
   */
  async give(link: SourceLink, to: string, onOffered: () => void): Promise<HandedOver> {
    let resumeMs = 0;
    const words = offerLinkOver(link, {
      onOffered: () => {
        this.#isGiven = true;
        onOffered();
      },
      onResumed: times => {
        resumeMs = times.resumeMs ?? 0;
      },
    });
    const error = await (this.#record === undefined ? offer(words) : this.#offerByRecord(link, words, to));
    return { resumeMs, error };
  }

  async #offerByRecord({ channel }: SourceLink, link: OfferLink, to: string): Promise<VfioError | undefined> {
    const held = this.#record!;
    const result = await offerMachine({ ownership: this.#ownership!, held, to, link, signal: this.#signal });
    if (result.owner !== 'destination') {
      this.#isGiven = result.owner === 'unknown';
      throw result.error;
    }
    // It has the machine, and has said that it cannot run it.
    if (channel.peerAbort !== undefined && result.error !== undefined) throw result.error;
    return result.error;
  }

  /** The destination has said that it does not have the machine. Where there is a record, that counts instead. */
  refused(): void {
    if (!this.isRecorded) this.#isGiven = false;
  }
}

async function offer(words: OfferLink): Promise<undefined> {
  await words.offer();
  const answer = await words.next();
  if (answer.word === 'refused') throw answer.error;
  if (answer.word !== 'taken') throw unexpected(FrameType.SETTLE, 'RESUMED');
}
