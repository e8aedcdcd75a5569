import { Presets, SingleBar } from 'cli-progress';
import type { MigrationEvent } from '../../migration/index.js';
import { colorsFor } from '../colors.js';
import { count } from './quantities.js';

const pc = colorsFor(process.stdout);

/** A bar on a terminal while a pass's pages move; nothing elsewhere. */
export class PassBar {
  #bar: SingleBar | undefined;

  draw(progress: Extract<MigrationEvent, { event: 'progress' }>): void {
    if (!process.stdout.isTTY) return;
    const payload = {
      pass: progress.pass,
      left: count(progress.pagesLeft),
      dirty: progress.dirtyPagesPerSecond === 0 ? '?' : count(progress.dirtyPagesPerSecond),
      downtime: progress.estimatedDowntimeMs === undefined ? '?' : `${Math.ceil(progress.estimatedDowntimeMs)} ms`,
    };
    const done = progress.pagesTotal - progress.pagesLeft;
    if (this.#bar === undefined) {
      this.#bar = new SingleBar(
        {
          // 80 columns at the most: the bar's own library cuts what is longer.
          format: `  pass {pass} ${pc.cyan('{bar}')} {left} pages left · dirty {dirty}/s · est. downtime {downtime}`,
          barsize: 14,
          hideCursor: true,
          clearOnComplete: true,
          stopOnComplete: false,
        },
        Presets.rect,
      );
      this.#bar.start(progress.pagesTotal, done, payload);
    } else {
      this.#bar.setTotal(progress.pagesTotal);
      this.#bar.update(done, payload);
    }
  }

  /** Takes it away, so that a line may follow. */
  end(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
