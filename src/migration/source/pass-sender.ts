import { performance } from 'node:perf_hooks';
import { clearRange, RunCursor } from '../../bitmap/index.js';
import type { DirtySet } from '../../tracker/index.js';
import { PAGE_SIZE } from '../memory/machine-memory.js';
import { PageList } from '../stream/page-list.js';
import type { MemoryLane } from './memory-lane.js';
import { type MigrationEvent, type PassReport, sentPass } from './migration-report.js';
import { RateLimit } from './rate-limit.js';

/** How often progress is told, milliseconds. */
const PROGRESS_MS = 50;

/** What a {@link PassSender} needs. */
export interface PassSenderOptions {
  onEvent: (event: MigrationEvent) => void;
  /** Bytes per second; `undefined`: as fast as the link is. */
  bandwidth?: number | undefined;
}

/** Sends memory, pass by pass. */
export class PassSender {
  readonly #limit: RateLimit;
  readonly #onEvent: (event: MigrationEvent) => void;
  readonly #passes: PassReport[] = [];

  constructor({ onEvent, bandwidth }: PassSenderOptions) {
    this.#onEvent = onEvent;
    this.#limit = new RateLimit(bandwidth);
  }

  /** Every pass so far, in order. */
  get passes(): PassReport[] {
    return this.#passes;
  }

  /**
   * Sends the pages of `dirty` and takes them out of it, until all are at the other end.
   * @param mustEnd asked after every block: `true` ends the pass before its time, with the rest still in `dirty`
   */
  async send(lane: MemoryLane, dirty: DirtySet, mustEnd: () => boolean = () => false): Promise<PassReport> {
    const before = { bytes: lane.bytesSent, zeroPages: lane.zeroPages };
    const progress = new PassProgress(this.#passes.length, dirty.count(), performance.now());
    await this.#sendPages(lane, dirty, progress, mustEnd);
    await lane.flush();
    const report = sentPass({
      pass: progress.pass,
      pagesSent: progress.pagesSent,
      zeroPages: lane.zeroPages - before.zeroPages,
      bytesSent: lane.bytesSent - before.bytes,
      durationMs: performance.now() - progress.startedAt,
    });
    this.#passes.push(report);
    return report;
  }

  async #sendPages(lane: MemoryLane, dirty: DirtySet, progress: PassProgress, mustEnd: () => boolean): Promise<void> {
    const list = new PageList(Math.min(lane.pagesPerList(progress.pagesTotal), this.#limit.pagesAtOnce));
    for (const [index, { bitmap, pages }] of dirty.ranges.entries()) {
      const cursor = new RunCursor(bitmap, 0, pages);
      while (cursor.next()) {
        for (let page = cursor.start; page < cursor.end; ) {
          page += list.add(index, page, cursor.end - page);
          if (!list.full) continue;
          await this.#sendList(list, lane, dirty, progress);
          if (mustEnd()) return;
        }
      }
    }
    if (list.pages > 0) await this.#sendList(list, lane, dirty, progress);
  }

  async #sendList(list: PageList, lane: MemoryLane, dirty: DirtySet, progress: PassProgress): Promise<void> {
    await lane.send(list);
    progress.pagesSent += list.pages;
    forget(dirty, list);
    await this.#limit.pace(lane.bytesSent);
    const now = performance.now();
    if (now - progress.toldAt < PROGRESS_MS) return;
    progress.toldAt = now;
    const last = this.#passes.at(-1);
    this.#onEvent({
      event: 'progress',
      pass: progress.pass,
      pagesTotal: progress.pagesTotal,
      pagesLeft: progress.pagesTotal - progress.pagesSent,
      bytesPerSecond: (progress.pagesSent * PAGE_SIZE * 1000) / (now - progress.startedAt),
      dirtyPagesPerSecond: last?.dirtyPagesPerSecond ?? 0,
      estimatedDowntimeMs: last?.estimatedDowntimeMs,
    });
  }
}

/** What was sent is not dirty any more. */
function forget(dirty: DirtySet, list: PageList): void {
  const { ranges, firstPages, pageCounts, extents } = list;
  for (let index = 0; index < extents; index++) {
    const first = firstPages[index]!;
    clearRange(dirty.ranges[ranges[index]!]!.bitmap, first, first + pageCounts[index]!);
  }
  list.clear();
}

class PassProgress {
  pagesSent = 0;
  toldAt: number;

  constructor(
    readonly pass: number,
    readonly pagesTotal: number,
    readonly startedAt: number,
  ) {
    this.toldAt = startedAt;
  }
}
