import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import {
  CpuTracker,
  DirtySet,
  LoggingSession,
  MarkedTracker,
  type Tracker,
  TrackerUnion,
  Type1DirtyTracker,
} from '../../src/tracker/index.js';
import type { IovaRange } from '../../src/uapi/index.js';
import { cannotTrack, dirtyIovas, PAGE } from './cpu/helpers.js';
import { NaiveContainer } from './naive-address-space.js';
import { dirtyPages, PAGES, range, writer } from './one-range.js';

/** Pages `[first, first + count)`. */
function pages(first: number, count: number): IovaRange {
  return { iova: BigInt(first * PAGE), length: BigInt(count * PAGE) };
}

const opened: { close(): unknown }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

/** Up to four ranges in pages 0 to 79. */
const someRanges = fc.array(fc.tuple(fc.nat(4), fc.integer({ min: 1, max: 15 })), { maxLength: 4 }).map(pairs => {
  let at = 0;
  return pairs.map(([gap, count]) => {
    const each = pages(at + gap, count);
    at += gap + count;
    return each;
  });
});

describe('a set whose ranges change', () => {
  it('keeps what is said of pages that stay, and nothing else', () => {
    fc.assert(
      fc.property(someRanges, someRanges, fc.array(fc.nat(79), { maxLength: 40 }), (before, after, marks) => {
        const set = new DirtySet(before);
        for (const page of marks) set.mark(pages(page, 1));
        const marked = dirtyIovas(set);
        set.changeRanges(after);
        const stays = (iova: bigint) => after.some(each => each.iova <= iova && iova < each.iova + each.length);
        expect(dirtyIovas(set)).toEqual(marked.filter(stays));
        expect(set.ranges.map(({ iova, length }) => ({ iova, length }))).toEqual(after);
      }),
    );
  });

  it('stays as it was when the new ones overlap', () => {
    const set = new DirtySet([pages(0, 4)]);
    set.mark(pages(2, 1));
    expect(() => set.changeRanges([pages(0, 4), pages(3, 4)])).toThrow('overlaps');
    expect(dirtyIovas(set)).toEqual([BigInt(2 * PAGE)]);
  });
});

describe('a logging session whose ranges change', () => {
  it('goes on without a gap when memory only went away', async () => {
    const { handle, touch } = await writer();
    const session = new LoggingSession(handle.features);
    await session.start([range]);
    await touch(3);
    const dirty = new DirtySet([range]);
    await session.changeRanges([pages(0, 8)], dirty);
    await touch(5);
    expect(dirty.count()).toBe(0);
    await session.collect(dirty);
    expect(dirtyPages(dirty)).toEqual([3, 5]);
  });

  it('marks everything when it is not started', async () => {
    const { handle } = await writer();
    const dirty = new DirtySet([range]);
    await expect(new LoggingSession(handle.features).changeRanges([range], dirty)).rejects.toMatchObject({
      errno: 'EINVAL',
    });
    expect(dirty.count()).toBe(PAGES);
  });
});

describe('a tracker of an address space whose ranges change', () => {
  it('loses nothing, as the kernel logs whatever is mapped', async () => {
    const space = new NaiveContainer();
    space.map(pages(0, 16));
    const tracker = new Type1DirtyTracker(space);
    await tracker.start([pages(0, 16)]);
    space.write(3n);
    space.map(pages(16, 16));
    const dirty = new DirtySet([pages(0, 32)]);
    await tracker.changeRanges([pages(0, 16), pages(16, 16)], dirty);
    space.write(20n);
    await tracker.collect(dirty);
    expect(dirtyIovas(dirty)).toEqual([3, 20].map(page => BigInt(page * PAGE)));
    await tracker.stop();
  });
});

describe('marked writes whose ranges change', () => {
  it('are kept for all memory that may ever be marked, and for no other', async () => {
    const tracker = new MarkedTracker([pages(0, 16)]);
    await tracker.start([pages(0, 4)]);
    tracker.mark(2 * PAGE, 1);
    tracker.mark(9 * PAGE, 1);
    const dirty = new DirtySet([pages(0, 16)]);
    await tracker.changeRanges([pages(0, 4), pages(8, 4)], dirty);
    await tracker.collect(dirty);
    expect(dirtyIovas(dirty)).toEqual([2, 9].map(page => BigInt(page * PAGE)));
    await expect(tracker.changeRanges([pages(12, 8)], dirty)).rejects.toMatchObject({ errno: 'EINVAL' });
  });
});

