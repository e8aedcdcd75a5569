import type { VfioError } from '../../uapi/index.js';

/** So many times in a row the same bytes are not damaged by accident. */
const MOST_DAMAGES = 3;

/** A connection that is lost, as it was in its channel. */
export interface LostConnection {
  at: number;
  error: VfioError;
  /** How long after its begin something last came from it. */
  heardForMs: number;
  /** What had come and gone over the channel until then. */
  progress: number;
}

/** How much is borne. */
export interface Forbearance {
  /** How long connections may be lost one after the other without any that is of use. */
  patienceMs: number;
  /** How many. */
  mostLosses: number;
  /** Who is heard for that long was there. */
  silenceMs: number;
}

/**
 * The connections of a channel that were lost since one was of use: it brought a frame, or the word that one was applied, or lived for long.
 *
 * A link that is lost again at once may yet come to rest: it is borne for as long as no link at all would be. Bytes that come damaged each
 * time do not get better.
 *
 * Worked example, with a patience of 20 s: lost at 3.0 s, 3.1 s, 3.3 s, and each time nothing had come: three losses, and the next is
 * borne if it comes before 23 s. A frame comes at 4 s: the next loss is the first again.
 */
export class Losses {
  #count = 0;
  #damages = 0;
  #since = 0;
  #firstError: VfioError | undefined;
  #progress = -1;

  /** In a row. */
  get count(): number {
    return this.#count;
  }

  /** @returns why there should be no other connection: what the first one in the row was lost by; `undefined`: there should */
  add(lost: LostConnection, { patienceMs, mostLosses, silenceMs }: Forbearance): VfioError | undefined {
    if (lost.progress !== this.#progress || lost.heardForMs >= silenceMs) this.#begin(lost);
    this.#progress = lost.progress;
    this.#count++;
    if (lost.error.errno === 'EBADMSG') this.#damages++;
    const isTooMuch = this.#damages >= MOST_DAMAGES || this.#count >= mostLosses;
    return isTooMuch || lost.at - this.#since >= patienceMs ? this.#firstError : undefined;
  }

  #begin({ at, error }: LostConnection): void {
    this.#count = 0;
    this.#damages = 0;
    this.#since = at;
    this.#firstError = error;
  }
}
