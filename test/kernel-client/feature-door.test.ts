import { expect, test } from 'vitest';
import { FeatureClient } from '../../src/device/index.js';
import { KernelFeatureDoor } from '../../src/kernel/feature-door.js';
import { GuardedFd } from '../../src/kernel/guarded-fd.js';
import { MigrationFile } from '../../src/kernel/migration-file.js';
import { createEventFd } from '../../src/native/index.js';
import { encodeFeatureRequest, encodeReport, linux } from '../../src/uapi/index.js';
import { expectNoFdLeak } from '../native/helpers.js';
import { lockedBytes, withMemoryLockLimit } from '../native/memory-lock-limit.js';

/* The kernel behind these doors knows no feature: an eventfd answers every ioctl with ENOTTY. What a device answers is for a real one. */

expectNoFdLeak();

function openDoor() {
  const file = new GuardedFd(createEventFd(), 'the device');
  const door = new KernelFeatureDoor(file, new MigrationFile());
  const close = () => Promise.all([file.close(), door.close()]);
  return { file, door, features: new FeatureClient(door), close };
}

const report = (bitmapPointer: bigint, { iova = 0n, length = 0x100000n, pageSize = 4096n } = {}) =>
  encodeFeatureRequest({
    index: linux.report,
    get: true,
    data: encodeReport({ iova, length, pageSize, bitmapPointer }),
  });

test('the kernel never sees a pointer to a bitmap that was not lent: EFAULT comes from the door', async () => {
  const { door, close } = openDoor();
  for (const pointer of [0n, 8n, 0x7fff_0000_0000n, 2n ** 64n - 4096n]) {
    await expect(door.request(report(pointer))).rejects.toThrow('EFAULT');
  }
  const lent = door.lend(new Uint8Array(31));
  await expect(door.request(report(lent))).rejects.toThrow('EFAULT');
  door.take(lent);
  const whole = door.lend(new Uint8Array(32));
  await expect(door.request(report(whole))).rejects.toThrow('DMA_LOGGING_REPORT (ENOTTY)');
  door.take(whole);
  await expect(door.request(report(whole))).rejects.toThrow('EFAULT');
  await close();
});

test('what the kernel refuses before it comes to the bitmap, it is asked', async () => {
  const { door, close } = openDoor();
  const refused = [
    { pageSize: 0n },
    { pageSize: 2048n },
    { pageSize: 4097n },
    { iova: 4096n, length: 2n ** 64n - 4096n },
    { iova: 2n ** 64n - 1n },
  ];
  for (const message of refused.map(asked => report(0n, asked))) {
    await expect(door.request(message)).rejects.toThrow('ENOTTY');
  }
  await close();
});

test('without a message, the kernel is asked as with one', async () => {
  const { door, close } = openDoor();
  const bitmap = new Uint32Array(8);
  for (const asked of [
    { iova: 0n, length: 0x100000n, pageSize: 4096n },
    { iova: 0n, length: 0x100000n, pageSize: 2048n },
    { iova: 2n ** 64n - 4096n, length: 2n ** 63n, pageSize: 4096n },
  ]) {
    expect(() => door.report(asked, bitmap)).toThrow('DMA_LOGGING_REPORT (ENOTTY)');
  }
  await close();
});

test('without a message, no bitmap is too small for what the kernel would write, however the numbers are cut to 64 bits', async () => {
  const { door, close } = openDoor();
  const ask = (asked: object, words: number) => () =>
    door.report({ iova: 0n, length: 0x100000n, pageSize: 4096n, ...asked }, new Uint32Array(words));
  expect(ask({}, 7)).toThrow('28 bytes, needs 32 (EFAULT)');
  expect(ask({ length: 2n ** 64n + 0x100000n }, 7)).toThrow('EFAULT');
  expect(ask({ pageSize: 2n ** 64n + 4096n }, 7)).toThrow('EFAULT');
  expect(ask({ pageSize: -(2n ** 63n) }, 1)).toThrow('EFAULT');
  expect(ask({ iova: -4096n, length: 4095n }, 1)).toThrow('EFAULT');
  expect(ask({ length: 2n ** 63n }, 8)).toThrow('EFAULT');
  await close();
});

