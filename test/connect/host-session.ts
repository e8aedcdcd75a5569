import assert from 'node:assert/strict';
import type { DeviceHandle } from '../../src/device/index.js';
import type { GuestMemory } from '../../src/memory/index.js';
import type { DirtySet, Tracker } from '../../src/tracker/index.js';

/** What makes a device write `length` bytes of `byte` at `iova`, by DMA. */
export type Stimulus = (iova: bigint, length: bigint, byte: number) => Promise<void>;

export const PAGE = 4096n;
/** Where a host session maps its memory, in two regions that touch. */
export const FIRST = { iova: 0x10_0000n, length: 64n * PAGE };
export const SECOND = { iova: FIRST.iova + FIRST.length, length: 64n * PAGE };
/** How much memory it takes. */
export const MEMORY_SIZE = Number(FIRST.length + SECOND.length);

const rights = { readable: true, writable: true };

/** The rooms' classes that a session is made of: from the sources or from the built package. */
export interface HostParts {
  readonly newDirtySet: (ranges: readonly { iova: bigint; length: bigint }[]) => DirtySet;
  readonly newSession: (device: DeviceHandle) => Tracker;
}

/**
 * What a host does with a device, written once for every wire: map memory, log, see the bytes and the pages, unmap without losing a page,
 * let go.
 */
export async function hostSession(
  device: DeviceHandle,
  write: Stimulus,
  memory: GuestMemory,
  { newDirtySet, newSession }: HostParts,
): Promise<void> {
  await device.mapMemory({ ...FIRST, ...rights }, memory);
  await device.mapMemory({ ...SECOND, ...rights }, memory, FIRST.length);
  await assert.rejects(device.mapMemory({ ...SECOND, ...rights }, memory), { errno: 'EEXIST' });
  await assert.rejects(device.mapMemory({ ...FIRST, iova: 0x1234n, ...rights }, memory), { errno: 'EINVAL' });
  await assert.rejects(device.mapMemory({ ...FIRST, iova: 0n, ...rights }, memory, SECOND.length + PAGE), {
    errno: 'EINVAL',
  });

  const session = newSession(device);
  await session.start([FIRST, SECOND]);
  const dirty = newDirtySet([FIRST, SECOND]);
  await write(FIRST.iova + 3n * PAGE, PAGE, 0xa5);
  await write(SECOND.iova - 8n, 16n, 0x5a);
  assert.deepEqual(await session.collect(dirty), []);
  assert.deepEqual([...dirty.runs()], [page(3), page(63), page(64)]);
  const seen = new Uint8Array(16);
  memory.read(Number(FIRST.length) - 8, seen);
  assert.deepEqual(seen, new Uint8Array(16).fill(0x5a));

  dirty.clear();
  assert.deepEqual(await session.collect(dirty), []);
  assert.equal(dirty.count(), 0);

  await write(FIRST.iova + 7n * PAGE, 1n, 1);
  await device.unmapMemory(FIRST.iova, FIRST.length);
  await assert.rejects(device.unmapMemory(FIRST.iova, FIRST.length), { errno: 'EINVAL' });
  assert.deepEqual(await session.collect(dirty), []);
  assert.deepEqual([...dirty.runs()], [page(7)]);
  await session.stop();
  await device.unmapMemory(SECOND.iova, SECOND.length);
}

function page(index: number) {
  return { iova: FIRST.iova + BigInt(index) * PAGE, length: PAGE };
}