describe('several trackers whose ranges change', () => {
  it('all follow, even when one cannot, and one that knows no change is started anew with everything marked', async () => {
    const calls: string[] = [];
    const plain: Tracker = {
      name: 'plain',
      start: async ranges => void calls.push(`start ${ranges.length}`),
      collect: async () => [],
      stop: async () => void calls.push('stop'),
    };
    const marked = new MarkedTracker([pages(0, 4)]);
    const union = new TrackerUnion([marked, plain]);
    await union.start([pages(0, 4)]);
    const dirty = new DirtySet([pages(0, 4), pages(8, 4)]);
    await expect(union.changeRanges([pages(0, 4), pages(8, 4)], dirty)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(calls).toEqual(['start 1', 'stop', 'start 2']);
    expect(dirty.count()).toBe(8);
  });
});

describe.skipIf(cannotTrack)('a CPU tracker whose memory changes', () => {
  function newMemory(count: number): GuestMemory {
    const memory = GuestMemory.create(count * PAGE);
    opened.push(memory);
    return memory;
  }

  function slotOf(first: number, count: number, memory = newMemory(count), offset = 0) {
    return { ...pages(first, count), memory, offset };
  }

  async function started(...slots: ReturnType<typeof slotOf>[]) {
    const machine = { slots };
    const tracker = new CpuTracker(machine);
    opened.push({ close: () => tracker.stop() });
    await tracker.start(slots);
    return { machine, tracker };
  }

  it('keeps what was written to memory that stays, and marks what is new', async () => {
    const [first, second, third] = [slotOf(0, 8), slotOf(8, 8), slotOf(16, 8)];
    const { machine, tracker } = await started(first, second);
    first.memory.write(3 * PAGE, Uint8Array.of(1));
    second.memory.write(3 * PAGE, Uint8Array.of(1));
    machine.slots = [first, third];
    const dirty = new DirtySet([pages(0, 24)]);
    await tracker.changeRanges(machine.slots, dirty);
    expect(dirtyIovas(dirty)).toEqual(Array.from({ length: 8 }, (_, page) => BigInt((16 + page) * PAGE)));
    second.memory.close();
    third.memory.write(2 * PAGE, Uint8Array.of(1));
    const after = new DirtySet(machine.slots);
    expect(await tracker.collect(after)).toEqual([]);
    expect(dirtyIovas(after)).toEqual([3, 18].map(page => BigInt(page * PAGE)));
  });

  it('follows the same memory to another place, and lets go of what is gone', async () => {
    const memory = newMemory(16);
    const { machine, tracker } = await started(slotOf(0, 16, memory));
    machine.slots = [slotOf(32, 8, memory, 4 * PAGE)];
    await tracker.changeRanges(machine.slots, new DirtySet([pages(0, 64)]));
    memory.write(5 * PAGE, Uint8Array.of(1));
    memory.write(PAGE, Uint8Array.of(1));
    const dirty = new DirtySet(machine.slots);
    await tracker.collect(dirty);
    expect(dirtyIovas(dirty)).toEqual([BigInt(33 * PAGE)]);
    // Nobody watches the rest any more.
    const other = new CpuTracker([slotOf(0, 4, memory)]);
    opened.push({ close: () => other.stop() });
    await other.start([pages(0, 4)]);
  });

  it('takes no ranges that are not in its memory, and goes on with those that it has', async () => {
    const slot = slotOf(0, 8);
    const { tracker } = await started(slot);
    slot.memory.write(PAGE, Uint8Array.of(1));
    await expect(tracker.changeRanges([pages(0, 9)], new DirtySet([pages(0, 9)]))).rejects.toMatchObject({
      errno: 'EINVAL',
    });
    const dirty = new DirtySet([slot]);
    await tracker.collect(dirty);
    expect(dirtyIovas(dirty)).toEqual([BigInt(PAGE)]);
  });

  it('marks everything and begins anew when what is new cannot be watched', async () => {
    const slot = slotOf(0, 8);
    const { machine, tracker } = await started(slot);
    const taken = slotOf(8, 8);
    const { tracker: other } = await started(taken);
    machine.slots = [slot, taken];
    const dirty = new DirtySet([pages(0, 16)]);
    await expect(tracker.changeRanges(machine.slots, dirty)).rejects.toMatchObject({ errno: 'EBUSY' });
    expect(dirty.count()).toBe(16);
    await other.stop();
    const next = new DirtySet([pages(0, 16)]);
    expect(await tracker.collect(next)).toHaveLength(1);
    expect(next.count()).toBe(16);
  });
});
