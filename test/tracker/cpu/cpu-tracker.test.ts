import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../../src/memory/index.js';
import { openFdCount } from '../../../src/native/index.js';
import { CpuTracker, DirtySet, MarkedTracker, TrackerUnion } from '../../../src/tracker/index.js';
import type { IovaRange } from '../../../src/uapi/index.js';
import { punchHole, replacePages } from '../../native/memory-calls.js';
import { cannotTrack, dirtyIovas, PAGE } from './helpers.js';

const opened: { close(): unknown }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

function newMemory(pages: number): GuestMemory {
  const memory = GuestMemory.create(pages * PAGE, 'tracked');
  opened.push(memory);
  return memory;
}

/** A tracker of one memory at IOVA 1 MiB, not started. */
function newTracker(pages: number) {
  const memory = newMemory(pages);
  const slot = { iova: 0x10_0000n, length: BigInt(pages * PAGE), memory };
  const tracker = new CpuTracker([slot]);
  opened.push({ close: () => tracker.stop() });
  const ranges: IovaRange[] = [{ iova: slot.iova, length: slot.length }];
  return {
    memory,
    tracker,
    ranges,
    touch: (...pages: number[]) => {
      for (const page of pages) memory.write(page * PAGE, Uint8Array.of(1));
    },
    collect: async () => {
      const dirty = new DirtySet(ranges);
      const lost = await tracker.collect(dirty);
      return { lost, pages: dirtyIovas(dirty).map(iova => Number((iova - slot.iova) / BigInt(PAGE))) };
    },
  };
}

const everyPage = (pages: number) => Array.from({ length: pages }, (_, page) => page);

