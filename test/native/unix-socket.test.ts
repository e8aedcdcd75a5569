import { spawn } from 'node:child_process';
import { existsSync, fstatSync, lstatSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  connect,
  createEventFd,
  createMemoryFile,
  listen,
  MAX_MESSAGE_FDS,
  type OwnedFd,
  openFdCount,
  type Received,
  readAt,
  receive,
  send,
  socketPair,
  watch,
  writeAt,
} from '../../src/native/index.js';
import { withFreeFds } from './fd-limit.js';
import { errnoOf, expectFdChange, expectNoFdLeak, loopUntil, pattern, sameBytes, temporaryFolder } from './helpers.js';

expectNoFdLeak();
const inFolder = temporaryFolder();

function pair(): [OwnedFd, OwnedFd] {
  const sockets = socketPair();
  onTestFinished(() => {
    for (const socket of sockets) socket.close();
  });
  return sockets;
}

function receiveSome(fd: number, into: Uint8Array): Received {
  const result = receive(fd, into);
  if (typeof result === 'string') throw new Error(`expected bytes, got ${result}`);
  return result;
}

function inodeOf(fd: number): number {
  return fstatSync(fd).ino;
}

describe('bytes', () => {
  test('arrive in order, whatever the pieces they are sent and received in', () => {
    const [left, right] = pair();
    const pieces = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 10 });
    fc.assert(
      fc.property(pieces, fc.integer({ min: 1, max: 300 }), (lengths, room) => {
        const total = lengths.reduce((sum, length) => sum + length, 0);
        const bytes = pattern(total, room);
        let sent = 0;
        for (const length of lengths) {
          expect(send(left.fd, bytes.subarray(sent, sent + length))).toBe(length);
          sent += length;
        }
        const got = new Uint8Array(total);
        let received = 0;
        while (received < total) {
          const result = receiveSome(right.fd, got.subarray(received, received + room));
          expect(result.bytes).toBeGreaterThan(0);
          received += result.bytes;
        }
        expect(sameBytes(got, bytes)).toBe(true);
        expect(receive(right.fd, got)).toBe('again');
      }),
      { numRuns: 1000 },
    );
  });

  test('a send takes what fits, and then says again until the reader made room', () => {
    const [left, right] = pair();
    const bytes = pattern(1 << 20);
    const got = new Uint8Array(1 << 20);
    let sent = 0;
    let received = 0;
    let refused = 0;
    while (received < bytes.length) {
      for (;;) {
        const count = sent === bytes.length ? 'again' : send(left.fd, bytes.subarray(sent));
        if (count === 'again') break;
        sent += count;
      }
      refused++;
      const result = receive(right.fd, got.subarray(received));
      if (typeof result !== 'string') received += result.bytes;
    }
    expect(refused).toBeGreaterThan(2);
    expect(sameBytes(got, bytes)).toBe(true);
  });

  test('an empty send sends nothing; an empty buffer to receive into is EINVAL', () => {
    const [left, right] = pair();
    expect(send(left.fd, new Uint8Array(0))).toBe(0);
    expect(receive(right.fd, new Uint8Array(1))).toBe('again');
    expect(errnoOf(() => receive(right.fd, new Uint8Array(0)))).toBe('EINVAL');
  });

  test('the same buffer may be used again, moved, or detached between calls', () => {
    const [left, right] = pair();
    const bytes = new Uint8Array(64);
    for (let offset = 0; offset < 60; offset++) {
      bytes.fill(0);
      send(left.fd, Uint8Array.of(offset + 1));
      receiveSome(right.fd, bytes.subarray(offset, offset + 1));
      expect(bytes[offset]).toBe(offset + 1);
      expect(bytes.filter(byte => byte !== 0)).toHaveLength(1);
    }
    const moved = structuredClone(bytes, { transfer: [bytes.buffer] });
    expect(errnoOf(() => receive(right.fd, bytes))).toBe('EINVAL');
    send(left.fd, Uint8Array.of(77));
    receiveSome(right.fd, moved);
    expect(moved[0]).toBe(77);
  });
});

