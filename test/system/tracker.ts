import { onTestFinished } from 'vitest';
import { DirtySet, LoggingSession } from '../../src/tracker/index.js';
import type { IovaRange } from '../../src/uapi/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';
import { pagesOf } from './dma-witness.js';

/** A tracker on a connection of its own, beside the VMM's. It logs from {@link DeviceTracker.start} to the end of the test. */
export class DeviceTracker {
  readonly #session: LoggingSession;
  readonly #ranges: readonly IovaRange[];
  /** Reports so far. */
  reports = 0;

  private constructor(session: LoggingSession, ranges: readonly IovaRange[]) {
    this.#session = session;
    this.#ranges = ranges;
  }

  /** Connects to a device, and has it log its writes to the first `length` bytes of guest memory. */
  static async start(path: string, length: number): Promise<DeviceTracker> {
    const client = await VfioUserClient.connect(path, { role: 'tracker' });
    const ranges = [{ iova: 0n, length: BigInt(length) }];
    const session = new LoggingSession(client.features);
    await session.start(ranges);
    onTestFinished(async () => {
      await session.stop();
      await client.close();
    });
    return new DeviceTracker(session, ranges);
  }

  /**
   * The pages that were written since the last report.
   * @throws Error when the log was lost: then it says nothing
   */
  async report(): Promise<Set<number>> {
    const dirty = new DirtySet(this.#ranges);
    const lost = await this.#session.collect(dirty);
    if (lost.length > 0) throw lost[0]!.error;
    this.reports++;
    return pagesOf(dirty);
  }

  /** The union of a report every `intervalMs` while `work` is done, and of one after it. */
  async during(work: Promise<unknown>, intervalMs: number): Promise<Set<number>> {
    const union = new Set<number>();
    let isDone = false;
    const done = work.finally(() => {
      isDone = true;
    });
    do {
      for (const page of await this.report()) union.add(page);
      await Promise.race([done, new Promise(resolve => setTimeout(resolve, intervalMs))]);
    } while (!isDone);
    for (const page of await this.report()) union.add(page);
    return union;
  }
}
