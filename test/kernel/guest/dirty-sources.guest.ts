import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { IommufdSpace, KernelDevice, Type1Container } from '../../../src/kernel/index.js';
import { GuestMemory } from '../../../src/memory/index.js';

import { DirtySet, IommufdDirtyTracker, type Tracker, Type1DirtyTracker } from '../../../src/tracker/index.js';
import { PciRegion, viewOf } from '../../../src/uapi/index.js';
import { openDeviceFiles } from './device-files.js';
import { PCI, WITHOUT_CDEV, withVfioPci } from './devices.js';
import { dmaWrite } from './vdlog.js';

const PAGE = 4096n;
const rights = { readable: true, writable: true };
/** 64 pages, and 5 behind a hole of 3, which so begin in the middle of a bitmap's word. */
const BIG = { iova: 0x10_0000n, length: 64n * PAGE };
const SMALL = { iova: BIG.iova + 67n * PAGE, length: 5n * PAGE };
const ALL = { iova: BIG.iova, length: 72n * PAGE };

/** Opens a device with memory behind both regions, and looks for what it leaves open. */
async function withDevice(
  target: string,
  by: 'container' | 'iommufd',
  use: (device: KernelDevice, memory: GuestMemory) => Promise<void>,
): Promise<void> {
  const before = openDeviceFiles();
  {
    using memory = GuestMemory.create(BIG.length + SMALL.length);
    const device = await KernelDevice.open(target, { by });
    try {
      await device.mapMemory({ ...BIG, ...rights }, memory);
      await device.mapMemory({ ...SMALL, ...rights }, memory, BIG.length);
      await use(device, memory);
    } finally {
      await device.close();
    }
  }
  assert.deepEqual(openDeviceFiles(), before);
}

const byGroup = (use: (device: KernelDevice, container: Type1Container, memory: GuestMemory) => Promise<void>) =>
  withDevice('vdlog.0', 'container', (device, memory) => {
    assert.ok(device.space instanceof Type1Container);
    return use(device, device.space, memory);
  });

const vdlogWrite = (device: KernelDevice) => (iova: bigint, length: bigint, fill: number) =>
  dmaWrite(device, { iova, length, fill });

/** Dirty pages as [first, count], counted from BIG's first. */
async function collect(tracker: Tracker): Promise<[number, number][]> {
  const dirty = new DirtySet([ALL]);
  assert.deepEqual(await tracker.collect(dirty), []);
  return [...dirty.runs()].map(({ iova, length }) => [Number((iova - BIG.iova) / PAGE), Number(length / PAGE)]);
}

/** The words of a report of ALL, but for those that are 0 at its end. */
async function rawReport(container: Type1Container, range = ALL, pageSize = PAGE): Promise<number[]> {
  const bitmap = new Uint32Array(4);
  await container.reportDirty(range, pageSize, bitmap);
  return [...bitmap.subarray(0, 3)];
}

