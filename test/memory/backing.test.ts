import { ftruncateSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { describe, expect, test } from 'vitest';
import { type Backing, backingFor, DmaMap, FileBacking, GuestMemory, MappedBacking } from '../../src/memory/index.js';
import {
  createEventFd,
  createMemoryFile,
  OwnedFd,
  openFdCount,
  readAt,
  socketPair,
  writeAt,
} from '../../src/native/index.js';
import type { ErrnoName } from '../../src/uapi/index.js';
import { errnoOf, expectFdChange, expectNoFdLeak, pattern, temporaryFolder } from '../native/helpers.js';

expectNoFdLeak();
const inFolder = temporaryFolder();

const both = { read: true, write: true };
const readOnly = { read: true, write: false };
const writeOnly = { read: false, write: true };

/** A memory file without seals: its owner may shrink it at any time. */
function shrinkableFile(size: number): OwnedFd {
  const create = koffi.load(null).func('int memfd_create(const char *, unsigned int)');
  const file = new OwnedFd(create('shrinkable', 3));
  ftruncateSync(file.fd, size);
  return file;
}

function plainFile(size: number, flags = 'w+'): OwnedFd {
  const file = new OwnedFd(openSync(inFolder('plain'), flags));
  if (size > 0) ftruncateSync(file.fd, size);
  return file;
}

describe('backingFor', () => {
  test('maps a file that is sealed against shrinking, and closes the descriptor at once', () => {
    const file = createMemoryFile('sealed', 8192);
    const backing = expectFdChange(-1, () => backingFor(file, 0n, 8192n, both));
    expect(backing).toBeInstanceOf(MappedBacking);
    expect(backing.kind).toBe('mapped');
    expectFdChange(0, () => backing.close());
  });

  test('maps no more than a part of the address space for peers: what is beyond is reached by read and write', () => {
    const huge = 2n ** 43n;
    const mapped: Backing[] = [];
    for (let next = backingFor(createMemoryFile('sparse', huge), 0n, huge, both); ; ) {
      mapped.push(next);
      if (next.kind === 'file') break;
      expect(mapped.length).toBeLessThan(16);
      next = backingFor(createMemoryFile('sparse', huge), 0n, huge, both);
    }
    const last = mapped.at(-1)!;
    last.write(4096, Uint8Array.of(1, 2, 3));
    const into = new Uint8Array(3);
    last.read(4096, into);
    expect([...into]).toEqual([1, 2, 3]);
    expect(mapped.length).toBeGreaterThan(2);
    mapped[0]!.close();
    mapped[0]!.close();
    const again = backingFor(createMemoryFile('sparse', huge), 0n, huge, both);
    expect(again.kind).toBe('mapped');
    for (const backing of [...mapped, again]) backing.close();
  });

  test('reads and writes a file that may shrink, and keeps the descriptor until the end', () => {
    for (const file of [shrinkableFile(8192), plainFile(8192)]) {
      const backing = expectFdChange(0, () => backingFor(file, 0n, 8192n, both));
      expect(backing).toBeInstanceOf(FileBacking);
      expect(backing.kind).toBe('file');
      expectFdChange(-1, () => backing.close());
      expectFdChange(0, () => backing.close());
    }
  });

  test.each([
    ['sealed', () => createMemoryFile('sealed', 16384)],
    ['shrinkable', () => shrinkableFile(16384)],
    ['plain', () => plainFile(16384)],
  ])('reaches the bytes of a %s file from its offset on', (_, make) => {
    using file = make();
    const backing = backingFor(file.duplicate(), 4096n, 8192n, both);
    backing.write(10, pattern(100));
    const bytes = new Uint8Array(100);
    readAt(file.fd, 4106, bytes);
    expect(bytes).toEqual(pattern(100));
    writeAt(file.fd, 4096 + 8191, Uint8Array.of(9));
    const last = new Uint8Array(1);
    backing.read(8191, last);
    expect(last[0]).toBe(9);
    backing.close();
    expect(errnoOf(() => backing.read(0, last))).toBe('EBADF');
    expect(errnoOf(() => backing.write(0, last))).toBe('EBADF');
    expectFdChange(0, () => backing.close());
  });

  test.each([
    ['sealed', () => createMemoryFile('sealed', 8192)],
    ['shrinkable', () => shrinkableFile(8192)],
  ])('refuses an interval outside a %s file with EINVAL, and closes the descriptor', (_, make) => {
    for (const [offset, length] of [
      [0n, 8193n],
      [4096n, 4097n],
      [8192n, 1n],
      [0n, 0n],
      [-4096n, 4096n],
      [0n, 2n ** 64n - 1n],
      [2n ** 64n - 4096n, 4096n],
      [2n ** 64n - 4096n, 8192n],
      [2n ** 63n, 1n],
    ] as const) {
      expectFdChange(0, () => expect(errnoOf(() => backingFor(make(), offset, length, both))).toBe('EINVAL'));
    }
  });

  test('refuses what it cannot reach, and closes the descriptor whatever the reason', () => {
    const narrow = (file: OwnedFd, flags: string) => {
      const second = new OwnedFd(openSync(`/proc/self/fd/${file.fd}`, flags));
      file.close();
      return second;
    };
    const cases: [string, () => OwnedFd, typeof both, ErrnoName][] = [
      ['empty file', () => plainFile(0), both, 'EINVAL'],
      ['sealed, opened for reading', () => narrow(createMemoryFile('x', 4096), 'r'), both, 'EACCES'],
      ['file, opened for reading', () => narrow(shrinkableFile(4096), 'r'), both, 'EACCES'],
      ['file, opened for reading, write-only region', () => narrow(shrinkableFile(4096), 'r'), writeOnly, 'EACCES'],
      ['file, cut to nothing when opened', () => narrow(plainFile(4096), 'w'), writeOnly, 'EINVAL'],
      ['file that appends', () => narrow(shrinkableFile(4096), 'a+'), both, 'EINVAL'],
      ['eventfd', () => createEventFd(), both, 'EINVAL'],
      ['character device', () => new OwnedFd(openSync('/dev/zero', 'r+')), both, 'EINVAL'],
      ['folder', () => new OwnedFd(openSync('/', 'r')), readOnly, 'EINVAL'],
      ['socket', () => socketOf(socketPair()), both, 'EINVAL'],
      ['no rights', () => createMemoryFile('x', 4096), { read: false, write: false }, 'EINVAL'],
      ['closed', () => closed(createMemoryFile('x', 4096)), both, 'EBADF'],
    ];
    for (const [name, make, rights, errno] of cases) {
      const before = openFdCount();
      expect([name, errnoOf(() => backingFor(make(), 0n, 4096n, rights))]).toEqual([name, errno]);
      expect([name, openFdCount()]).toEqual([name, before]);
    }
  });

  test('a file opened for writing only is refused to a region that reads', () => {
    const path = inFolder('write-only');
    new OwnedFd(openSync(path, 'w')).close();
    const file = new OwnedFd(openSync(path, 'r+'));
    ftruncateSync(file.fd, 4096);
    file.close();
    const writable = () => new OwnedFd(openSync(path, 0o1));
    expectFdChange(0, () => expect(errnoOf(() => backingFor(writable(), 0n, 4096n, readOnly))).toBe('EACCES'));
    expectFdChange(0, () => backingFor(writable(), 0n, 4096n, writeOnly).close());
  });

  test('an offset that is no multiple of a page cannot be mapped: EINVAL', () => {
    expectFdChange(0, () => {
      expect(errnoOf(() => backingFor(createMemoryFile('x', 8192), 100n, 4096n, both))).toBe('EINVAL');
    });
  });

  test('a file that appends may be read', () => {
    const file = new OwnedFd(openSync(inFolder('append'), 'a+'));
    ftruncateSync(file.fd, 4096);
    expectFdChange(-1, () => backingFor(file, 0n, 4096n, readOnly).close());
  });
});

test('MappedBacking itself refuses a file that may shrink', () => {
  expectFdChange(0, () => {
    expect(errnoOf(() => new MappedBacking(shrinkableFile(4096), 0n, 4096n, both))).toBe('EINVAL');
  });
});

test('a file that its owner shrinks fails the DMA and does not end the process; the log is told that bytes may have moved', () => {
  const file = shrinkableFile(3 * 4096);
  const map = new DmaMap();
  map.map({ iova: 0n, length: 12288n, readable: true, writable: true }, backingFor(file.duplicate(), 0n, 12288n, both));
  map.write(0, pattern(12288));
  ftruncateSync(file.fd, 4096 + 50);
  const bytes = new Uint8Array(4096);
  map.read(0, bytes);
  expect(bytes).toEqual(pattern(4096));
  expect(errnoOf(() => map.read(4096, bytes))).toBe('EIO');
  expect(bytes.subarray(0, 50)).toEqual(pattern(12288).subarray(4096, 4146));
  expect(errnoOf(() => map.read(8192, bytes))).toBe('EIO');
  ftruncateSync(file.fd, 0);
  expect(errnoOf(() => map.read(0, bytes))).toBe('EIO');
  expect(map.statistics.refused).toBe(0);
  expectFdChange(-1, () => map.unmapAll());
  file.close();
});

test('one DMA spans mapped memory, a file and mapped memory again', () => {
  using guest = GuestMemory.create(8192);
  const map = new DmaMap();
  const add = (iova: bigint, backing: Backing) =>
    map.map({ iova, length: 4096n, readable: true, writable: true }, backing);
  add(0n, backingFor(guest.duplicateFd(), 0n, 4096n, both));
  add(4096n, backingFor(shrinkableFile(4096), 0n, 4096n, both));
  add(8192n, backingFor(guest.duplicateFd(), 4096n, 4096n, both));
  expect(map.write(100, pattern(12000))).toBeUndefined();
  const bytes = new Uint8Array(12000);
  expect(map.read(100, bytes)).toBeUndefined();
  expect(bytes).toEqual(pattern(12000));
  expect(guest.view(100, 3996)).toEqual(pattern(12000).subarray(0, 3996));
  expect(guest.view(4096, 3908)).toEqual(pattern(12000).subarray(8092));
  expectFdChange(-1, () => map.unmapAll());
});

test('a map that refuses a region closes what backs it', () => {
  const map = new DmaMap();
  const region = { iova: 0n, length: 4096n, readable: true, writable: true };
  map.map(region, backingFor(shrinkableFile(4096), 0n, 4096n, both));
  expectFdChange(0, () => {
    expect(errnoOf(() => map.map(region, backingFor(shrinkableFile(4096), 0n, 4096n, both)))).toBe('EEXIST');
  });
  map.unmapAll();
});

function socketOf([left, right]: [OwnedFd, OwnedFd]): OwnedFd {
  right.close();
  return left;
}

function closed(file: OwnedFd): OwnedFd {
  file.close();
  return file;
}