describe('the end of a connection', () => {
  test('is closed, after everything that was sent before', () => {
    const [left, right] = pair();
    send(left.fd, pattern(10));
    left.close();
    const bytes = new Uint8Array(6);
    expect(receiveSome(right.fd, bytes).bytes).toBe(6);
    expect(receiveSome(right.fd, bytes).bytes).toBe(4);
    expect(receive(right.fd, bytes)).toBe('closed');
    expect(receive(right.fd, bytes)).toBe('closed');
  });

  test('is closed too when the peer left unread bytes behind, and what it sent still arrives', () => {
    const [left, right] = pair();
    send(right.fd, pattern(10));
    send(left.fd, pattern(5));
    left.close();
    const bytes = new Uint8Array(100);
    expect(receiveSome(right.fd, bytes).bytes).toBe(5);
    expect(receive(right.fd, bytes)).toBe('closed');
    expect(receive(right.fd, bytes)).toBe('closed');
  });

  test('a send to a peer that is gone is EPIPE and no signal', () => {
    const [left, right] = pair();
    right.close();
    expect(errnoOf(() => send(left.fd, pattern(1)))).toBe('EPIPE');
    expect(errnoOf(() => send(left.fd, pattern(1), [left.fd]))).toBe('EPIPE');
  });

  test('a closed descriptor is EBADF, a file ENOTSOCK', () => {
    using file = createMemoryFile('no socket', 1);
    expect(errnoOf(() => send(-1, pattern(1)))).toBe('EBADF');
    expect(errnoOf(() => receive(-1, new Uint8Array(1)))).toBe('EBADF');
    expect(errnoOf(() => send(file.fd, pattern(1)))).toBe('ENOTSOCK');
    expect(errnoOf(() => receive(file.fd, new Uint8Array(1)))).toBe('ENOTSOCK');
  });
});

describe('descriptors', () => {
  test.each([1, 2, 3, 16, 252, MAX_MESSAGE_FDS])('%i travel in one message, in order', count => {
    const [left, right] = pair();
    const files = Array.from({ length: count }, (_, index) => createMemoryFile(`file ${index}`, index + 1));
    const fds = files.map(file => file.fd);
    expect(send(left.fd, pattern(3), fds)).toBe(3);
    const got = expectFdChange(count, () => receiveSome(right.fd, new Uint8Array(3)));
    expect(got.fdsLost).toBe(false);
    expect(got.fds.map(owned => inodeOf(owned.fd))).toEqual(files.map(file => inodeOf(file.fd)));
    for (const owned of [...files, ...got.fds]) owned.close();
  });

  test('come with close-on-exec', async () => {
    const [left, right] = pair();
    send(left.fd, pattern(1), [left.fd]);
    const [fd] = receiveSome(right.fd, new Uint8Array(1)).fds;
    const child = spawn('readlink', [`/proc/self/fd/${fd!.fd}`], { stdio: 'ignore' });
    const code = await new Promise(resolve => child.on('exit', resolve));
    expect(code).not.toBe(0);
    fd!.close();
  });

  test('travel with the first byte, however the message is split', () => {
    const [left, right] = pair();
    const message = pattern(32);
    const file = createMemoryFile('split', 1);
    for (let split = 1; split < message.length; split++) {
      expect(send(left.fd, message.subarray(0, split), [file.fd])).toBe(split);
      expect(send(left.fd, message.subarray(split))).toBe(message.length - split);
      const got = new Uint8Array(message.length);
      const fds: OwnedFd[] = [];
      for (let at = 0; at < got.length; ) {
        const result = receiveSome(right.fd, got.subarray(at, at + 1));
        if (at > 0) expect(result.fds).toHaveLength(0);
        fds.push(...result.fds);
        at += result.bytes;
      }
      expect(got).toEqual(message);
      expect(fds.map(owned => inodeOf(owned.fd))).toEqual([inodeOf(file.fd)]);
      fds[0]!.close();
    }
    file.close();
  });

  test('of two messages never come in one receive', () => {
    const [left, right] = pair();
    const files = [createMemoryFile('one', 1), createMemoryFile('two', 2)];
    send(left.fd, pattern(4));
    for (const file of files) send(left.fd, pattern(4), [file.fd]);
    const seen: number[] = [];
    for (let received = 0; received < 12; ) {
      const result = receiveSome(right.fd, new Uint8Array(100));
      expect(result.fds.length).toBeLessThan(2);
      for (const owned of result.fds) {
        seen.push(inodeOf(owned.fd));
        owned.close();
      }
      received += result.bytes;
    }
    expect(seen).toEqual(files.map(file => inodeOf(file.fd)));
    for (const file of files) file.close();
  });

  test('254, one that is not open, or none to carry them, is refused and sends nothing', () => {
    const [left, right] = pair();
    const tooMany = new Array(MAX_MESSAGE_FDS + 1).fill(left.fd);
    expect(errnoOf(() => send(left.fd, pattern(1), tooMany))).toBe('EINVAL');
    expect(errnoOf(() => send(left.fd, pattern(1), [left.fd, -1]))).toBe('EBADF');
    expect(errnoOf(() => send(left.fd, new Uint8Array(0), [left.fd]))).toBe('EINVAL');
    expect(receive(right.fd, new Uint8Array(1))).toBe('again');
  });

  test('left unreceived are gone with the socket', () => {
    expectFdChange(0, () => {
      const [left, right] = socketPair();
      const file = createMemoryFile('unreceived', 1);
      send(left.fd, pattern(1), [file.fd]);
      for (const owned of [file, left, right]) owned.close();
    });
  });

  test('that this process has no room for are reported as lost, those that came are closed, the bytes arrive', () => {
    const [left, right] = pair();
    send(left.fd, pattern(8), new Array(5).fill(left.fd));
    const bytes = new Uint8Array(8);
    const before = openFdCount();
    const got = withFreeFds(2, () => receiveSome(right.fd, bytes));
    expect(got).toEqual({ bytes: 8, fds: [], fdsLost: true });
    expect(bytes).toEqual(pattern(8));
    expect(openFdCount()).toBe(before);
  });

  test('a message without descriptors after one with them brings none', () => {
    const [left, right] = pair();
    send(left.fd, pattern(1), [left.fd]);
    receiveSome(right.fd, new Uint8Array(1)).fds[0]!.close();
    send(left.fd, pattern(1));
    expectFdChange(0, () => expect(receiveSome(right.fd, new Uint8Array(1)).fds).toHaveLength(0));
  });
});

