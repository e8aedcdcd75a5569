import { TURN_MS } from '../wire/limits.js';

/** How many small things are done between two looks at the clock. */
const ASKED_A_CLOCK = 16;

/**
 * How long a session has had the event loop to itself since the loop last went round. Other sessions, devices and timers of the process have
 * their turn when that was {@link TURN_MS}.
 */
export class LoopTime {
  #round: number | undefined;
  #startedAt = 0;
  #asked = 0;

  /** Something is to be done now. @param round another number whenever the loop has gone round */
  begin(round: number): void {
    if (round === this.#round) return;
    this.#round = round;
    this.restart();
  }

  /** The loop has gone round. */
  restart(): void {
    this.#startedAt = performance.now();
    this.#asked = 0;
  }

  /** Whether it is time for others. */
  get isOver(): boolean {
    return performance.now() - this.#startedAt >= TURN_MS;
  }

  /** {@link LoopTime.isOver}, for what is done so quickly that the clock, 250 ns a look, is only looked at now and then. */
  get isOverByNow(): boolean {
    return ++this.#asked % ASKED_A_CLOCK === 0 && this.isOver;
  }
}