describe.skipIf(cannotTrack)('CpuTracker', () => {
  it('says which pages were written, wherever slots and ranges lie, as a naive set of pages does', async () => {
    const [first, second] = [newMemory(64), newMemory(64)];
    // Two pieces of one memory in another order than the machine sees them, and a piece of another that touches the first.
    const slots = [
      { iova: 0x100_0000n, length: 16n * 4096n, memory: first, offset: 32 * PAGE },
      { iova: 0x1_0000_0000n, length: 20n * 4096n, memory: first, offset: 4 * PAGE },
      { iova: 0x101_0000n, length: 24n * 4096n, memory: second, offset: 8 * PAGE },
    ];
    const whole: IovaRange[] = [
      { iova: 0x100_0000n, length: 40n * 4096n },
      { iova: 0x1_0000_0000n, length: 20n * 4096n },
    ];
    const parts: IovaRange[] = [
      { iova: 0x100_8000n, length: 16n * 4096n },
      { iova: 0x1_0000_4000n, length: 8n * 4096n },
    ];
    const action = fc.oneof(
      fc.record({
        kind: fc.constant('write' as const),
        slot: fc.nat(2),
        offset: fc.nat(24 * PAGE),
        length: fc.nat(9000),
      }),
      fc.record({
        kind: fc.constant('collect' as const),
        pageSize: fc.constantFrom(4096n, 8192n, 16384n),
        of: fc.nat(1),
      }),
    );
    const started = fc.constantFrom(whole, parts);
    await fc.assert(
      fc.asyncProperty(started, fc.array(action, { minLength: 1, maxLength: 25 }), async (ranges, actions) => {
        const tracker = new CpuTracker(slots);
        await tracker.start(ranges);
        const naive = new Set<bigint>();
        for (const each of actions) {
          if (each.kind === 'write') {
            const slot = slots[each.slot]!;
            const length = Math.min(each.length, Number(slot.length) - each.offset);
            if (length <= 0) continue;
            slot.memory.mapping.fill(slot.offset + each.offset, length, 3);
            const from = slot.iova + BigInt(each.offset);
            for (let at = from - (from % 4096n); at < from + BigInt(length); at += 4096n) naive.add(at);
            continue;
          }
          const asked = [whole, parts][each.of]!;
          const dirty = new DirtySet(asked, each.pageSize);
          expect(await tracker.collect(dirty)).toEqual([]);
          const expected = new Set<bigint>();
          for (const page of naive) {
            if (!inside(page, asked) || !inside(page, ranges)) continue;
            expected.add(page - (page % each.pageSize));
            naive.delete(page);
          }
          expect(dirtyIovas(dirty)).toEqual([...expected].sort((a, b) => (a < b ? -1 : 1)));
        }
        await tracker.stop();
      }),
      { numRuns: 300 },
    );
  });

  it('keeps what a collect did not ask for', async () => {
    const { tracker, ranges, touch, collect } = newTracker(64);
    await tracker.start(ranges);
    touch(3, 40);
    const upper = new DirtySet([{ iova: 0x10_0000n + 32n * 4096n, length: 32n * 4096n }]);
    await tracker.collect(upper);
    expect(dirtyIovas(upper)).toEqual([0x10_0000n + 40n * 4096n]);
    expect(await collect()).toEqual({ lost: [], pages: [3] });
  });

  it('begins clean, again and again', async () => {
    const { tracker, ranges, touch, collect } = newTracker(64);
    touch(1);
    await tracker.start(ranges);
    expect((await collect()).pages).toEqual([]);
    touch(2);
    await tracker.stop();
    touch(3);
    await tracker.start(ranges);
    expect((await collect()).pages).toEqual([]);
    touch(4);
    expect((await collect()).pages).toEqual([4]);
  });

  it('refuses a second START, which disturbs nothing, and stops twice', async () => {
    const { tracker, ranges, touch, collect } = newTracker(64);
    await tracker.start(ranges);
    touch(5);
    await expect(tracker.start(ranges)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect((await collect()).pages).toEqual([5]);
    await tracker.stop();
    await tracker.stop();
    expect(tracker.started).toBe(false);
  });

  it('marks everything when it is asked without START, or for pages that are too small', async () => {
    const { tracker, ranges } = newTracker(16);
    const dirty = new DirtySet(ranges);
    await expect(tracker.collect(dirty)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(dirty.count()).toBe(16);
    await tracker.start(ranges);
    const fine = new DirtySet(ranges, 2048n);
    await expect(tracker.collect(fine)).rejects.toMatchObject({ errno: 'EINVAL', field: 'pageSize' });
    expect(fine.count()).toBe(32);
  });

  it('does not take ranges of which it would never see a part', async () => {
    const { tracker, ranges } = newTracker(16);
    const [{ iova, length }] = ranges as [IovaRange];
    for (const bad of [
      { iova: iova - 4096n, length },
      { iova, length: length + 1n },
      { iova: 0n, length: 4096n },
    ]) {
      await expect(tracker.start([bad])).rejects.toMatchObject({ errno: 'EINVAL', field: 'ranges' });
    }
    expect(tracker.started).toBe(false);
  });

  it('reads a part of a page as the whole of it', async () => {
    const { tracker, touch, collect } = newTracker(16);
    await tracker.start([{ iova: 0x10_0000n + 0x1800n, length: 0x1000n }]);
    touch(0, 1, 2, 3);
    expect((await collect()).pages).toEqual([1, 2]);
  });

  it('makes everything dirty, says so, and goes on, when a part of the memory was exchanged', async () => {
    const { memory, tracker, ranges, touch, collect } = newTracker(64);
    await tracker.start(ranges);
    replacePages(memory.mapping, memory, 30, 2);
    const { lost, pages } = await collect();
    expect(lost).toMatchObject([{ tracker: 'CPU writes', error: { errno: 'EPERM' } }]);
    expect(pages).toEqual(everyPage(64));
    touch(31, 50);
    expect(await collect()).toEqual({ lost: [], pages: [31, 50] });
  });

  it('keeps everything dirty that the collect did not ask for which lost the log', async () => {
    const { memory, tracker, ranges, touch, collect } = newTracker(64);
    await tracker.start(ranges);
    touch(50);
    replacePages(memory.mapping, memory, 3, 1);
    const lower = new DirtySet([{ iova: 0x10_0000n, length: 32n * 4096n }]);
    expect(await tracker.collect(lower)).toMatchObject([{ error: { errno: 'EPERM' } }]);
    expect(lower.count()).toBe(32);
    expect(await collect()).toEqual({ lost: [], pages: everyPage(64).slice(32) });
    expect((await collect()).pages).toEqual([]);
    touch(50);
    await tracker.stop();
    await tracker.start(ranges);
    expect((await collect()).pages).toEqual([]);
  });

  it('marks everything, and cannot go on, when the memory is closed; then it stops', async () => {
    const fds = openFdCount();
    const { memory, tracker, ranges } = newTracker(64);
    await tracker.start(ranges);
    memory.close();
    for (let turn = 0; turn < 2; turn++) {
      const dirty = new DirtySet(ranges);
      await expect(tracker.collect(dirty)).rejects.toMatchObject({ errno: 'EBADF' });
      expect(dirty.count()).toBe(64);
    }
    await tracker.stop();
    expect(openFdCount()).toBe(fds);
  });

  it('leaves memory to one tracker at a time', async () => {
    const { memory, tracker, ranges, touch, collect } = newTracker(64);
    const fds = openFdCount();
    await tracker.start(ranges);
    const second = new CpuTracker([{ ...ranges[0]!, memory }]);
    await expect(second.start(ranges)).rejects.toMatchObject({ errno: 'EBUSY' });
    touch(7);
    expect((await collect()).pages).toEqual([7]);
    await tracker.stop();
    expect(openFdCount()).toBe(fds);
    await second.start(ranges);
    await second.stop();
  });

  it('gives descriptors and watched areas back', async () => {
    const { tracker, ranges, collect } = newTracker(64);
    const watched = () => readFileSync('/proc/self/smaps', 'utf8').match(/^VmFlags:.*\buw\b/gm)?.length ?? 0;
    const before = { fds: openFdCount(), watched: watched() };
    for (let turn = 0; turn < 50; turn++) {
      await tracker.start(ranges);
      await collect();
      await tracker.stop();
    }
    expect({ fds: openFdCount(), watched: watched() }).toEqual(before);
  });

  it('scans memory of several slices of a GiB', async () => {
    const gibibyte = 2 ** 30;
    const memory = newMemory((2 * gibibyte) / PAGE + 1);
    const ranges = [{ iova: 0n, length: memory.size }];
    const tracker = new CpuTracker([{ ...ranges[0]!, memory }]);
    opened.push({ close: () => tracker.stop() });
    await tracker.start(ranges);
    const offsets = [0, gibibyte - 1, gibibyte, 2 * gibibyte - PAGE, 2 * gibibyte];
    for (const offset of offsets) memory.write(offset, Uint8Array.of(1));
    const dirty = new DirtySet(ranges);
    await tracker.collect(dirty);
    expect(dirtyIovas(dirty)).toEqual(offsets.map(offset => BigInt(offset - (offset % PAGE))));
  });

  it('takes turns: what is asked for while a collect is under way comes after it', async () => {
    const { tracker, ranges, touch } = newTracker(64);
    const sets = [0, 1].map(() => new DirtySet(ranges));
    const started = tracker.start(ranges);
    await started;
    touch(1);
    const both = sets.map(set => tracker.collect(set));
    const stopped = tracker.stop();
    await Promise.all([...both, stopped]);
    expect(sets.map(set => set.count())).toEqual([1, 0]);
  });

  it('sees holes that are punched into the memory through whoever marks them', async () => {
    const { memory, tracker, ranges, touch } = newTracker(64);
    const marks = new MarkedTracker(ranges);
    const union = new TrackerUnion([tracker, marks]);
    await union.start(ranges);
    touch(1);
    punchHole(memory, 8, 2);
    marks.mark(ranges[0]!.iova + 8n * 4096n, 2 * PAGE);
    const dirty = new DirtySet(ranges);
    await union.collect(dirty);
    expect(dirtyIovas(dirty).map(iova => Number(iova - ranges[0]!.iova) / PAGE)).toEqual([1, 8, 9]);
    await union.stop();
  });
});

describe('slots', () => {
  const bad: [string, (memory: GuestMemory) => ConstructorParameters<typeof CpuTracker>[0]][] = [
    ['an IOVA inside a page', memory => [{ iova: 100n, length: 4096n, memory }]],
    ['a length that is no whole page', memory => [{ iova: 0n, length: 100n, memory }]],
    ['nothing', memory => [{ iova: 0n, length: 0n, memory }]],
    ['an offset inside a page', memory => [{ iova: 0n, length: 4096n, memory, offset: 1 }]],
    ['a negative offset', memory => [{ iova: 0n, length: 4096n, memory, offset: -PAGE }]],
    ['more than the memory', memory => [{ iova: 0n, length: 4n * 4096n, memory, offset: PAGE }]],
    [
      'one address twice',
      memory => [
        { iova: 0n, length: 8192n, memory },
        { iova: 4096n, length: 4096n, memory, offset: 2 * PAGE },
      ],
    ],
    [
      'one page of memory at two addresses, of which a scan would tell only one',
      memory => [
        { iova: 0n, length: 8192n, memory },
        { iova: 65536n, length: 4096n, memory, offset: PAGE },
      ],
    ],
  ];
  it.each(bad)('%s is EINVAL', (_, slots) => {
    expect(() => new CpuTracker(slots(newMemory(4)))).toThrow('EINVAL');
  });
});

describe('where userfaultfd is forbidden', () => {
  it('says so in one line with what would help, and START fails with the same, leaving nothing open', () => {
    const dist = new URL('../../../dist/', import.meta.url).href;
    const program = `
      import { GuestMemory } from '${dist}memory/index.js';
      import { openFdCount } from '${dist}native/index.js';
      import { CpuTracker, probeCpuTracking } from '${dist}tracker/index.js';
      const memory = GuestMemory.create(8192);
      const range = { iova: 0n, length: 8192n };
      const before = openFdCount();
      const why = probeCpuTracking();
      const error = await new CpuTracker([{ ...range, memory }]).start([range]).catch(error => error);
      console.log(JSON.stringify([why.errno, why.message, error.message, openFdCount() - before]));`;
    const forbid = fileURLToPath(new URL('forbid-userfaultfd.mjs', import.meta.url));
    const { stdout, stderr } = spawnSync(process.execPath, ['--import', forbid, '--input-type=module', '-e', program], {
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    const line = "userfaultfd: this process may not: a container's seccomp profile has to allow userfaultfd (EPERM)";
    expect(JSON.parse(stdout)).toEqual(['EPERM', line, line, 0]);
  });
});

function inside(page: bigint, ranges: readonly IovaRange[]): boolean {
  return ranges.some(({ iova, length }) => page >= iova && page < iova + length);
}
