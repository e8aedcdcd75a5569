import { performance } from 'node:perf_hooks';
import { RunCursor } from '../bitmap/index.js';
import type { DirtySet } from '../tracker/index.js';
import { viewOf } from '../uapi/index.js';
import { type MachineMemory, PAGE_SIZE } from './machine-memory.js';
import { MemoryBlock } from './memory-block.js';
import type { MigrationEvent, PassReport } from './migration-report.js';
import type { SourceLink } from './source-link.js';
import { FrameType } from './stream-format.js';

/** How often progress is told, milliseconds. */
const PROGRESS_MS = 50;
/** A pass of fewer pages measures the clock, not the link. */
const PAGES_TO_MEASURE = 1024;

/** Sends memory, pass by pass. */
export class PassSender {
  readonly #block: MemoryBlock;
  readonly #onEvent: (event: MigrationEvent) => void;
  readonly #passes: PassReport[] = [];
  #bytesPerSecond = 0;

  constructor(memory: MachineMemory, onEvent: (event: MigrationEvent) => void) {
    this.#block = new MemoryBlock(memory);
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
  async send(link: SourceLink, dirty: DirtySet): Promise<PassReport> {
    const pass = this.#passes.length;
    const { channel } = link;
    const bytesBefore = channel.bytesSent;
    const progress = new PassProgress(pass, dirty.count(), performance.now());
    for (const [index, range] of dirty.ranges.entries()) {
      const cursor = new RunCursor(range.bitmap, 0, range.pages);
      while (cursor.next()) {
        for (let page = cursor.start; page < cursor.end; ) {
          page += this.#block.add(index, page, cursor.end - page);
          if (this.#block.full) await this.#sendBlock(link, progress);
        }
      }
    }
    if (this.#block.pages > 0) await this.#sendBlock(link, progress);
    dirty.clear();
    const number = new Uint8Array(4);
    viewOf(number).setUint32(0, pass, true);
    await channel.send(FrameType.PASS, number);
    return this.#finish(progress, channel.bytesSent - bytesBefore);
  }

  async #sendBlock({ channel, peerFailure }: SourceLink, progress: PassProgress): Promise<void> {
    if (peerFailure !== undefined) throw peerFailure;
    const pages = this.#block.pages;
    await channel.sendFilled(FrameType.MEMORY, this.#block.payloadSize, into => this.#block.encode(into));
    progress.pagesSent += pages;
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