describe('type 1 dirty pages of a software device', () => {
  it('are those that it wrote through VFIO, once, also where memory was unmapped or came later', () =>
    byGroup(async (device, container) => {
      const write = vdlogWrite(device);
      const tracker = new Type1DirtyTracker(container);
      await write(BIG.iova, 1n, 1);
      await tracker.start([ALL]);
      assert.equal(tracker.pageSize, PAGE);
      assert.deepEqual(await collect(tracker), []);

      await write(BIG.iova + 3n * PAGE, 1n, 1);
      await write(BIG.iova + 11n * PAGE - 1n, 2n, 1);
      await write(SMALL.iova + SMALL.length - 1n, 1n, 1);
      assert.deepEqual(await collect(tracker), [
        [3, 1],
        [10, 2],
        [71, 1],
      ]);
      assert.deepEqual(await collect(tracker), []);

      await write(SMALL.iova + PAGE, 1n, 1);
      await device.unmapMemory(SMALL.iova, SMALL.length);
      using later = GuestMemory.create(SMALL.length);
      await device.mapMemory({ ...SMALL, ...rights }, later);
      await write(SMALL.iova + 3n * PAGE, 1n, 1);
      assert.deepEqual(await collect(tracker), [
        [68, 1],
        [70, 1],
      ]);
      await tracker.stop();
      await device.unmapMemory(SMALL.iova, SMALL.length);
    }));

  it('are given for whole regions, in pages of 4096 bytes, and while they are tracked', () =>
    byGroup(async (device, container) => {
      const refused = (work: Promise<unknown>) => assert.rejects(work, { errno: 'EINVAL' });
      await refused(rawReport(container));
      await container.stopDirtyTracking();
      await container.startDirtyTracking();
      await container.startDirtyTracking();
      await vdlogWrite(device)(BIG.iova + 40n * PAGE, 1n, 1);
      await refused(rawReport(container, { ...BIG, length: BIG.length / 2n }));
      await refused(rawReport(container, { iova: BIG.iova + PAGE, length: BIG.length - PAGE }));
      await refused(rawReport(container, { ...BIG, iova: BIG.iova + 2048n }));
      await refused(rawReport(container, BIG, 8192n));
      assert.deepEqual(await rawReport(container, { iova: 0x900_0000n, length: 64n * PAGE }), [0, 0, 0]);
      assert.deepEqual(await rawReport(container), [0, 1 << 8, 0]);
      await container.stopDirtyTracking();
      await container.stopDirtyTracking();
      await refused(container.dmaUnmapDirty(SMALL, PAGE, new Uint32Array(2)));
      assert.equal(container.regions.length, 2);
    }));

  it('are lost with the tracking, which the tracker notices, says, and makes good', () =>
    byGroup(async (device, container) => {
      const write = vdlogWrite(device);
      const tracker = new Type1DirtyTracker(container);
      await tracker.start([BIG]);
      await write(BIG.iova, 1n, 1);
      await container.stopDirtyTracking();
      const dirty = new DirtySet([BIG]);
      assert.deepEqual(
        (await tracker.collect(dirty)).map(({ error }) => error.errno),
        ['EINVAL'],
      );
      assert.equal(dirty.count(), 64);
      await write(BIG.iova + PAGE, 1n, 1);
      assert.deepEqual(await collect(tracker), [[1, 1]]);
      await tracker.stop();
    }));
});

describe('type 1 dirty pages of a PCI device', () => {
  const withEdu = (use: (device: KernelDevice, container: Type1Container, memory: GuestMemory) => Promise<void>) =>
    withVfioPci(PCI.alone, () =>
      withDevice(PCI.alone, 'container', (device, memory) => {
        assert.ok(device.space instanceof Type1Container);
        return use(device, device.space, memory);
      }),
    );

  it('are all that is mapped, each time, and so hold the page that it wrote', () =>
    withEdu(async (device, container, memory) => {
      const tracker = new Type1DirtyTracker(container);
      await tracker.start([ALL]);
      memory.write(0, new Uint8Array(8192).fill(0xff));
      await eduWrites(device, BIG.iova + PAGE);
      const bytes = new Uint8Array(2);
      memory.read(4095, bytes);
      assert.deepEqual([...bytes], [0xff, 0]);
      const everything = [
        [0, 64],
        [67, 5],
      ];
      for (let time = 0; time < 3; time++) assert.deepEqual(await collect(tracker), everything);
      await device.unmapMemory(SMALL.iova, SMALL.length);
      assert.deepEqual(await collect(tracker), everything);
      assert.deepEqual(await collect(tracker), [[0, 64]]);
      await tracker.stop();
    }));

  it('grow behind the end of a region with each report that has it in the middle of a word', () =>
    withEdu(async (_device, container) => {
      await container.startDirtyTracking();
      assert.deepEqual(await rawReport(container), [0xffffffff, 0xffffffff, 0xf8]);
      assert.deepEqual(await rawReport(container), [0xffffffff, 0xffffffff, 0x7f8]);
      await container.stopDirtyTracking();
    }));
});

