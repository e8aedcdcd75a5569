import { describe, expect, onTestFinished, test } from 'vitest';
import {
  connect,
  createEventFd,
  endReceiving,
  listen,
  type OwnedFd,
  receive,
  receiveWaiting,
  send,
  sendFrom,
  socketPair,
  waitInReceive,
  watch,
} from '../../src/native/index.js';
import { errnoOf, expectNoFdLeak, pattern } from './helpers.js';

expectNoFdLeak();

function pair(): [OwnedFd, OwnedFd] {
  const sockets = socketPair();
  onTestFinished(() => {
    for (const socket of sockets) socket.close();
  });
  return sockets;
}

describe('a socket that waits in receive', () => {
  test('gives what is there, with descriptors, says again when nothing comes, and closed at the end', () => {
    const [left, right] = pair();
    watch(right.fd, {}, () => {});
    waitInReceive(right.fd, 4);
    const into = new Uint8Array(64);
    expect(receiveWaiting(right.fd, into)).toBe('again');
    using file = createEventFd();
    send(left.fd, pattern(10), [file.fd]);
    const received = receiveWaiting(right.fd, into);
    if (typeof received === 'string') throw new Error(received);
    expect([received.bytes, received.fds.length]).toEqual([10, 1]);
    for (const fd of received.fds) fd.close();
    left.close();
    expect(receiveWaiting(right.fd, into)).toBe('closed');
  });

  test('still never waits in send, nor where it is asked not to', () => {
    const [, right] = pair();
    waitInReceive(right.fd, 60_000);
    expect(receive(right.fd, new Uint8Array(8))).toBe('again');
    while (send(right.fd, new Uint8Array(65536)) !== 'again');
    expect(send(right.fd, new Uint8Array(1))).toBe('again');
  });

  test('is no socket for what is none', () => {
    using file = createEventFd();
    expect(errnoOf(() => waitInReceive(file.fd, 4))).toBe('ENOTSOCK');
    expect(errnoOf(() => waitInReceive(-1, 4))).toBe('EBADF');
  });
});

test('a socket that ends receiving gives what was sent before, and then its end', () => {
  const [left, right] = pair();
  send(left.fd, pattern(10));
  endReceiving(right.fd);
  const into = new Uint8Array(64);
  expect(receive(right.fd, into)).toMatchObject({ bytes: 10 });
  expect(receive(right.fd, into)).toBe('closed');
  expect(errnoOf(() => send(left.fd, pattern(1)))).toBe('EPIPE');
  endReceiving(right.fd);
  expect(errnoOf(() => endReceiving(-1))).toBe('EBADF');
});

test('the front of a buffer is sent, of one and another in turn, and no more than it has', () => {
  const [left, right] = pair();
  const [first, second] = [pattern(100), pattern(100, 50)];
  const into = new Uint8Array(256);
  for (const [buffer, length] of [
    [first, 10],
    [second, 100],
    [first, 1],
    [first, 0],
  ] as const) {
    expect(sendFrom(left.fd, buffer, length)).toBe(length);
    if (length === 0) continue;
    expect(receive(right.fd, into)).toMatchObject({ bytes: length });
    expect(into.subarray(0, length)).toEqual(buffer.subarray(0, length));
  }
  expect(errnoOf(() => sendFrom(left.fd, first, 101))).toBe('EINVAL');
  right.close();
  expect(errnoOf(() => sendFrom(left.fd, first, 1))).toBe('EPIPE');
});

describe('an abstract name', () => {
  const name = `@dmalog-native-${process.pid}`;

  test('is a name without a file, for those who ask for it', () => {
    using listener = listen(name, { abstract: true });
    connect(name, { abstract: true }).close();
    (listener.accept() as OwnedFd).close();
    expect(errnoOf(() => listen(name, { abstract: true }))).toBe('EADDRINUSE');
    listener.close();
    expect(errnoOf(() => connect(name, { abstract: true }))).toBe('ECONNREFUSED');
  });

  test('is refused unasked', () => {
    expect(errnoOf(() => listen(name))).toBe('EINVAL');
    expect(errnoOf(() => connect(name))).toBe('EINVAL');
  });

  test('ends where its letters end: one is not the beginning of another', () => {
    using listener = listen(name, { abstract: true });
    expect(errnoOf(() => connect(`${name}x`, { abstract: true }))).toBe('ECONNREFUSED');
    expect(errnoOf(() => connect(name.slice(0, -1), { abstract: true }))).toBe('ECONNREFUSED');
    expect(listener.path).toBe(name);
  });
});
