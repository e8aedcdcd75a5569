import type { IovaRange } from '../uapi/index.js';
import type { DirtySet } from './dirty-set.js';
import { changeTrackedRanges, type LostLog, type Tracker } from './tracker.js';

/**
 * Several trackers as one: a page is dirty if any of them says so (request for comments: "combine bitmaps from multiple trackers").
 *
 * One tracker that fails for good does not keep the others' pages from being collected; its error is thrown afterwards.
 */
export class TrackerUnion implements Tracker {
  readonly name: string;
  readonly #trackers: readonly Tracker[];

  constructor(trackers: readonly Tracker[]) {
    this.#trackers = trackers;
    this.name = trackers.map(tracker => tracker.name).join(' + ') || 'no tracker';
  }

  /** Starts all, or none: when one fails, the others are stopped. @throws VfioError of the first that failed */
  async start(ranges: readonly IovaRange[]): Promise<void> {
    const results = await Promise.allSettled(this.#trackers.map(async tracker => tracker.start(ranges)));
    const failed = results.find(result => result.status === 'rejected');
    if (failed === undefined) return;
    await this.#stopThose((_, index) => results[index]!.status === 'fulfilled');
    throw failed.reason;
  }

  async collect(dirty: DirtySet): Promise<LostLog[]> {
    // Bitmaps are only changed between awaits, by whole words: the trackers share `dirty`.
    const results = await Promise.allSettled(this.#trackers.map(async tracker => tracker.collect(dirty)));
    const failed = results.find(result => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    return results.flatMap(result => (result.status === 'fulfilled' ? result.value : []));
  }

  /** All follow, even when one fails; its error is thrown afterwards. Each hears of it before this call returns its promise. */
  async changeRanges(ranges: readonly IovaRange[], dirty: DirtySet): Promise<void> {
    const results = await Promise.allSettled(
      this.#trackers.map(async tracker => changeTrackedRanges(tracker, ranges, dirty)),
    );
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  async stop(): Promise<void> {
    await this.#stopThose(() => true);
  }

  async #stopThose(chosen: (tracker: Tracker, index: number) => boolean): Promise<void> {
    await Promise.allSettled(this.#trackers.filter(chosen).map(async tracker => tracker.stop()));
  }
}
