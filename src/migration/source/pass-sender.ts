import { performance } from 'node:perf_hooks';
import { RunCursor } from '../../bitmap/index.js';
import type { DirtySet } from '../../tracker/index.js';
import { PAGE_SIZE } from '../memory/machine-memory.js';
import { PageList } from '../stream/page-list.js';
import type { MemoryLane } from './memory-lane.js';
import type { MigrationEvent, PassReport } from './migration-report.js';

/** How often progress is told, milliseconds. */
const PROGRESS_MS = 50;
/** A pass of fewer pages measures the clock, not the link. */
const PAGES_TO_MEASURE = 1024;

/** Sends memory, pass by pass. */
export class PassSender {
  readonly #list = new PageList();
  readonly #onEvent: (event: MigrationEvent) => void;
  readonly #passes: PassReport[] = [];
  #bytesPerSecond = 0;

  constructor(onEvent: (event: MigrationEvent) => void) {
    this.#onEvent = onEvent;
  }

  /** Every pass so far, in order. */
  get passes(): PassReport[] {
    return this.#passes;
  }

  /** What the link moved lately, headers included; 0 before the first pass. */
  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** Sends the pages of `dirty`, and leaves it clean. */
  async send(lane: MemoryLane, dirty: DirtySet): Promise<PassReport> {
    const pass = this.#passes.length;
    const bytesBefore = lane.bytesSent;
    const progress = new PassProgress(pass, dirty.count(), performance.now());
    for (const [index, range] of dirty.ranges.entries()) {
      const cursor = new RunCursor(range.bitmap, 0, range.pages);
      while (cursor.next()) {
        for (let page = cursor.start; page < cursor.end; ) {
          page += this.#list.add(index, page, cursor.end - page);
          if (this.#list.full) await this.#sendList(lane, progress);
        }
      }
    }
    if (this.#list.pages > 0) await this.#sendList(lane, progress);
    await lane.flush();
    dirty.clear();
    return this.#finish(progress, lane.bytesSent - bytesBefore);
  }

  async #sendList(lane: MemoryLane, progress: PassProgress): Promise<void> {
    await lane.send(this.#list);
    progress.pagesSent += this.#list.pages;
    this.#list.clear();
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

  #finish({ pass, pagesSent, startedAt }: PassProgress, bytesSent: number): PassReport {
    const durationMs = performance.now() - startedAt;
    if (pagesSent >= PAGES_TO_MEASURE || this.#bytesPerSecond === 0) {
      this.#bytesPerSecond = (Math.max(bytesSent, 1) * 1000) / durationMs;
    }
    const report: PassReport = {
      pass,
      pagesSent,
      bytesSent,
      durationMs,
      dirtyPages: 0,
      dirtyBySource: [],
      dirtyPagesPerSecond: 0,
      estimatedDowntimeMs: undefined,
    };
    this.#passes.push(report);
    return report;
  }
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
