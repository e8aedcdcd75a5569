import { expect, onTestFinished, test } from 'vitest';
import { createEventFd, openFdCount, socketPair } from '../../src/native/index.js';
import type { VfioError } from '../../src/uapi/index.js';
import { closeFds, type Frame } from '../../src/vfio-user/frame-parser.js';
import { encodeCommand } from '../../src/vfio-user/header.js';
import { MessageStream } from '../../src/vfio-user/message-stream.js';
import { expectNoFdLeak, pattern, sameBytes } from '../native/helpers.js';
import { turn, until } from './peer.js';

expectNoFdLeak();

/** Two streams that are connected, and what each has been told. */
function pair() {
  const ends = socketPair().map(socket => {
    const told = { frames: [] as Frame[], drained: 0, closed: [] as (VfioError | undefined)[] };
    const stream = new MessageStream(socket, 1 << 24, 4, {
      frame: frame => told.frames.push(frame),
      broken: () => {},
      drained: () => told.drained++,
      closed: reason => told.closed.push(reason),
    });
    onTestFinished(() => {
      stream.destroy(undefined);
      for (const frame of told.frames) closeFds(frame.fds);
    });
    return { stream, told };
  });
  return ends as [(typeof ends)[0], (typeof ends)[0]];
}

test('a message larger than the socket holds arrives whole, with its descriptors once', async () => {
  const [left, right] = pair();
  const file = createEventFd();
  const fds = openFdCount();
  const payload = pattern(3 << 20);
  left.stream.send(encodeCommand(1, 9, payload), [file.fd, file.fd]);
  expect(left.stream.queuedBytes).toBeGreaterThan(0);
  expect(openFdCount()).toBe(fds);
  file.close();
  await until(() => right.told.frames.length === 1);
  expect(sameBytes(right.told.frames[0]!.payload, payload)).toBe(true);
  expect(right.told.frames[0]!.fds.length).toBe(2);
  expect(left.stream.queuedBytes).toBe(0);
  expect(left.told.drained).toBe(1);
});

test('messages that wait keep their order, and each its own descriptors', async () => {
  const [left, right] = pair();
  const file = createEventFd();
  for (let id = 0; id < 200; id++) {
    left.stream.send(encodeCommand(id, 9, pattern(20_000, id)), new Array<number>(id % 4).fill(file.fd));
  }
  file.close();
  await until(() => right.told.frames.length === 200);
  for (const [id, { header, payload, fds }] of right.told.frames.entries()) {
    expect(header.id).toBe(id);
    expect(sameBytes(payload, pattern(20_000, id))).toBe(true);
    expect(fds.length).toBe(id % 4);
  }
});

test('a stream that is paused receives nothing until it is resumed', async () => {
  const [left, right] = pair();
  right.stream.pause();
  left.stream.send(encodeCommand(1, 9, pattern(8)));
  for (let round = 0; round < 20; round++) await turn();
  expect(right.told.frames.length).toBe(0);
  right.stream.resume();
  await until(() => right.told.frames.length === 1);
});

test('a stream that is ended sends what waits first, and tells its end once', async () => {
  const [left, right] = pair();
  left.stream.send(encodeCommand(1, 9, pattern(1 << 20)));
  left.stream.end(undefined);
  left.stream.end(undefined);
  expect(left.stream.closed).toBe(false);
  await until(() => right.told.closed.length === 1);
  expect(right.told.frames.length).toBe(1);
  expect(left.told.closed).toEqual([undefined]);
});

test('a stream that is ended towards a peer that never reads is over all the same', async () => {
  const [left, right] = pair();
  right.stream.pause();
  left.stream.send(encodeCommand(1, 9, pattern(1 << 20)));
  left.stream.end(undefined);
  await until(() => left.told.closed.length === 1);
});

test('what is sent to a peer that is gone goes nowhere, and what it had sent is still received', async () => {
  const [left, right] = pair();
  right.stream.send(encodeCommand(1, 9, pattern(8)));
  right.stream.send(encodeCommand(2, 9, pattern(8)));
  right.stream.destroy(undefined);
  left.stream.send(encodeCommand(3, 9, pattern(8)));
  await until(() => left.told.closed.length === 1);
  expect(left.told.frames.map(frame => frame.header.id)).toEqual([1, 2]);
  left.stream.send(encodeCommand(4, 9, pattern(8)));
  expect(left.told.closed).toEqual([undefined]);
});
