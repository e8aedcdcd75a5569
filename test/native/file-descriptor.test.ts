import { execFileSync } from 'node:child_process';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { expect, test } from 'vitest';
import {
  createEventFd,
  createMemoryFile,
  fdKind,
  fileSize,
  OwnedFd,
  openFdCount,
  socketPair,
} from '../../src/native/index.js';
import { errnoOf, expectFdChange, expectNoFdLeak, temporaryFolder } from './helpers.js';

expectNoFdLeak();
const inFolder = temporaryFolder();

test('a second close does not close the stranger who got the number', () => {
  const owned = new OwnedFd(openSync('/dev/zero', 'r'));
  const number = owned.fd;
  owned.close();
  const stranger = openSync('/dev/zero', 'r');
  expect(stranger).toBe(number);
  owned.close();
  expect(readSync(stranger, new Uint8Array(4))).toBe(4);
  closeSync(stranger);
});

test('a closed owner answers -1, and every call on it EBADF', () => {
  const owned = new OwnedFd(openSync('/dev/zero', 'r'));
  expect(owned.closed).toBe(false);
  owned.close();
  expect(owned.closed).toBe(true);
  expect(owned.fd).toBe(-1);
  expect(errnoOf(() => owned.duplicate())).toBe('EBADF');
  expect(errnoOf(() => fdKind(owned.fd))).toBe('EBADF');
  expect(errnoOf(() => fileSize(owned.fd))).toBe('EBADF');
});

test('disposing closes', () => {
  expectFdChange(0, () => {
    const owned = new OwnedFd(openSync('/dev/zero', 'r'));
    owned[Symbol.dispose]();
    expect(errnoOf(() => fdKind(owned.fd))).toBe('EBADF');
  });
});

test('a duplicate is the same open file and outlives the original', () => {
  const owned = createMemoryFile('original', 5000);
  const duplicate = expectFdChange(1, () => owned.duplicate());
  expect(fstatSync(duplicate.fd).ino).toBe(fstatSync(owned.fd).ino);
  owned.close();
  expect(fileSize(duplicate.fd)).toBe(5000n);
  duplicate.close();
});

test('release gives the descriptor away without closing it', () => {
  const owned = new OwnedFd(openSync('/dev/zero', 'r'));
  const fd = expectFdChange(0, () => owned.release());
  expectFdChange(0, () => owned.close());
  expect(readSync(fd, new Uint8Array(4))).toBe(4);
  closeSync(fd);
});

test('closing a descriptor that is closed behind the owner does not throw', () => {
  const owned = new OwnedFd(openSync('/dev/zero', 'r'));
  closeSync(owned.fd);
  owned.close();
  expect(owned.closed).toBe(true);
});

test('fdKind tells what is behind a descriptor', () => {
  const fifo = inFolder('fifo');
  execFileSync('mkfifo', [fifo]);
  const [left, right] = socketPair();
  const kinds: [OwnedFd, string][] = [
    [new OwnedFd(openSync(inFolder('plain'), 'w+')), 'file'],
    [createMemoryFile('memory', 1), 'file'],
    [new OwnedFd(openSync('/', 'r')), 'directory'],
    [new OwnedFd(openSync('/dev/null', 'r')), 'character device'],
    [new OwnedFd(openSync(fifo, 'r+')), 'pipe'],
    [createEventFd(), 'anonymous'],
    [left, 'socket'],
    [right, 'socket'],
  ];
  for (const [owned, kind] of kinds) {
    expect(fdKind(owned.fd)).toBe(kind);
    owned.close();
  }
});

test('openFdCount follows every open and close', () => {
  const before = openFdCount();
  const opened = Array.from({ length: 10 }, () => createEventFd());
  expect(openFdCount()).toBe(before + 10);
  for (const [index, owned] of opened.entries()) {
    owned.close();
    expect(openFdCount()).toBe(before + 9 - index);
  }
});
