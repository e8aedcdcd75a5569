import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FeatureClient, type FeatureDoor, localDoor } from '../../src/device/index.js';
import { DirtySet, LoggingSession, MarkedTracker, TrackerUnion } from '../../src/tracker/index.js';
import { linux, type Profile, profiles, rfc, VfioError, vfioUser } from '../../src/uapi/index.js';
import { dirtyPages, PAGES, range, writer } from './one-range.js';
import { type WriterDevice, writerWithMemory } from './writer-device.js';

/** A door on which requests fail when `fails` says so, before or after the device has seen them. */
function faultyDoor(device: WriterDevice, profile: Profile, fails: () => 'before' | 'after' | false): FeatureDoor {
  const door = localDoor(device, profile);
  return {
    profile,
    maxReply: door.maxReply,
    maxRequest: door.maxRequest,
    lend: bytes => door.lend!(bytes),
    take: address => door.take!(address),
    async request(message) {
      const fault = fails();
      if (fault === 'before') throw new VfioError('EIO', { operation: 'test' });
      const reply = await door.request(message);
      if (fault === 'after') throw new VfioError('EIO', { operation: 'test' });
      return reply;
    },
  };
}

describe.each(Object.values(profiles))('LoggingSession in the $name profile', profile => {
  it('reports what was written since the report before, once', async () => {
    const { handle, touch } = await writer({ profile });
    const session = new LoggingSession(handle.features);
    await session.start([range]);
    await touch(3);
    await touch(60);
    const dirty = new DirtySet([range]);
    expect(await session.collect(dirty)).toEqual([]);
    expect(dirtyPages(dirty)).toEqual([3, 60]);
    const again = new DirtySet([range]);
    await session.collect(again);
    expect(again.count()).toBe(0);
    await session.stop();
    await session.stop();
  });

  it('never clears what was in the set', async () => {
    const { handle, touch } = await writer({ profile });
    const session = new LoggingSession(handle.features);
    await session.start([range]);
    await touch(3);
    const dirty = new DirtySet([range]);
    dirty.mark({ iova: 7n * 4096n, length: 1n });
    await session.collect(dirty);
    expect(dirtyPages(dirty)).toEqual([3, 7]);
  });

  it('marks everything, restarts and says so when a report fails', async () => {
    const { device, touch } = await writer({ profile });
    let fault: 'before' | 'after' | false = false;
    const session = new LoggingSession(new FeatureClient(faultyDoor(device, profile, () => fault)), { name: 'faulty' });
    await session.start([range]);
    await touch(3);
    const collecting = new DirtySet([range]);
    fault = 'after';
    const collected = session.collect(collecting);
    fault = 'after';
    // Only the report fails: STOP and START that follow go through.
    queueMicrotask(() => {
      fault = false;
    });
    const lost = await collected;
    expect(lost).toMatchObject([{ tracker: 'faulty', error: { errno: 'EIO' } }]);
    expect(collecting.count()).toBe(PAGES);
    expect(device.dma.log.active).toBe(true);
    await touch(9);
    const next = new DirtySet([range]);
    expect(await session.collect(next)).toEqual([]);
    expect(dirtyPages(next)).toEqual([9]);
  });

  it('stops a log that it could not restart, as soon as the device can be reached', async () => {
    const { device } = await writer({ profile });
    let isBroken = false;
    const door = faultyDoor(device, profile, () => isBroken && 'before');
    const session = new LoggingSession(new FeatureClient(door));
    await session.start([range]);
    isBroken = true;
    await expect(session.collect(new DirtySet([range]))).rejects.toThrow('could not be restarted');
    expect(device.dma.log.active).toBe(true);
    isBroken = false;
    await session.stop();
    expect(device.dma.log.active).toBe(false);
  });

  it('starts anew a log that it could not restart, at whatever attempt the device can be reached', async () => {
    const { device } = await writer({ profile });
    let isBroken = false;
    const door = faultyDoor(device, profile, () => isBroken && 'before');
    const session = new LoggingSession(new FeatureClient(door));
    await session.start([range]);
    isBroken = true;
    await expect(session.collect(new DirtySet([range]))).rejects.toThrow('could not be restarted');
    await expect(session.start([range])).rejects.toMatchObject({ errno: 'EIO' });
    isBroken = false;
    await session.start([range]);
    expect(session.started).toBe(true);
    await session.stop();
  });

  it('throws, with everything marked, when logging cannot be restarted', async () => {
    const { device } = await writer({ profile });
    let broken = false;
    const door = faultyDoor(device, profile, () => (broken ? 'before' : false));
    const session = new LoggingSession(new FeatureClient(door), { name: 'broken' });
    await session.start([range]);
    broken = true;
    const dirty = new DirtySet([range]);
    await expect(session.collect(dirty)).rejects.toThrow(/broken lost its log .* could not be restarted/);
    expect(dirty.count()).toBe(PAGES);
    expect(session.started).toBe(false);
    const later = new DirtySet([range]);
    await expect(session.collect(later)).rejects.toThrow('is not started');
    expect(later.count()).toBe(PAGES);
    broken = false;
    await session.start([range]);
  });

  it('takes over from somebody who died while logging, when it is told to', async () => {
    const { handle, device, touch } = await writer({ profile });
    device.dma.log.start(4096n, [range]);
    const session = new LoggingSession(handle.features, { takeOver: true });
    await session.start([range]);
    await touch(1);
    const dirty = new DirtySet([range]);
    await session.collect(dirty);
    expect(dirtyPages(dirty)).toEqual([1]);
  });

  it('leaves a log that somebody else reads alone', async () => {
    const { handle, device, touch } = await writer({ profile });
    device.dma.log.start(4096n, [range]);
    await touch(2);
    await expect(new LoggingSession(handle.features).start([range])).rejects.toThrow('EINVAL');
    expect(device.dma.log.dirtyPages()).toBe(1);
    const session = new LoggingSession(handle.features, { takeOver: true });
    await session.start([range]);
    const second = new LoggingSession(handle.features, { takeOver: true });
    await expect(second.start([range])).rejects.toThrow('EBUSY');
    await second.stop();
    await touch(3);
    const dirty = new DirtySet([range]);
    await session.collect(dirty);
    expect(dirtyPages(dirty)).toEqual([3]);
    await session.stop();
    await second.start([range]);
  });
});