describe('the dirty tracking of iommufd', { skip: WITHOUT_CDEV }, () => {
  it('has no IOMMU to ask for a software device, which goes on as before', () =>
    withDevice('vdlog.0', 'iommufd', async (device, memory) => {
      assert.ok(device.space instanceof IommufdSpace);
      await assert.rejects(device.space.hasDirtyTracking(device), { errno: 'ENOENT' });
      await assert.rejects(device.space.attachTracked(device), { errno: 'ENOENT' });
      const tracker = new IommufdDirtyTracker(device.space, [device]);
      await assert.rejects(tracker.start([ALL]), { errno: 'EOPNOTSUPP', message: /software device/ });
      await tracker.stop();
      await vdlogWrite(device)(BIG.iova, 1n, 7);
      assert.equal(memory.view(0, 1)[0], 7);
    }));

  it('is refused where the IOMMU cannot, and leaves the device attached as it was', () =>
    withVfioPci(PCI.alone, () =>
      withDevice(PCI.alone, 'iommufd', async (device, memory) => {
        const { space } = device;
        assert.ok(space instanceof IommufdSpace);
        assert.equal(await space.hasDirtyTracking(device), false);
        await assert.rejects(space.attachTracked(device), { errno: 'EOPNOTSUPP' });
        const tracker = new IommufdDirtyTracker(space, [device]);
        await assert.rejects(tracker.start([ALL]), { errno: 'EOPNOTSUPP', message: /does not note/ });
        await assert.rejects(tracker.collect(new DirtySet([BIG])), { errno: 'EINVAL' });

        // Numbers are given in order: the page table that attaching made follows the device.
        const pageTable = device.iommufdId! + 1;
        for (const [id, errno] of [
          [pageTable, 'EOPNOTSUPP'],
          [99, 'ENOENT'],
        ] as const) {
          const bitmap = new Uint32Array(4);
          await assert.rejects(space.startDirtyTracking(id), { errno });
          await assert.rejects(space.stopDirtyTracking(id), { errno });
          await assert.rejects(space.reportDirty(id, BIG, PAGE, bitmap), { errno });
          await assert.rejects(space.peekDirty(id, BIG, PAGE, bitmap), { errno });
        }

        memory.write(0, Uint8Array.of(0xff));
        await eduWrites(device, BIG.iova);
        assert.equal(memory.view(0, 1)[0], 0);
      }),
    ));

  it('gives the page table of a device back that was closed meanwhile', async () => {
    const space = IommufdSpace.create();
    const device = await KernelDevice.open('vdlog.0', { space });
    await device.close();
    // No page table here can be had that notes writes: that the kernel knows no such number says that it was asked.
    await assert.rejects(space.detachTracked(device, 99), { errno: 'ENOENT', operation: 'DESTROY' });
    await space.close();
  });

  it('is refused for a device that was opened by its group', () =>
    withDevice('vdlog.0', 'container', async device => {
      const space = IommufdSpace.create();
      const tracker = new IommufdDirtyTracker(space, [device]);
      await assert.rejects(tracker.start([ALL]), { errno: 'EINVAL', message: /by its group/ });
      await assert.rejects(device.attachPageTable(1), { errno: 'ENOTTY' });
      await space.close();
    }));
});

/** Has edu write 16 zeros by DMA: QEMU's docs/specs/edu.rst. */
async function eduWrites(device: KernelDevice, iova: bigint): Promise<void> {
  const register = (offset: number, value: bigint) => {
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, Number(value), true);
    return device.regionWrite(0, offset, bytes);
  };
  const memoryAndBusMaster = Uint8Array.of(6, 0);
  await device.regionWrite(PciRegion.CONFIG, 4, memoryAndBusMaster);
  await register(0x80, 0x4_0000n);
  await register(0x88, iova);
  await register(0x90, 16n);
  await register(0x98, 3n);
  while (((await device.regionRead(0, 0x98, 4))[0]! & 1) !== 0) await delay(10);
}