describe('listening', () => {
  test('connections are accepted in order, and then there is none', () => {
    using listener = listen(inFolder('order'));
    expect(listener.accept()).toBe('again');
    const clients = [connect(listener.path), connect(listener.path)];
    const servers = clients.map(() => listener.accept() as OwnedFd);
    expect(listener.accept()).toBe('again');
    for (const [index, client] of clients.entries()) {
      send(client.fd, Uint8Array.of(index + 1));
      const byte = new Uint8Array(1);
      receiveSome(servers[index]!.fd, byte);
      expect(byte[0]).toBe(index + 1);
    }
    for (const socket of [...clients, ...servers]) socket.close();
  });

  test.each([0o600, 0o660, 0o666])('the socket file has mode %i whatever the umask', mode => {
    for (const umask of [0, 0o022, 0o077]) {
      const previous = process.umask(umask);
      try {
        using listener = listen(inFolder('mode'), { mode });
        expect(lstatSync(listener.path).mode & 0o777).toBe(mode);
      } finally {
        process.umask(previous);
      }
    }
  });

  test('the default mode is 0600', () => {
    using listener = listen(inFolder('default'));
    expect(lstatSync(listener.path).mode & 0o777).toBe(0o600);
  });

  test('closing removes the file once, and leaves what somebody else put there', () => {
    const listener = listen(inFolder('closing'));
    listener.close();
    expect(existsSync(listener.path)).toBe(false);
    writeFileSync(listener.path, 'other');
    listener.close();
    expect(existsSync(listener.path)).toBe(true);

    const moved = listen(inFolder('moved'));
    renameSync(moved.path, inFolder('elsewhere'));
    writeFileSync(moved.path, 'other');
    moved.close();
    expect(existsSync(moved.path)).toBe(true);
    expect(moved.fd).toBe(-1);
    expect(errnoOf(() => moved.accept())).toBe('EBADF');
  });

  test('a live socket is EADDRINUSE and goes on', () => {
    using listener = listen(inFolder('live'));
    expectFdChange(0, () => expect(errnoOf(() => listen(listener.path))).toBe('EADDRINUSE'));
    // The question whether it lives was a connection: it is closed, and stays the only trace.
    const probe = listener.accept() as OwnedFd;
    expect(receive(probe.fd, new Uint8Array(1))).toBe('closed');
    probe.close();
    connect(listener.path).close();
    (listener.accept() as OwnedFd).close();
  });

  test('a live socket whose queue is full is EADDRINUSE too', () => {
    using listener = listen(inFolder('full'), { backlog: 0 });
    const clients: OwnedFd[] = [];
    expect(
      errnoOf(() => {
        for (;;) clients.push(connect(listener.path));
      }),
    ).toBe('EAGAIN');
    expect(errnoOf(() => listen(listener.path))).toBe('EADDRINUSE');
    for (const client of clients) client.close();
  });

  test('a stale socket file is replaced', () => {
    const path = inFolder('stale');
    const dead = listen(path);
    renameSync(path, inFolder('kept'));
    dead.close();
    renameSync(inFolder('kept'), path);
    expectFdChange(0, () => expect(errnoOf(() => connect(path))).toBe('ECONNREFUSED'));
    using listener = listen(path);
    connect(path).close();
    (listener.accept() as OwnedFd).close();
  });

  test('what is no socket is EEXIST and stays', () => {
    const file = inFolder('file');
    writeFileSync(file, 'precious');
    const folder = inFolder('folder');
    mkdirSync(folder);
    const link = inFolder('link');
    symlinkSync(file, link);
    for (const path of [file, folder, link]) {
      expectFdChange(0, () => expect(errnoOf(() => listen(path))).toBe('EEXIST'));
      expect(existsSync(path)).toBe(true);
    }
  });

  test('bad paths are EINVAL, for listen and for connect', () => {
    const long = `/tmp/${'x'.repeat(103)}`;
    const longInBytes = `/tmp/${'ü'.repeat(52)}`;
    for (const path of ['', '\0abstract', 'with\0nul', long, longInBytes]) {
      expectFdChange(0, () => expect(errnoOf(() => listen(path))).toBe('EINVAL'));
      expectFdChange(0, () => expect(errnoOf(() => connect(path))).toBe('EINVAL'));
    }
  });

  test('a path of exactly 107 bytes works', () => {
    const folder = inFolder('');
    const path = `${folder}${'x'.repeat(107 - folder.length)}`;
    using listener = listen(path);
    connect(path).close();
    (listener.accept() as OwnedFd).close();
  });

  test('a folder that is not there is ENOENT, and so is connecting to nothing', () => {
    expectFdChange(0, () => expect(errnoOf(() => listen(inFolder('no/such')))).toBe('ENOENT'));
    expectFdChange(0, () => expect(errnoOf(() => connect(inFolder('nothing')))).toBe('ENOENT'));
  });

  test('without free descriptors everything is EMFILE, and the connection waits', () => {
    using listener = listen(inFolder('emfile'));
    const client = connect(listener.path);
    withFreeFds(0, () => {
      expect(errnoOf(() => listener.accept())).toBe('EMFILE');
      expect(errnoOf(() => connect(listener.path))).toBe('EMFILE');
      expect(errnoOf(() => socketPair())).toBe('EMFILE');
      expect(errnoOf(() => listen(inFolder('other')))).toBe('EMFILE');
      expect(errnoOf(() => createEventFd())).toBe('EMFILE');
      expect(errnoOf(() => createMemoryFile('none', 1))).toBe('EMFILE');
    });
    withFreeFds(1, () => expect(errnoOf(() => socketPair())).toBe('EMFILE'));
    (listener.accept() as OwnedFd).close();
    client.close();
  });
});

