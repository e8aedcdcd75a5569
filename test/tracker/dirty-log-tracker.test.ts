import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { IommufdDevice } from '../../src/kernel/index.js';
import { type DirtyLogTracker, DirtySet, IommufdDirtyTracker, Type1DirtyTracker } from '../../src/tracker/index.js';
import { type IovaRange, VfioError } from '../../src/uapi/index.js';
import { NaiveContainer, NaiveIommufd, PAGE } from './naive-address-space.js';

const device: IommufdDevice = { iommufdId: 1, attachPageTable: async () => {} };

const kinds = {
  'type 1': () => {
    const space = new NaiveContainer();
    return { space, tracker: new Type1DirtyTracker(space) };
  },
  iommufd: () => {
    const space = new NaiveIommufd();
    return { space, tracker: new IommufdDirtyTracker(space, [device]) };
  },
};

/** Pages `[first, first + count)`. */
function pages(first: number, count: number): IovaRange {
  return { iova: BigInt(first) * PAGE, length: BigInt(count) * PAGE };
}

function dirtyPages(dirty: DirtySet): number[] {
  return [...dirty.runs()].flatMap(({ iova, length }) =>
    Array.from({ length: Number(length / PAGE) }, (_, index) => Number(iova / PAGE) + index),
  );
}

async function collect(tracker: DirtyLogTracker, ranges: readonly IovaRange[], pageSize = PAGE) {
  const dirty = new DirtySet(ranges, pageSize);
  const lost = await tracker.collect(dirty);
  return { dirty: dirtyPages(dirty), lost };
}

/** A page of the address space of the properties: 12 slots of 16 pages, which are mapped whole or not at all. */
const SLOTS = 12;
const SLOT_PAGES = 16;
const everything = pages(0, SLOTS * SLOT_PAGES);
const slot = fc.integer({ min: 0, max: SLOTS - 1 });
const step = fc.oneof(
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('toggle' as const), slot }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      page: fc.integer({ min: 0, max: SLOTS * SLOT_PAGES - 1 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('collect' as const),
      first: fc.integer({ min: 0, max: SLOTS * SLOT_PAGES - 1 }),
      count: fc.integer({ min: 1, max: SLOTS * SLOT_PAGES }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('fail' as const) }) },
);

