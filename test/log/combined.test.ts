import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { BitmapMemory, countBits } from '../../src/bitmap/index.js';
import { createMemoryFile, readAt } from '../../src/native/index.js';
import { Crew, translatedPrograms } from './threads.js';
import type { Tracker } from './tracker-thread.js';
import { TRACKED_PAGES } from './tracker-work.js';

/*
 * The request for comments' promise: "bits are updated using atomic or to allow userspace to combine bitmaps from multiple
 * trackers". Trackers report into one bitmap at once; in the end it is the union of all.
 */

const program = translatedPrograms('tracker-thread', 'tracker-process', 'tracker-work', 'crew-member');
const BYTES = TRACKED_PAGES / 8;
const TRACKERS = 3;

describe('several trackers report into one bitmap at once', () => {
  test.each([
    ['a shared buffer', () => new Uint32Array(new SharedArrayBuffer(BYTES))],
    ["the kernels' memory", () => BitmapMemory.create(BYTES).createBitmap(TRACKED_PAGES)],
  ])('in threads, in %s: no bit is lost', async (_place, create) => {
    for (let round = 0; round < 3; round++) {
      const bitmap = create();
      const members = Array.from(
        { length: TRACKERS },
        (_, number): Tracker => ({ bitmap, number, trackers: TRACKERS }),
      );
      const crew = new Crew(program('tracker-thread'), members);
      await crew.start();
      await crew.join();
      expect(countBits(bitmap, 0, TRACKED_PAGES)).toBe(TRACKED_PAGES);
    }
  });

  test('in processes, in a memory file: no bit is lost', async () => {
    const file = createMemoryFile('bitmap', BYTES + 4096);
    const children = Array.from({ length: TRACKERS }, (_, number) =>
      spawn(process.execPath, [program('tracker-process'), `${BYTES}`, `${number}`, `${TRACKERS}`], {
        stdio: ['ignore', 'inherit', 'inherit', file.fd],
      }),
    );
    const codes = await Promise.all(children.map(async child => (await once(child, 'exit'))[0]));
    expect(codes).toEqual(children.map(() => 0));
    const bytes = new Uint8Array(BYTES);
    expect(readAt(file.fd, 0, bytes)).toBe(BYTES);
    file.close();
    expect(countBits(new Uint32Array(bytes.buffer), 0, TRACKED_PAGES)).toBe(TRACKED_PAGES);
  });
});