describe('LoggingSession', () => {
  it('loses no page, whatever request fails and whenever', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(rfc, linux, vfioUser),
        fc.array(
          fc.oneof(
            { weight: 3, arbitrary: fc.record({ write: fc.nat(PAGES - 1) }) },
            { weight: 2, arbitrary: fc.constant({ collect: true }) },
          ),
          { minLength: 5, maxLength: 40 },
        ),
        fc.array(fc.constantFrom(false as const, false as const, false as const, 'before' as const, 'after' as const)),
        async (profile, steps, faults) => {
          const side = await writerWithMemory(PAGES * 4096, { profile });
          const queue = [...faults];
          const session = new LoggingSession(
            new FeatureClient(faultyDoor(side.device, profile, () => queue.shift() ?? false)),
          );
          const owed = new Set<number>();
          try {
            await session.start([range]);
            for (const step of steps) {
              if ('write' in step) {
                await side.touch(step.write);
                owed.add(step.write);
                continue;
              }
              const dirty = new DirtySet([range]);
              try {
                await session.collect(dirty);
              } finally {
                const reported = new Set(dirtyPages(dirty));
                for (const page of owed) expect(reported).toContain(page);
                owed.clear();
              }
            }
          } catch (error) {
            // The session gave up: it must have said so as VfioError, after marking (checked above).
            expect(error).toBeInstanceOf(VfioError);
          } finally {
            await side.close();
          }
        },
      ),
      { numRuns: 400 },
    );
  });

  it('gives reports one after another until it is told to end', async () => {
    const { handle, touch } = await writer();
    const session = new LoggingSession(handle.features);
    await session.start([range]);
    const end = new AbortController();
    const seen: number[] = [];
    await touch(5);
    for await (const report of session.reports({ intervalMs: 1, signal: end.signal })) {
      seen.push(report.dirtyPages);
      if (seen.length === 3) end.abort();
      else await touch(seen.length);
    }
    expect(seen).toEqual([1, 1, 1]);
    expect(session.started).toBe(true);
  });

  it('restarts with new ranges, and counts as dirty what is new and what the old log held', async () => {
    const { handle, touch } = await writer();
    const session = new LoggingSession(handle.features);
    const half = { iova: 0n, length: range.length / 2n };
    await session.start([half]);
    await touch(2);
    const dirty = new DirtySet([range]);
    await session.changeRanges([range], dirty);
    expect(dirty.count()).toBe(PAGES);
    await touch(50);
    const next = new DirtySet([range]);
    await session.collect(next);
    expect(dirtyPages(next)).toEqual([50]);
  });

  it('merges ranges to what the profile takes, and logs no less', async () => {
    const { handle, touch } = await writer({ profile: linux });
    const session = new LoggingSession(handle.features);
    const scattered = Array.from({ length: 300 }, (_, index) => ({ iova: BigInt(index) * 8192n, length: 4096n }));
    await session.start(scattered);
    await touch(4);
    const dirty = new DirtySet([range]);
    await session.collect(dirty);
    expect(dirtyPages(dirty)).toContain(4);
  });

  it('takes a success without a bitmap for a lost log, not for a clean one', async () => {
    const { device, touch } = await writer({ profile: vfioUser });
    let truncates = false;
    const door = localDoor(device, vfioUser);
    const session = new LoggingSession(
      new FeatureClient({
        profile: vfioUser,
        maxReply: door.maxReply,
        maxRequest: door.maxRequest,
        async request(message) {
          const reply = await door.request(message);
          return truncates && reply.length > 32 ? reply.subarray(0, 32) : reply;
        },
      }),
    );
    await session.start([range]);
    await touch(3);
    truncates = true;
    const dirty = new DirtySet([range]);
    const lost = await session.collect(dirty);
    expect(lost[0]!.error.errno).toBe('EPROTO');
    expect(dirty.count()).toBe(PAGES);
  });
});

