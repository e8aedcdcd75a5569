import type { IovaRange } from '../uapi/index.js';
import { DirtySet } from './dirty-set.js';
import { changeTrackedRanges, type LostLog, type Tracker } from './tracker.js';

/** What one tracker of several found. */
export interface FoundPages {
  /** Its name. */
  tracker: string;
  /** Number of pages. */
  pages: number;
}

/**
 * Several trackers as one: a page is dirty if any of them says so (request for comments: "combine bitmaps from multiple trackers").
 *
 * One tracker that fails for good does not keep the others' pages from being collected; its error is thrown afterwards.
 */
export class TrackerUnion implements Tracker {
  readonly name: string;
  readonly #trackers: readonly Tracker[];
  /** A set for each tracker, of the same ranges as the one that was collected into last. */
  #sets: readonly DirtySet[] = [];
  #found: readonly FoundPages[] = [];

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

  /** What each tracker found at the last `collect`, in their order. A page that several found counts for each. */
  get found(): readonly FoundPages[] {
    return this.#found;
  }

  async collect(dirty: DirtySet): Promise<LostLog[]> {
    const sets = this.#setsLike(dirty);
    const results = await Promise.allSettled(
      this.#trackers.map(async (tracker, index) => tracker.collect(sets[index]!)),
    );
    this.#found = this.#trackers.map(({ name }, index) => ({ tracker: name, pages: sets[index]!.count() }));
    for (const set of sets) {
      dirty.or(set);
      set.clear();
    }
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

  /** Each tracker reports into a set of its own, so that its pages can be counted: a bit a page for each. */
  #setsLike(dirty: DirtySet): readonly DirtySet[] {
    const isLike = this.#sets[0]?.pageSize === dirty.pageSize && haveSameRanges(this.#sets[0], dirty);
    if (!isLike) this.#sets = this.#trackers.map(() => new DirtySet(dirty.ranges, dirty.pageSize));
    return this.#sets;
  }

  async stop(): Promise<void> {
    await this.#stopThose(() => true);
    this.#sets = [];
  }

  async #stopThose(chosen: (tracker: Tracker, index: number) => boolean): Promise<void> {
    await Promise.allSettled(this.#trackers.filter(chosen).map(async tracker => tracker.stop()));
  }
}

function haveSameRanges(one: DirtySet, other: DirtySet): boolean {
  return (
    one.ranges.length === other.ranges.length &&
    one.ranges.every(({ iova, length }, index) => {
      const range = other.ranges[index]!;
      return iova === range.iova && length === range.length;
    })
  );
}
