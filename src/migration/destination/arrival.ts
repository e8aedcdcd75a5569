import type { LinkEvent } from '../link/link-keeper.js';

/** Where a machine that comes is, seen from its destination. */
export type ReceivePhase =
  /** A source has the machine's place; the machine runs there, and its memory comes. */
  | 'pre-copy'
  /** Everything has come; the devices here take their states. */
  | 'load'
  /** The states are loaded: both memories are compared, if the source asks for it, and its word that the machine may run here is waited for. */
  | 'ready';

/** What a destination tells while a machine comes. A page that comes in several passes counts in each. */
export type ReceiveEvent =
  | { event: 'phase'; phase: ReceivePhase }
  /** Some times a second, while there is something new. `pagesReceived`: of this pass, so far. */
  | { event: 'progress'; pass: number; pagesReceived: number; pagesPerSecond: number }
  /** The source has ended a pass. `pagesReceived`: of this pass. */
  | { event: 'pass'; pass: number; pagesReceived: number }
  | LinkEvent;

/** How often progress is told, milliseconds. */
const PROGRESS_MS = 250;

/** Tells how a machine comes, to whoever wants to hear it. */
export class Arrival {
  readonly #tell: ((event: ReceiveEvent) => void) | undefined;
  readonly #pagesReceived: () => number;
  #pass = 0;
  #pagesBefore = 0;
  #pagesTold = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @param pagesReceived in all passes until now; while pages come it may be a little behind */
  constructor(tell: ((event: ReceiveEvent) => void) | undefined, pagesReceived: () => number) {
    this.#tell = tell;
    this.#pagesReceived = pagesReceived;
  }

  /** Memory comes from now on. */
  begin(): void {
    this.enter('pre-copy');
    if (this.#tell !== undefined) this.#timer = setInterval(() => this.#tellProgress(), PROGRESS_MS);
  }

  enter(phase: ReceivePhase): void {
    this.#tell?.({ event: 'phase', phase });
  }

  endPass(): void {
    const pages = this.#pagesReceived();
    this.#tell?.({ event: 'pass', pass: this.#pass, pagesReceived: pages - this.#pagesBefore });
    this.#pass++;
    this.#pagesBefore = pages;
    this.#pagesTold = pages;
  }

  /** No more memory comes. Idempotent. */
  end(): void {
    clearInterval(this.#timer);
  }

  #tellProgress(): void {
    const pages = this.#pagesReceived();
    if (pages === this.#pagesTold) return;
    const pagesPerSecond = ((pages - this.#pagesTold) * 1000) / PROGRESS_MS;
    this.#pagesTold = pages;
    this.#tell?.({ event: 'progress', pass: this.#pass, pagesReceived: pages - this.#pagesBefore, pagesPerSecond });
  }
}
