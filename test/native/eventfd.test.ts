import { openSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import { expect, test } from 'vitest';
import {
  createEventFd,
  createMemoryFile,
  isEventFd,
  OwnedFd,
  readEventFd,
  signalEventFd,
  socketPair,
} from '../../src/native/index.js';
import { expectNoFdLeak } from './helpers.js';

expectNoFdLeak();

const FULL = 2n ** 64n - 2n;

/** An eventfd as a peer may send it: its reads and writes block. */
function blockingEventFd(): OwnedFd {
  return new OwnedFd(koffi.load(null).func('int eventfd(unsigned int, int)')(0, 0));
}

test('signals add up until they are read', () => {
  using event = createEventFd();
  expect(readEventFd(event.fd)).toBe(0n);
  for (let count = 1n; count <= 20n; count++) {
    for (let signal = 0n; signal < count; signal++) expect(signalEventFd(event.fd)).toBe(true);
    expect(readEventFd(event.fd)).toBe(count);
    expect(readEventFd(event.fd)).toBe(0n);
  }
});

test('a full counter is not an error, blocking or not, and is read whole', () => {
  for (const event of [createEventFd(), blockingEventFd()]) {
    writeSync(event.fd, new Uint8Array(BigUint64Array.of(FULL).buffer));
    expect(signalEventFd(event.fd)).toBe(false);
    expect(readEventFd(event.fd)).toBe(FULL);
    expect(signalEventFd(event.fd)).toBe(true);
    event.close();
  }
});

test('an empty blocking eventfd does not block the reader', () => {
  using event = blockingEventFd();
  expect(readEventFd(event.fd)).toBe(0n);
});

test('a closed descriptor, or one that takes no signal, is not an error', () => {
  const event = createEventFd();
  event.close();
  expect(signalEventFd(event.fd)).toBe(false);
  expect(signalEventFd(99_999)).toBe(false);
  expect(readEventFd(event.fd)).toBe(0n);
  expect(readEventFd(99_999)).toBe(0n);
  const [left, right] = socketPair();
  right.close();
  expect(signalEventFd(left.fd)).toBe(false);
  left.close();
});

test('isEventFd knows an eventfd from everything else', () => {
  const [left, right] = socketPair();
  using zero = new OwnedFd(openSync('/dev/zero', 'r'));
  using file = createMemoryFile('[eventfd]', 8);
  using event = createEventFd();
  using blocking = blockingEventFd();
  expect(isEventFd(event.fd)).toBe(true);
  expect(isEventFd(blocking.fd)).toBe(true);
  for (const fd of [left.fd, zero.fd, file.fd, -1, 99_999]) expect(isEventFd(fd)).toBe(false);
  left.close();
  right.close();
});