describe('LoggingSession on a device with large log pages', () => {
  it('comes clean where two ranges of the machine share a log page', async () => {
    const { handle, device, touch } = await writer({ log: { pageSizes: [32n * 4096n] } });
    const session = new LoggingSession(handle.features);
    const parts = [
      { iova: 0n, length: 10n * 4096n },
      { iova: 16n * 4096n, length: 48n * 4096n },
    ];
    await session.start(parts);
    await touch(3);
    const dirty = new DirtySet(parts);
    await session.collect(dirty);
    expect(dirtyPages(dirty)).toEqual([...Array(10).keys(), ...Array.from({ length: 16 }, (_, index) => 16 + index)]);
    expect(device.dma.log.dirtyPages()).toBe(0);
    await touch(40);
    const next = new DirtySet(parts);
    await session.collect(next);
    expect(dirtyPages(next)).toEqual(Array.from({ length: 32 }, (_, index) => 32 + index));
    const last = new DirtySet(parts);
    await session.collect(last);
    expect(last.count()).toBe(0);
  });
});

describe('LoggingSession of everything', () => {
  it('marks everything when the log is lost', async () => {
    const { device, touch } = await writer({ profile: vfioUser });
    const session = new LoggingSession(new FeatureClient(localDoor(device, vfioUser)));
    await session.start([]);
    await touch(3);
    const dirty = new DirtySet([range]);
    await session.collect(dirty);
    expect(dirtyPages(dirty)).toEqual([3]);
    await touch(4);
    device.dma.log.stop();
    const next = new DirtySet([range]);
    expect(await session.collect(next)).toHaveLength(1);
    expect(next.count()).toBe(PAGES);
  });
});

describe('TrackerUnion', () => {
  it('is dirty where any of its trackers is', async () => {
    const [one, two] = [await writer(), await writer({ profile: vfioUser })];
    const union = new TrackerUnion([one, two].map(({ handle }) => new LoggingSession(handle.features)));
    await union.start([range]);
    await one.touch(1);
    await two.touch(2);
    const dirty = new DirtySet([range]);
    await union.collect(dirty);
    expect(dirtyPages(dirty)).toEqual([1, 2]);
    await union.stop();
    expect(one.device.dma.log.active || two.device.dma.log.active).toBe(false);
  });

  it('says how many pages each of its trackers found at the last collect', async () => {
    const other = { iova: range.iova + range.length, length: 0x8000n };
    const marked = ['one', 'two', 'three'].map(name => new MarkedTracker([range, other], { name }));
    const union = new TrackerUnion(marked);
    await union.start([range, other]);
    expect(union.found).toEqual([]);
    const pages = fc.array(fc.nat(PAGES + 7), { maxLength: 10 });
    await fc.assert(
      fc.asyncProperty(fc.tuple(pages, pages, pages), pages, fc.boolean(), async (writes, before, both) => {
        const ranges = both ? [range, other] : [range];
        const visible = (page: number) => both || page < PAGES;
        for (const [index, touched] of writes.entries()) {
          for (const page of touched) marked[index]!.mark(range.iova + BigInt(page) * 4096n, 1);
        }
        const dirty = new DirtySet(ranges);
        for (const page of before) dirty.mark({ iova: range.iova + BigInt(page) * 4096n, length: 1n });
        expect(await union.collect(dirty)).toEqual([]);
        const found = writes.map(touched => new Set(touched.filter(visible)).size);
        expect(union.found).toEqual(['one', 'two', 'three'].map((tracker, at) => ({ tracker, pages: found[at] })));
        expect(dirty.count()).toBe(new Set([...writes.flat(), ...before].filter(visible)).size);
        // What was not asked for is left for the next time.
        await union.collect(new DirtySet([range, other]));
      }),
    );
    await union.stop();
  });

  it('starts all or none', async () => {
    const [one, two] = [await writer(), await writer()];
    const failing = new FeatureClient(faultyDoor(two.device, linux, () => 'before'));
    const union = new TrackerUnion([new LoggingSession(one.handle.features), new LoggingSession(failing)]);
    await expect(union.start([range])).rejects.toThrow('EIO');
    expect(one.device.dma.log.active).toBe(false);
  });

  it('collects from the others when one fails for good', async () => {
    const [one, two] = [await writer(), await writer()];
    let broken = false;
    const failing = new FeatureClient(faultyDoor(two.device, linux, () => (broken ? 'before' : false)));
    const union = new TrackerUnion([new LoggingSession(one.handle.features), new LoggingSession(failing)]);
    await union.start([range]);
    await one.touch(1);
    broken = true;
    const dirty = new DirtySet([range]);
    await expect(union.collect(dirty)).rejects.toThrow('could not be restarted');
    expect(dirty.count()).toBe(PAGES);
    expect(one.device.dma.log.dirtyPages()).toBe(0);
  });
});