describe.each(Object.entries(kinds))('a tracker of %s', (kind, make) => {
  it('gives every page once, however memory comes and goes, whatever part is asked for, and all of it after a loss', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async steps => {
        const { space, tracker } = make();
        await tracker.start([everything]);
        const mapped = new Set<number>();
        const written = new Set<number>();
        for (const action of steps) {
          switch (action.kind) {
            case 'toggle': {
              const region = pages(action.slot * SLOT_PAGES, SLOT_PAGES);
              if (mapped.delete(action.slot)) space.unmap(region.iova);
              else {
                mapped.add(action.slot);
                space.map(region);
              }
              break;
            }
            case 'write':
              if (space.write(BigInt(action.page))) written.add(action.page);
              break;
            case 'fail':
              space.failing = ['report'];
              break;
            case 'collect': {
              const count = Math.min(action.count, SLOTS * SLOT_PAGES - action.first);
              const asked = Array.from({ length: count }, (_, index) => action.first + index);
              const willFail =
                space.failing.length > 0 && asked.some(page => mapped.has(Math.floor(page / SLOT_PAGES)));
              const { dirty, lost } = await collect(tracker, [pages(action.first, count)]);
              expect(lost.length).toBe(willFail ? 1 : 0);
              if (willFail) for (let page = 0; page < SLOTS * SLOT_PAGES; page++) written.add(page);
              expect(dirty).toEqual(asked.filter(page => written.has(page)));
              for (const page of asked) written.delete(page);
            }
          }
        }
        await tracker.stop();
        expect(space.tracking).toBe(false);
      }),
      { numRuns: 300 },
    );
  });

  it('answers a set of larger or smaller pages than the log has', async () => {
    const { space, tracker } = make();
    await tracker.start([pages(0, 64)]);
    space.map(pages(0, 64));
    space.write(17n);
    expect((await collect(tracker, [pages(0, 64)], 16n * PAGE)).dirty).toEqual(
      Array.from({ length: 16 }, (_, index) => 16 + index),
    );
    space.write(17n);
    const small = new DirtySet([pages(0, 64)], 1024n);
    await tracker.collect(small);
    expect([...small.runs()]).toEqual([pages(17, 1)]);
    await tracker.stop();
  });

  it('keeps a page that a set covers only in part', async () => {
    const { space, tracker } = make();
    await tracker.start([pages(0, 4)]);
    space.map(pages(0, 4));
    space.write(2n);
    const half = { iova: 2n * PAGE, length: 2048n };
    for (let time = 0; time < 2; time++) {
      const dirty = new DirtySet([half], 2048n);
      await tracker.collect(dirty);
      expect([...dirty.runs()]).toEqual([half]);
    }
    expect((await collect(tracker, [pages(0, 4)])).dirty).toEqual([2]);
    expect((await collect(tracker, [pages(0, 4)])).dirty).toEqual([]);
    await tracker.stop();
  });

  it('begins clean after a stop', async () => {
    const { space, tracker } = make();
    space.map(pages(0, 8));
    await tracker.start([pages(0, 8)]);
    space.write(1n);
    space.unmap(0n);
    space.map(pages(0, 8));
    space.write(2n);
    await tracker.stop();
    await tracker.stop();
    await tracker.start([pages(0, 8)]);
    expect((await collect(tracker, [pages(0, 8)])).dirty).toEqual([]);
    await tracker.stop();
  });

  it('refuses a second start, a second tracker of the same log, and a collection before the start, which marks everything', async () => {
    const { space, tracker } = make();
    const dirty = new DirtySet([pages(0, 8)]);
    await expect(tracker.collect(dirty)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(dirty.count()).toBe(8);
    await tracker.start([pages(0, 8)]);
    await expect(tracker.start([pages(0, 8)])).rejects.toMatchObject({ errno: 'EINVAL' });
    const other =
      space instanceof NaiveContainer ? new Type1DirtyTracker(space) : new IommufdDirtyTracker(space, [device]);
    await expect(other.start([pages(0, 8)])).rejects.toMatchObject({ errno: 'EBUSY' });
    await other.stop();
    await expect(other.start([pages(0, 8)])).rejects.toMatchObject({ errno: 'EBUSY' });
    await tracker.stop();
    await other.start([pages(0, 8)]);
    await other.stop();
  });

  it('marks everything and says so when a log that was lost cannot be restarted, and can be started later', async () => {
    const { space, tracker } = make();
    space.map(pages(0, 8));
    await tracker.start([pages(0, 8)]);
    const dirty = new DirtySet([pages(0, 8)]);
    space.failing = ['report', 'start'];
    await expect(tracker.collect(dirty)).rejects.toMatchObject({ errno: 'EIO', operation: 'start' });
    expect(dirty.count()).toBe(8);
    await expect(tracker.collect(dirty)).rejects.toMatchObject({ errno: 'EINVAL' });
    await tracker.start([pages(0, 8)]);
    space.write(3n);
    expect((await collect(tracker, [pages(0, 8)])).dirty).toContain(3);
    await tracker.stop();
  });

  it('leaves nothing behind when it cannot start', async () => {
    for (const failing of kind === 'iommufd' ? ['info', 'attach', 'start'] : ['start']) {
      const { space, tracker } = make();
      space.failing = [failing];
      await expect(tracker.start([pages(0, 8)])).rejects.toMatchObject({ errno: 'EIO' });
      expect(space.tracking).toBe(false);
      if (space instanceof NaiveIommufd) expect(space.pageTables.size).toBe(0);
      await tracker.start([pages(0, 8)]);
      await tracker.stop();
    }
  });
});

describe('a tracker of type 1', () => {
  it('answers EOPNOTSUPP for a container that knows no dirty pages', async () => {
    const space = new NaiveContainer();
    space.maxBitmapBytes = undefined;
    await expect(new Type1DirtyTracker(space).start([pages(0, 8)])).rejects.toMatchObject({ errno: 'EOPNOTSUPP' });
  });

  it('counts a region as lost whose bitmap is larger than the kernel gives', async () => {
    const space = new NaiveContainer();
    space.maxBitmapBytes = 8n;
    const tracker = new Type1DirtyTracker(space);
    await tracker.start([pages(0, 65)]);
    space.map(pages(0, 64));
    expect((await collect(tracker, [pages(0, 65)])).lost).toEqual([]);
    space.unmap(0n);
    space.map(pages(0, 65));
    const { dirty, lost } = await collect(tracker, [pages(0, 65)]);
    expect(lost).toMatchObject([{ error: { errno: 'E2BIG' } }]);
    expect(dirty.length).toBe(65);
    await tracker.stop();
  });
});

describe('a tracker of iommufd', () => {
  it('answers EOPNOTSUPP when the IOMMU behind one device cannot, and detaches the others', async () => {
    const space = new NaiveIommufd();
    const tracker = new IommufdDirtyTracker(space, [device, { ...device, iommufdId: 2 }]);
    const hasDirtyTracking = space.hasDirtyTracking.bind(space);
    let asked = 0;
    space.hasDirtyTracking = async () => (await hasDirtyTracking()) && ++asked < 2;
    await expect(tracker.start([pages(0, 8)])).rejects.toMatchObject({ errno: 'EOPNOTSUPP' });
    expect(space.pageTables.size).toBe(0);
  });

  it('says that a software device has no IOMMU, where the kernel answers ENOENT', async () => {
    const space = new NaiveIommufd();
    space.hasDirtyTracking = async () => {
      throw new VfioError('ENOENT', { operation: 'GET_HW_INFO' });
    };
    const starting = new IommufdDirtyTracker(space, [device]).start([pages(0, 8)]);
    await expect(starting).rejects.toMatchObject({
      errno: 'EOPNOTSUPP',
      message: expect.stringContaining('software device'),
    });
  });
});