test('a report that waits for its turn asks for what was asked for then, into what is there now', async () => {
  const { door, features, close } = openDoor();
  const start = features.startLogging(4096n, [{ iova: 0n, length: 4096n }]);
  const asked = { iova: 0n, length: 0x100000n, pageSize: 4096n };
  const changed = door.report(asked, new Uint32Array(8));
  asked.length = 2n ** 40n;
  const taken = new Uint32Array(8);
  const into = door.report({ iova: 0n, length: 0x100000n, pageSize: 4096n }, taken);
  structuredClone(taken, { transfer: [taken.buffer] });
  await expect(start).rejects.toThrow('ENOTTY');
  await expect(changed).rejects.toThrow('ENOTTY');
  await expect(into).rejects.toThrow('0 bytes, needs 32 (EFAULT)');
  await close();
});

test('a large report, on another thread, is waited for by close', async () => {
  const { features, close } = openDoor();
  const bitmap = new Uint32Array(2 ** 19);
  const attempts = [1, 2, 3].map(() => features.report({ iova: 0n, length: 1n << 36n, pageSize: 4096n }, bitmap));
  const closed = close();
  const answers = await Promise.allSettled(attempts);
  expect(answers.map(answer => (answer as PromiseRejectedResult).reason.errno)).toEqual(['ENOTTY', 'EBADF', 'EBADF']);
  await closed;
});

test('after close every request is EBADF', async () => {
  const { features, door, close } = openDoor();
  await close();
  await expect(features.probe(linux.start, { set: true })).rejects.toThrow('the device is closed (EBADF)');
  await expect(features.report({ iova: 0n, length: 4096n, pageSize: 4096n }, new Uint32Array(2))).rejects.toThrow(
    'EBADF',
  );
  await expect(features.startLogging(4096n, [{ iova: 0n, length: 4096n }])).rejects.toThrow('EBADF');
  await expect(door.request(encodeFeatureRequest({ index: 2, set: true, data: new Uint8Array(8) }))).rejects.toThrow(
    'EBADF',
  );
});

test('messages without a header, and larger than any structure, are refused', async () => {
  const { door, close } = openDoor();
  await expect(door.request(new Uint8Array(7))).rejects.toThrow('argsz: 7 bytes are no header (EINVAL)');
  await expect(door.request(new Uint8Array(4097))).rejects.toThrow('E2BIG');
  await expect(door.request(new Uint8Array(4096))).rejects.toThrow('ENOTTY');
  await close();
});

test('requests that take long and those behind them are answered in the order in which they were made', async () => {
  const { door, features, close } = openDoor();
  const order: string[] = [];
  const note = (name: string) => () => order.push(name);
  const requests = [
    features.startLogging(4096n, [{ iova: 0n, length: 4096n }]).catch(note('start')),
    features.report({ iova: 0n, length: 1n << 36n, pageSize: 4096n }, new Uint32Array(2 ** 19)).catch(note('large')),
    features.report({ iova: 0n, length: 4096n, pageSize: 4096n }, new Uint32Array(2)).catch(note('small')),
    features.stopLogging().catch(note('stop')),
    door.reset().catch(note('reset')),
    features.migrationState().catch(note('state')),
  ];
  await Promise.all(requests);
  expect(order).toEqual(['start', 'large', 'small', 'stop', 'reset', 'state']);
  await close();
});

test('a report after close locks no memory', async () => {
  const { features, close } = openDoor();
  await close();
  const before = lockedBytes();
  const report = features.report({ iova: 0n, length: 1n << 36n, pageSize: 4096n }, new Uint32Array(2 ** 19));
  await expect(report).rejects.toThrow('EBADF');
  expect(lockedBytes()).toBe(before);
});

test('a report is cut into pieces of what may be locked', async () => {
  const { door, close } = openDoor();
  withMemoryLockLimit(lockedBytes() + 2 ** 17, () => expect(door.maxReply).toBe(2 ** 17 + 32));
  await close();
});
