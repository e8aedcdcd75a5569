import { readSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { MigrationFile } from '../../src/kernel/migration-file.js';
import { createEventFd, openFdCount } from '../../src/native/index.js';
import { MigrationState } from '../../src/uapi/index.js';
import { blockingPipe } from '../native/blocking-pipe.js';
import { errnoOf, expectNoFdLeak, pattern, temporaryFolder } from '../native/helpers.js';

expectNoFdLeak();
const inFolder = temporaryFolder();
const { STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY, PRE_COPY_P2P, ERROR } = MigrationState;
let pipes = 0;
const newPipe = () => blockingPipe(inFolder(`pipe-${++pipes}`));

test('without a state that has data there is none to read, to write or to ask about: EINVAL', async () => {
  const file = new MigrationFile();
  await expect(file.read(10)).rejects.toThrow(/states STOP_COPY, RESUMING, PRE_COPY, PRE_COPY_P2P only \(EINVAL\)/);
  await expect(file.write(new Uint8Array(3))).rejects.toThrow('EINVAL');
  expect(errnoOf(() => file.precopyInfo())).toBe('EINVAL');
});

test('a descriptor is kept through the states with data, and closed with the first without', async () => {
  for (const left of [STOP, RUNNING, ERROR]) {
    const before = openFdCount();
    const file = new MigrationFile();
    file.entered(PRE_COPY, createEventFd().release());
    expect(openFdCount()).toBe(before + 1);
    file.entered(PRE_COPY_P2P, -1);
    file.entered(STOP_COPY, -1);
    expect(openFdCount()).toBe(before + 1);
    file.entered(left, -1);
    expect(openFdCount()).toBe(before);
    await file.close();
  }
});

test('a second descriptor takes the place of the first, which is closed', async () => {
  const before = openFdCount();
  const file = new MigrationFile();
  file.entered(STOP_COPY, createEventFd().release());
  file.entered(RESUMING, createEventFd().release());
  expect(openFdCount()).toBe(before + 1);
  await file.close();
  expect(openFdCount()).toBe(before);
});

test('a descriptor that comes with a state without data is closed all the same', () => {
  const before = openFdCount();
  new MigrationFile().entered(STOP, createEventFd().release());
  expect(openFdCount()).toBe(before);
});

test('a reader that the device lets wait holds up neither files nor the event loop, and close waits for it', async () => {
  const pipe = newPipe();
  const file = new MigrationFile();
  file.entered(STOP_COPY, pipe.duplicate().release());
  const read = file.read(100);
  expect((await readFile('/proc/self/comm', 'utf8')).length).toBeGreaterThan(0);
  let closed = false;
  const closing = file.close().then(() => {
    closed = true;
  });
  await new Promise(resolve => setImmediate(resolve));
  expect(closed).toBe(false);
  writeSync(pipe.fd, pattern(40));
  expect(await read).toEqual(pattern(40));
  await closing;
  pipe.close();
});

test('data arrives whole and in order, and a read gives no more than its limit', async () => {
  const pipe = newPipe();
  const file = new MigrationFile();
  file.entered(RESUMING, pipe.duplicate().release());
  const sent = pattern(5000);
  const before = sent.slice();
  const written = Promise.all([file.write(sent.subarray(0, 3000)), file.write(sent.subarray(3000))]);
  // The caller's again as soon as it has the promise.
  sent.fill(0);
  await written;
  const received = new Uint8Array(6000);
  expect(readSync(pipe.fd, received)).toBe(5000);
  expect(received.subarray(0, 5000)).toEqual(before);
  writeSync(pipe.fd, before);
  const parts = [await file.read(1), await file.read(1000), await file.read(0), await file.read(10_000)];
  expect(parts.map(part => part.length)).toEqual([1, 1000, 0, 3999]);
  expect(Buffer.concat(parts)).toEqual(Buffer.from(before));
  await file.close();
  pipe.close();
});

test('a device that has nothing for now gives an empty read; one that fails gives its errno', async () => {
  const file = new MigrationFile();
  file.entered(PRE_COPY, createEventFd().release());
  expect(await file.read(8)).toEqual(new Uint8Array(0));
  await expect(file.read(1)).rejects.toThrow('MIG_DATA_READ (EINVAL)');
  expect(errnoOf(() => file.precopyInfo())).toBe('ENOTTY');
  await file.close();
});
