import { expect, onTestFinished, test } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { createEventFd, readEventFd } from '../../src/native/index.js';
import { MigrationState, viewOf } from '../../src/uapi/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { until, words } from './peer.js';
import { rejection, serve } from './served.js';
import { Stamp, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();
const GUEST = 0x4000_0000n;
const SIZE = 1 << 20;

/** A host with guest memory and one interrupt, connected to a device of its own. */
async function host(name: string) {
  const { device } = await serve(path(name));
  const client = await VfioUserClient.connect(path(name));
  const memory = GuestMemory.create(SIZE);
  const interrupt = createEventFd();
  onTestFinished(async () => {
    await client.close();
    memory.close();
    interrupt.close();
  });
  const region = { iova: GUEST, length: BigInt(SIZE), readable: true, writable: true };
  await client.dmaMap(region, { fd: memory.fd });
  await client.setIrqTriggers(2, 0, [interrupt.fd]);
  return { device, client, memory, interrupt };
}

async function stamp(client: VfioUserClient, iova: bigint, length: number, value: number): Promise<void> {
  await client.regionWrite(0, Stamp.IOVA, stampSettings(iova, length, value));
  await client.regionWrite(0, Stamp.DOORBELL, words(1));
}

async function dirtyPages(client: VfioUserClient): Promise<number[]> {
  const bitmap = new Uint32Array(SIZE / 4096 / 32);
  await client.features.report({ iova: GUEST, length: BigInt(SIZE), pageSize: 4096n }, bitmap);
  return Array.from({ length: SIZE / 4096 }, (_, page) => page).filter(
    page => ((bitmap[page >>> 5]! >>> (page & 31)) & 1) === 1,
  );
}

test('a device writes memory, raises its interrupt, logs its pages and moves to another server', async () => {
  const source = await host('source');
  await source.client.regionWrite(7, 4, Uint8Array.of(6, 0));
  await stamp(source.client, GUEST + 0x1800n, 0x1000, 0x11);
  const bytes = new Uint8Array(0x1000);
  source.memory.read(0x1800, bytes);
  expect(bytes).toEqual(new Uint8Array(0x1000).fill(0x11));
  expect(readEventFd(source.interrupt.fd)).toBe(1n);

  expect(await source.client.features.hasLogging()).toBe(true);
  const ranges = [{ iova: GUEST, length: BigInt(SIZE) }];
  expect(await source.client.features.startLogging(4096n, ranges)).toBe(4096n);
  expect(await rejection(source.client.features.startLogging(4096n, ranges))).toBe('EINVAL');
  expect(await dirtyPages(source.client)).toEqual([]);
  await stamp(source.client, GUEST + 0x3ffen, 4, 0x22);
  await stamp(source.client, GUEST + 0xff000n, 1, 0x33);
  expect(await dirtyPages(source.client)).toEqual([3, 4, 255]);
  expect(await dirtyPages(source.client)).toEqual([]);

  await stamp(source.client, GUEST + 0x8000n, 1, 0x44);
  await source.client.dmaUnmap(GUEST, BigInt(SIZE));
  expect(await dirtyPages(source.client)).toEqual([8]);
  expect(await rejection(stamp(source.client, GUEST, 1, 0x55))).toBe('EFAULT');
  expect(await dirtyPages(source.client)).toEqual([]);

  expect(await source.client.features.migrationFlags()).toBe(7);
  await source.client.features.setMigrationState(MigrationState.STOP_COPY);
  expect(await rejection(stamp(source.client, GUEST, 1, 0x66))).toBe('EPERM');
  const size = await source.client.features.migrationDataSize();
  const pieces: Uint8Array[] = [];
  for (;;) {
    const piece = await source.client.readMigrationData(100);
    if (piece.length === 0) break;
    expect(piece.length).toBeLessThanOrEqual(100);
    pieces.push(piece);
  }
  expect(BigInt(pieces.reduce((sum, piece) => sum + piece.length, 0))).toBe(size);

  const destination = await host('destination');
  await destination.client.features.setMigrationState(MigrationState.RESUMING);
  for (const piece of pieces) await destination.client.writeMigrationData(piece);
  await destination.client.features.setMigrationState(MigrationState.RUNNING);
  const registers = await destination.client.regionRead(0, 0, 0x18);
  expect(viewOf(registers).getUint32(Stamp.COUNT, true)).toBe(4);
  await destination.client.regionWrite(0, Stamp.IOVA, stampSettings(GUEST, 16, 0x77));
  await destination.client.regionWrite(0, Stamp.DOORBELL, words(1));
  destination.memory.read(0, bytes.subarray(0, 16));
  expect(bytes.subarray(0, 16)).toEqual(new Uint8Array(16).fill(0x77));
  expect(readEventFd(destination.interrupt.fd)).toBe(1n);
  await source.client.features.stopLogging();
  expect(await rejection(source.client.features.stopLogging())).toBe('EINVAL');
});

test('memory that was mapped outlives the host’s own end of it, and the device its client', async () => {
  const { device, client, memory } = await host('outlive');
  await client.regionWrite(7, 4, Uint8Array.of(6, 0));
  memory.close();
  await stamp(client, GUEST, 4096, 0x11);
  const back = new Uint8Array(4096);
  await device.dma.read(GUEST, back);
  expect(back).toEqual(new Uint8Array(4096).fill(0x11));
  await client.close();
  await until(() => device.dma.map.statistics.regions === 0);
  const next = await VfioUserClient.connect(path('outlive'));
  expect(viewOf(await next.regionRead(0, Stamp.COUNT, 4)).getUint32(0, true)).toBe(1);
  await next.close();
});

test('a reset in the middle of logging loses no page', async () => {
  const { client } = await host('reset');
  await client.regionWrite(7, 4, Uint8Array.of(6, 0));
  await client.features.startLogging(4096n, [{ iova: GUEST, length: BigInt(SIZE) }]);
  await stamp(client, GUEST + 0x5000n, 1, 1);
  await client.reset();
  expect(await dirtyPages(client)).toEqual([5]);
});
