import { setImmediate as turnOfLoop } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { RunCursor } from '../../../src/bitmap/index.js';
import { GuestMemory } from '../../../src/memory/index.js';
import { CpuTracker, DirtySet, MarkedTracker, type Tracker } from '../../../src/tracker/index.js';
import { loopUntil } from '../../native/helpers.js';
import { cannotTrack, PAGE } from './helpers.js';

const PAGES = 2000;
const THREADS = 3;
/** For a tracker that finds nothing. */
const MOST_COLLECTS = 2000;
const IOVA = 0x4000_0000;
const program = fileURLToPath(new URL('writer-thread.mjs', import.meta.url));
const ranges = [{ iova: BigInt(IOVA), length: BigInt(PAGES * PAGE) }];

/**
 * Threads that write memory while it is tracked, collected and copied: what a migration's passes do.
 * @returns pages of the copy that are not what was written last
 */
async function copyWhileWriting(memory: GuestMemory, tracker: Tracker, marksFor: () => unknown) {
  const signals = new Int32Array(new SharedArrayBuffer(8));
  const workers = Array.from({ length: THREADS }, (_, number) => {
    const data = {
      memory: memory.mapping.share(),
      marks: marksFor(),
      pages: PAGES,
      number,

      iova: IOVA,
    };
    return new Worker(program, { workerData: { ...data, signals } });
  });
  const ended = Promise.all(workers.map(worker => new Promise(resolve => worker.once('exit', resolve))));
  expect(await loopUntil(() => Atomics.load(signals, 0) === THREADS)).toBe(true);
  await tracker.start(ranges);
  const copy = new Uint8Array(PAGES * PAGE);
  memory.read(0, copy);
  Atomics.store(signals, 1, 1);
  Atomics.notify(signals, 1);

  const dirty = new DirtySet(ranges);
  const collectAndCopy = async () => {
    dirty.clear();
    expect(await tracker.collect(dirty)).toEqual([]);
    const { bitmap, pages } = dirty.ranges[0]!;
    const run = new RunCursor(bitmap, 0, pages);
    while (run.next()) memory.read(run.start * PAGE, copy.subarray(run.start * PAGE, run.end * PAGE));
  };
  for (let left = MOST_COLLECTS, copied = 0; left > 0 && (left > MOST_COLLECTS - 50 || copied < 5 * PAGES); left--) {
    await collectAndCopy();
    copied += dirty.count();
    await turnOfLoop();
  }
  Atomics.store(signals, 1, 2);
  await ended;
  await collectAndCopy();
  await tracker.stop();
  const whole = new Uint8Array(PAGES * PAGE);
  memory.read(0, whole);
  return stalePages(copy, whole);
}

function stalePages(copy: Uint8Array, whole: Uint8Array): number[] {
  const stale: number[] = [];
  for (let page = 0; page < PAGES; page++) {
    const at = page * PAGE;
    if (Buffer.compare(copy.subarray(at, at + PAGE), whole.subarray(at, at + PAGE)) !== 0) stale.push(page);
  }
  return stale;
}

describe('threads that write while the tracker collects', () => {
  it.skipIf(cannotTrack)('lose no write, when the kernel tracks them', async () => {
    using memory = GuestMemory.create(PAGES * PAGE, 'tracked');
    const tracker = new CpuTracker([{ ...ranges[0]!, memory }]);
    expect(await copyWhileWriting(memory, tracker, () => undefined)).toEqual([]);
  });

  it('lose no write, when they mark them', async () => {
    using memory = GuestMemory.create(PAGES * PAGE, 'tracked');
    const tracker = new MarkedTracker(ranges);
    expect(await copyWhileWriting(memory, tracker, () => tracker.share())).toEqual([]);
  });

  it('lose writes when nobody marks them, so that these tests can fail', async () => {
    using memory = GuestMemory.create(PAGES * PAGE, 'tracked');
    expect(await copyWhileWriting(memory, new MarkedTracker(ranges), () => undefined)).not.toEqual([]);
  });
});
