import { SingleBar } from 'cli-progress';
import type { ReceiveEvent } from '../../migration/index.js';
import { count } from './quantities.js';

/** A line on a terminal while a pass's pages arrive; nothing elsewhere. How many there will be, only the source knows. */
export class ArrivalLine {
  #line: SingleBar | undefined;

  draw({ pass, pagesReceived, pagesPerSecond }: Extract<ReceiveEvent, { event: 'progress' }>): void {
    if (!process.stdout.isTTY) return;
    const payload = { pass, pages: count(pagesReceived), speed: count(pagesPerSecond) };
    if (this.#line === undefined) {
      const format = '  pass {pass}: {pages} pages have come · {speed} pages/s';
      this.#line = new SingleBar({ format, hideCursor: true, clearOnComplete: true, stopOnComplete: false });
      this.#line.start(Number.POSITIVE_INFINITY, 0, payload);
    } else {
      this.#line.update(payload);
    }
  }

  /** Takes it away, so that a line may follow. */
  end(): void {
    this.#line?.stop();
    this.#line = undefined;
  }
}
