import { describe, expect, it } from 'vitest';
import { dispatchFeature, FeatureClient, LentMemory, localDoor } from '../../src/device/index.js';
import { DirtySet, LoggingSession, TrackerUnion } from '../../src/tracker/index.js';
import { encodeFeatureRequest, encodeReport, linux, VfioError, vfioUser } from '../../src/uapi/index.js';
import { dirtyPages, PAGES, range, writer } from './one-range.js';

/*
 * Traps that callers and drivers fell into (contract, "Behaviour of the real implementations"), as the host side meets them. Those of the log
 * and the bitmap are in test/log and test/bitmap.
 */

async function collected(session: LoggingSession): Promise<number[]> {
  const dirty = new DirtySet([range]);
  await session.collect(dirty);
  return dirtyPages(dirty);
}

describe('newer Linux kernels', () => {
  it('answer success and lose the log when the bitmap cannot be written: here that is EFAULT, and the log is kept', async () => {
    const { device, touch } = await writer();
    device.dma.log.start(4096n, [range]);
    await touch(9);
    const report = encodeReport({ ...range, pageSize: 4096n, bitmapPointer: 0xdead000n });
    const request = encodeFeatureRequest({ index: linux.report, get: true, data: report });
    await expect(dispatchFeature(device, linux, request, new LentMemory())).rejects.toMatchObject({ errno: 'EFAULT' });
    expect(device.dma.log.dirtyPages()).toBe(1);
  });

  it('say yes to PROBE and EOPNOTSUPP to REPORT: probing is no proof, and the first report says that everything is dirty', async () => {
    const { device } = await writer();
    const door = localDoor(device, linux);
    let reports = 0;
    const features = new FeatureClient({
      ...door,
      async request(message) {
        const isReport = (message[4]! | (message[5]! << 8)) === linux.report && (message[6]! & 4) === 0;
        if (isReport && ++reports === 1) throw new VfioError('EOPNOTSUPP', { operation: 'DMA_LOGGING_REPORT' });
        return door.request(message);
      },
    });
    expect(await features.hasLogging()).toBe(true);
    const session = new LoggingSession(features);
    await session.start([range]);
    const dirty = new DirtySet([range]);
    expect(await session.collect(dirty)).toMatchObject([{ error: { errno: 'EOPNOTSUPP' } }]);
    expect(dirty.count()).toBe(PAGES);
  });
});

describe('mlx5', () => {
  it('clamps the page size into what its hardware does: reports come at the page size that was asked of them all the same', async () => {
    const { handle, touch } = await writer({ log: { pageSizes: [65536n] } });
    const session = new LoggingSession(handle.features, { pageSize: 4096n });
    await session.start([range]);
    expect(session.pageSize).toBe(65536n);
    await touch(17);
    expect(await collected(session)).toEqual(Array.from({ length: 16 }, (_, index) => 16 + index));
  });
});

describe('pds', () => {
  it('reports the XOR of two bitmaps: a page written again between two reports is in both', async () => {
    const { handle, touch } = await writer();
    const session = new LoggingSession(handle.features);
    await session.start([range]);
    for (let round = 0; round < 4; round++) {
      await touch(5);
      await touch(5);
      expect(await collected(session)).toEqual([5]);
    }
  });
});

describe('libvfio-user', () => {
  it.each([
    ['ranges', [range]],
    ['everything', []],
  ])(
    'loses the log of a region that is unmapped: here its pages stay dirty until they are reported (%s)',
    async (_, ranges) => {
      const { handle, device, touch } = await writer({ profile: vfioUser });
      const session = new LoggingSession(handle.features);
      await session.start(ranges);
      await touch(11);
      device.dma.map.unmap(0n, range.length);
      expect(await collected(session)).toEqual([11]);
      expect(await collected(session)).toEqual([]);
    },
  );
});

describe('QEMU', () => {
  it('computes at most 3 ranges once: here a machine has as many as it has, and they may change', async () => {
    const { handle, touch } = await writer();
    const session = new LoggingSession(handle.features);
    const even = Array.from({ length: 32 }, (_, index) => ({ iova: BigInt(index) * 8192n, length: 4096n }));
    await session.start(even);
    await touch(2);
    await touch(3);
    expect(await collected(session)).toEqual([2]);
    await session.changeRanges([range], new DirtySet([range]));
    await touch(3);
    expect(await collected(session)).toEqual([3]);
  });

  it('stops all devices when one START fails: here too, so that none logs for nobody', async () => {
    const [good, bad] = [await writer(), await writer({ log: { maxBytes: 1 } })];
    const union = new TrackerUnion([good, bad].map(({ handle }) => new LoggingSession(handle.features)));
    await expect(union.start([range])).rejects.toMatchObject({ errno: 'ENOMEM' });
    expect(good.device.dma.log.active).toBe(false);
  });

  it('fails the migration when a REPORT fails: here everything counts as dirty, and logging goes on', async () => {
    const { handle, device, touch } = await writer();
    const session = new LoggingSession(handle.features);
    await session.start([range]);
    device.dma.log.stop();
    expect(await collected(session)).toHaveLength(PAGES);
    await touch(1);
    expect(await collected(session)).toEqual([1]);
  });
});

describe('Cloud Hypervisor', () => {
  it('freezes the list of ranges at START and loses later mappings: memory that is added is logged, and dirty at first', async () => {
    const { handle, touch } = await writer();
    const session = new LoggingSession(handle.features);
    await session.start([{ iova: 0n, length: 8n * 4096n }]);
    const dirty = new DirtySet([range]);
    await session.changeRanges([range], dirty);
    expect(dirty.count()).toBe(PAGES);
    await touch(40);
    expect(await collected(session)).toEqual([40]);
  });
});
