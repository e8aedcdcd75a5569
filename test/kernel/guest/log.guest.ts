import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KernelDevice } from '../../../src/kernel/index.js';
import { GuestMemory } from '../../../src/memory/index.js';
import { DirtySet, LoggingSession } from '../../../src/tracker/index.js';
import { encodeFeatureRequest, encodeReport, type IovaRange, linux, VfioError } from '../../../src/uapi/index.js';
import { lockedBytes, withMemoryLockLimit } from '../../native/memory-lock-limit.js';
import { cdevFile, groupFile, VDLOG } from './devices.js';
import { NaivePages, pagesOf } from './naive-pages.js';
import { openFiles } from './open-files.js';
import { randomNumbers } from './random-numbers.js';
import { dmaWrite, logState } from './vdlog.js';
import { WAYS } from './ways.js';

/*
 * The client on a device whose log works: every bit comes from the kernel's own bitmap.
 */

const KIB = 1024n;
const MIB = 1024n * KIB;
const GIB = 1024n * MIB;

for (const by of WAYS) {
  describe(`the log of vdlog, by ${by}`, () => {
    const opened = () => KernelDevice.open('vdlog.0', { by });

    it('is found by its name, its device file, and its folder', async () => {
      const file = by === 'iommufd' ? cdevFile(VDLOG[0]) : groupFile(VDLOG[0]);
      for (const target of ['vdlog.0', file, VDLOG[0]]) {
        await using device = await KernelDevice.open(target, { by });
        assert.deepEqual(await device.info(), { flags: 4, regions: 1, irqs: 0 });
        assert.equal(device.site.name, 'vdlog.0');
        assert.ok(await device.features.hasLogging());
      }
    });

    for (const [hint, pageSize] of [
      [4n * KIB, 4n * KIB],
      [4n * KIB, 64n * KIB],
      [64n * KIB, 4n * KIB],
    ] as const) {
      it(`reports exactly what was written, logged by ${hint} bytes and reported by ${pageSize}`, async () => {
        await using device = await opened();
        const ranges: IovaRange[] = [
          { iova: MIB, length: 2n * MIB },
          { iova: 16n * MIB, length: MIB },
          { iova: 4n * GIB - MIB, length: 2n * MIB },
        ];
        const session = new LoggingSession(device.features, { pageSize: hint });
        await session.start(ranges);
        const naive = new NaivePages(ranges, session.pageSize);
        const random = randomNumbers(1);
        for (let round = 0; round < 12; round++) {
          for (let command = 0; command < 100; command++) {
            const near = ranges[random(ranges.length)]!;
            const iova = near.iova - 64n * KIB + BigInt(random(Number(near.length + 128n * KIB)));
            const length = BigInt(1 + random(random(8) === 0 ? 300_000 : 9_000));
            await dmaWrite(device, { iova, length });
            naive.write({ iova, length });
          }
          const dirty = new DirtySet(ranges, pageSize);
          assert.deepEqual(await session.collect(dirty), []);
          assert.deepEqual(pagesOf(dirty), naive.take(pageSize));
        }
        await session.stop();
      });
    }

    it('reports 64 GiB in one go, and again nothing', async () => {
      await using device = await opened();
      const range = { iova: 8n * GIB, length: 64n * GIB };
      const session = new LoggingSession(device.features);
      await session.start([range]);
      const written = [0n, 1n, 12_345n, 8n * MIB, 16n * MIB - 1n].map(page => range.iova + page * 4n * KIB);
      for (const iova of written) await dmaWrite(device, { iova, length: 1n });
      const dirty = new DirtySet([range]);
      await session.collect(dirty);
      assert.deepEqual(pagesOf(dirty), written);
      dirty.clear();
      await session.collect(dirty);
      assert.equal(dirty.count(), 0);
      await session.stop();
    });

    it('has the bytes of a DMA in memory, and its pages in the report', async () => {
      await using device = await opened();
      using memory = GuestMemory.create(MIB);
      const region = { iova: 256n * MIB, length: MIB };
      await device.dmaMap({ ...region, readable: true, writable: true }, { fd: memory.fd });
      const session = new LoggingSession(device.features);
      await session.start([region]);
      await dmaWrite(device, { iova: region.iova + 0x5ff0n, length: 0x20n, fill: 0xab });
      const bytes = memory.view(0x5fef, 0x22);
      assert.equal(bytes[0], 0);
      assert.ok(bytes.subarray(1, 0x21).every(byte => byte === 0xab));
      assert.equal(bytes[0x21], 0);
      const dirty = new DirtySet([region]);
      await session.collect(dirty);
      assert.deepEqual(pagesOf(dirty), [region.iova + 0x5000n, region.iova + 0x6000n]);
      await session.stop();
      await device.dmaUnmap(region.iova, region.length);
      const gone = by === 'container' ? 'EINVAL' : 'ENOENT';
      await assert.rejects(dmaWrite(device, { iova: region.iova, length: 1n, fill: 1 }), { errno: gone });
    });

    it('loses no bit, whatever bitmap the client is handed', async () => {
      await using device = await opened();
      const range = { iova: MIB, length: 256n * KIB };
      await device.features.startLogging(4n * KIB, [range]);
      const bitmaps: Record<string, Uint32Array> = {
        'on the heap': new Uint32Array(2),
        'at a border of words': new Uint32Array(9).subarray(3, 5),
        'shared with other threads': new Uint32Array(new SharedArrayBuffer(8)),
        'in memory of WebAssembly': new Uint32Array(new WebAssembly.Memory({ initial: 1 }).buffer, 65_528, 2),
      };
      for (const [kind, bitmap] of Object.entries(bitmaps)) {
        bitmap[0] = 0x10000000;
        await dmaWrite(device, { iova: range.iova + 5n * 4096n, length: 1n });
        await device.features.report({ ...range, pageSize: 4n * KIB }, bitmap);
        assert.deepEqual([...bitmap], [0x10000020, 0], kind);
      }
    });

    it('fails, and does not lose the log, where a bitmap cannot be written', async () => {
      await using device = await opened();
      const range = { iova: MIB, length: 256n * KIB };
      await device.features.startLogging(4n * KIB, [range]);
      await dmaWrite(device, { iova: range.iova, length: 1n });
      // NULL, no memory, memory that this process may only read: none of it is lent, and none reaches the kernel.
      for (const bitmapPointer of [0n, 4096n, 1n << 63n, 0xffff888000000000n]) {
        const data = encodeReport({ ...range, pageSize: 4n * KIB, bitmapPointer });
        const request = encodeFeatureRequest({ index: linux.report, get: true, data, argsz: 40 });
        await assert.rejects(device.door.request(request), { errno: 'EFAULT' });
      }
      assert.equal((await logState(device)).dirty, 1n);
      const bitmap = new Uint32Array(2);
      await device.features.report({ ...range, pageSize: 4n * KIB }, bitmap);
      assert.equal(bitmap[0], 1);
    });

    it('keeps the log where the bitmap is gone before the report, or no memory may be locked for it', async () => {
      await using device = await opened();
      const range = { iova: MIB, length: 256n * KIB };
      await device.features.startLogging(4n * KIB, [range]);
      await dmaWrite(device, { iova: range.iova + 4096n, length: 1n });
      const gone = new Uint32Array(2);
      structuredClone(gone, { transfer: [gone.buffer] });
      await assert.rejects(device.features.report({ ...range, pageSize: 4n * KIB }, gone), { errno: 'EINVAL' });
      const bitmap = new Uint32Array(2);
      const refused = withMemoryLockLimit(lockedBytes(), () =>
        device.features.report({ ...range, pageSize: 4n * KIB }, bitmap),
      );
      await assert.rejects(refused, { message: /raise it \(ulimit -l/ });
      assert.equal((await logState(device)).dirty, 1n);
      await device.features.report({ ...range, pageSize: 4n * KIB }, bitmap);
      assert.deepEqual([...bitmap], [2, 0]);
    });

    it('reports exactly what was written where one page may be locked', async () => {
      await using device = await opened();
      const range = { iova: 0n, length: GIB };
      await device.features.startLogging(4n * KIB, [range]);
      const pages = [0, 32_767, 32_768, 200_000, 262_143];
      for (const page of pages) await dmaWrite(device, { iova: BigInt(page) * 4n * KIB, length: 1n });
      const bitmap = new Uint32Array(2 ** 13);
      await withMemoryLockLimit(lockedBytes() + 4096, () =>
        device.features.report({ ...range, pageSize: 4n * KIB }, bitmap),
      );
      const expected = new Uint32Array(2 ** 13);
      for (const page of pages) expected[page >> 5]! |= 1 << (page & 31);
      assert.deepEqual(bitmap, expected);
    });

    it('says so when the bitmap is taken away while the kernel writes', async () => {
      await using device = await opened();
      const range = { iova: 0n, length: 64n * GIB };
      await device.features.startLogging(4n * KIB, [range]);
      await dmaWrite(device, { iova: 0n, length: 1n });
      const bitmap = new Uint32Array(2 ** 19);
      const reported = device.features.report({ ...range, pageSize: 4n * KIB }, bitmap);
      structuredClone(bitmap, { transfer: [bitmap.buffer] });
      await assert.rejects(reported, (error: VfioError) => error instanceof VfioError && error.errno === 'EFAULT');
    });

    it('is gone with the device that is closed in the middle of a report, and the next user begins clean', async () => {
      const range = { iova: 0n, length: 64n * GIB };
      const before = openFiles();
      const device = await opened();
      await device.features.startLogging(4n * KIB, [range]);
      await dmaWrite(device, { iova: 0n, length: 64n * MIB });
      const reported = device.features.report({ ...range, pageSize: 4n * KIB }, new Uint32Array(2 ** 19));
      const settled = reported.catch((error: unknown) => assert.ok(error instanceof VfioError));
      await device.close();
      await settled;
      assert.deepEqual(openFiles(), before);

      await using again = await opened();
      assert.deepEqual(await logState(again), { pageSize: 0n, ranges: 0n, dirty: 0n });
      await again.features.startLogging(4n * KIB, [range]);
      assert.equal((await logState(again)).dirty, 0n);
    });

    it('leaves as many descriptors open as there were', async () => {
      const before = openFiles();
      for (let round = 0; round < 3; round++) {
        const device = await opened();
        using memory = GuestMemory.create(64n * KIB);
        await device.dmaMap({ iova: 0n, length: 64n * KIB, readable: true, writable: true }, { fd: memory.fd });
        const session = new LoggingSession(device.features);
        await session.start([{ iova: 0n, length: 64n * KIB }]);
        await device.close();
      }
      assert.deepEqual(openFiles(), before);
    });
  });
}

describe('two devices of vdlog', () => {
  it('share an address space, and have a log each', async () => {
    await using first = await KernelDevice.open('vdlog.0', { by: WAYS.at(-1)! });
    await using second = await KernelDevice.open('vdlog.1', { space: first.space });
    using memory = GuestMemory.create(64n * KIB);
    const range = { iova: MIB, length: 64n * KIB };
    await first.space.dmaMap({ ...range, readable: true, writable: true }, { fd: memory.fd });
    for (const device of [first, second]) await device.features.startLogging(4n * KIB, [range]);
    await dmaWrite(first, { iova: MIB, length: 1n, fill: 1 });
    await dmaWrite(second, { iova: MIB + 4096n, length: 1n, fill: 2 });
    assert.deepEqual([memory.view(0, 1)[0], memory.view(4096, 1)[0]], [1, 2]);
    for (const [device, bits] of [[first, 1] as const, [second, 2] as const]) {
      const bitmap = new Uint32Array(2);
      await device.features.report({ ...range, pageSize: 4n * KIB }, bitmap);
      assert.equal(bitmap[0], bits);
    }
  });
});