test('a peer in another process shares its memory file', async () => {
  using listener = listen(inFolder('peer'));
  const script = fileURLToPath(new URL('peer.mjs', import.meta.url));
  const child = spawn(process.execPath, [script, listener.path], { stdio: ['ignore', 'ignore', 'inherit'] });
  const exited = new Promise(resolve => child.on('exit', resolve));

  let connection: OwnedFd | 'again' = 'again';
  expect(
    await loopUntil(() => {
      connection = listener.accept();
      return connection !== 'again';
    }),
  ).toBe(true);
  using socket = connection as unknown as OwnedFd;

  const got: Received[] = [];
  const into = new Uint8Array(64);
  watch(socket.fd, { readable: true }, () => {
    const result = receive(socket.fd, into);
    if (result === 'closed') socket.close();
    else if (result !== 'again') got.push(result);
  });
  expect(await loopUntil(() => got.length === 1)).toBe(true);
  expect(Buffer.from(into.subarray(0, got[0]!.bytes)).toString()).toBe('hello');

  const file = got[0]!.fds[0]!;
  const text = new Uint8Array(13);
  readAt(file.fd, 0, text);
  expect(Buffer.from(text).toString()).toBe('from the peer');
  writeAt(file.fd, 0, Buffer.from('from the host'));
  file.close();
  send(socket.fd, Buffer.from('done'));

  expect(await loopUntil(() => got.length === 2)).toBe(true);
  expect(Buffer.from(into.subarray(0, 13)).toString()).toBe('from the host');
  expect(await exited).toBe(0);
  expect(await loopUntil(() => socket.closed)).toBe(true);
});
