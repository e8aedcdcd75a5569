import { performance } from 'node:perf_hooks';
import { DirtySet, type LostLog, type Tracker } from '../../tracker/index.js';
import type { IovaRange } from '../../uapi/index.js';
import { PAGE_SIZE } from '../memory/machine-memory.js';
import { HotPages, withhold } from './hot-pages.js';

/** Which pages the destination has not got as they are: what the logs said and no pass has sent since. */
export class DirtyPages {
  /** Passes take out of it what they send. */
  readonly set: DirtySet;
  readonly #tracker: Tracker;
  readonly #hot: HotPages;
  #collectedAt = performance.now();
  #pagesPerSecond = 0;

  /** @param tracker runs already, over the same ranges */
  constructor(set: DirtySet, tracker: Tracker) {
    this.set = set;
    this.#tracker = tracker;
    this.#hot = new HotPages(set.ranges);
  }

  /** Starts the logs. With nothing that waits between a look at the machine's memory and the tracker's own. */
  static async track(ranges: readonly IovaRange[], tracker: Tracker): Promise<DirtyPages> {
    const set = new DirtySet(ranges, BigInt(PAGE_SIZE));
    await tracker.start(set.ranges);
    return new DirtyPages(set, tracker);
  }

  get count(): number {
    return this.set.count();
  }

  /** Pages written, per second between the last two readings of the logs. */
  get pagesPerSecond(): number {
    return this.#pagesPerSecond;
  }

  /** Reads the logs, and learns which pages change all the time, and how fast. @returns the logs that were lost: all of theirs is dirty */
  async collect(): Promise<LostLog[]> {
    const fresh = this.#hot.begin();
    let lost: LostLog[];
    try {
      lost = await this.#tracker.collect(fresh);
    } finally {
      this.set.or(fresh);
    }
    const now = performance.now();
    this.#pagesPerSecond = (fresh.count() * 1000) / Math.max(now - this.#collectedAt, 1);
    this.#collectedAt = now;
    this.#hot.learn();
    return lost;
  }

  /** Does something to the set without the pages that change in every pass; they are in it again afterwards. @returns how many those are */
  async withoutHot(work: () => Promise<void>): Promise<number> {
    const hot = this.#hot.pages;
    withhold(this.set, hot);
    await work();
    this.set.or(hot);
    return hot.count();
  }

  /** The machine's memory changed, and the set with it. */
  followRanges(): void {
    this.#hot.changeRanges(this.set.ranges);
  }
}
