import { writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import {
  createEventFd,
  ioctl,
  ioctlOffThread,
  NativeBlock,
  readStreamOffThread,
  socketPair,
  writeStreamOffThread,
} from '../../src/native/index.js';
import { blockingPipe } from './blocking-pipe.js';
import { errnoOf, expectNoFdLeak, temporaryFolder } from './helpers.js';

expectNoFdLeak();
const inFolder = temporaryFolder();

const FIONREAD = 0x541b;

test('ioctl answers the same on this thread and on another', async () => {
  const [left, right] = socketPair();
  await writeStreamOffThread(left.fd, NativeBlock.from(new Uint8Array(300)), 'write');
  const block = new NativeBlock(4);
  ioctl(right.fd, FIONREAD, block, 'FIONREAD');
  expect(block.view.getInt32(0, true)).toBe(300);
  block.bytes.fill(0);
  await ioctlOffThread(right.fd, FIONREAD, block, 'FIONREAD');
  expect(block.view.getInt32(0, true)).toBe(300);
  left.close();
  right.close();
});

test('a failure has the errno of its own thread, however many run', async () => {
  const eventFd = createEventFd();
  const attempts = Array.from({ length: 40 }, (_, index) =>
    ioctlOffThread(index % 2 === 0 ? eventFd.fd : 123_456, 0x3b75, new NativeBlock(8), 'DEVICE_FEATURE').then(
      () => 'done',
      error => error.errno,
    ),
  );
  const answers = await Promise.all(attempts);
  expect(answers).toEqual(Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? 'ENOTTY' : 'EBADF')));
  expect(errnoOf(() => ioctl(eventFd.fd, 0x3b75, 0, 'DEVICE_FEATURE'))).toBe('ENOTTY');
  eventFd.close();
});

test('calls that wait leave threads to files, and those behind them run in order when they end', async () => {
  const pipes = Array.from({ length: 8 }, (_, index) => blockingPipe(inFolder(`pipe-${index}`)));
  const order: number[] = [];
  const reads = pipes.map(async (pipe, index) => {
    const block = new NativeBlock(16);
    const count = await readStreamOffThread(pipe.fd, block, 'read');
    order.push(index);
    return block.bytes[0]! * count;
  });
  // All of the pool would be waiting for the pipes now, were they not held back.
  expect((await readFile('/proc/self/comm', 'utf8')).length).toBeGreaterThan(0);
  expect(order).toEqual([]);
  for (const [index, pipe] of pipes.entries()) {
    writeSync(pipe.fd, Uint8Array.of(index + 1));
    await reads[index];
  }
  expect(await Promise.all(reads)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  for (const pipe of pipes) pipe.close();
});
