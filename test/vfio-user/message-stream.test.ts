import { expect, onTestFinished, test } from 'vitest';
import { createEventFd, openFdCount, socketPair } from '../../src/native/index.js';
import type { VfioError } from '../../src/uapi/index.js';
import { closeFds, type Frame } from '../../src/vfio-user/wire/frame-parser.js';
import { encodeCommand } from '../../src/vfio-user/wire/header.js';
import { MessageStream } from '../../src/vfio-user/wire/message-stream.js';
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

/** A message that is lent, and how often it was given back. */
function lent(id: number, size: number) {
  const told = { bytes: encodeCommand(id, 9, pattern(size, id)), givenBack: 0 };
  return { told, giveBack: () => told.givenBack++ };
}

test('a message that is lent is given back when it has left, not before, and in its turn', async () => {
  const [left, right] = pair();
  const messages = [lent(1, 3 << 20), lent(2, 100), lent(3, 1 << 20)];
  for (const { told, giveBack } of messages) left.stream.sendLent(told.bytes, giveBack);
  expect(messages.map(({ told }) => told.givenBack)).toEqual([0, 0, 0]);
  await until(() => messages[0]!.told.givenBack === 1);
  // What is the sender's again is written over.
  messages[0]!.told.bytes.fill(0);
  await until(() => right.told.frames.length === 3);
  expect(messages.map(({ told }) => told.givenBack)).toEqual([1, 1, 1]);
  for (const [index, size] of [3 << 20, 100, 1 << 20].entries()) {
    expect(sameBytes(right.told.frames[index]!.payload, pattern(size, index + 1))).toBe(true);
  }
});

test('a message that is lent is given back at once when it fits', () => {
  const [left] = pair();
  const { told, giveBack } = lent(1, 100);
  left.stream.sendLent(told.bytes, giveBack);
  expect(told.givenBack).toBe(1);
});

test('a message that is lent is given back when the peer has gone, or the stream is ended', async () => {
  const [left, right] = pair();
  right.stream.pause();
  const first = lent(1, 3 << 20);
  const second = lent(2, 100);
  left.stream.sendLent(first.told.bytes, first.giveBack);
  left.stream.sendLent(second.told.bytes, second.giveBack);
  right.stream.destroy(undefined);
  await until(() => left.told.closed.length === 1);
  expect([first.told.givenBack, second.told.givenBack]).toEqual([1, 1]);
  const third = lent(3, 100);
  left.stream.sendLent(third.told.bytes, third.giveBack);
  expect(third.told.givenBack).toBe(1);
  const [other] = pair();
  const fourth = lent(4, 3 << 20);
  other.stream.sendLent(fourth.told.bytes, fourth.giveBack);
  other.stream.destroy(undefined);
  expect(fourth.told.givenBack).toBe(1);
});
