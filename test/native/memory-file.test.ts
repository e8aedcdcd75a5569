import { ftruncateSync, openSync, readlinkSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  accessOf,
  createMemoryFile,
  fileSize,
  isShrinkSealed,
  OwnedFd,
  readAt,
  Seal,
  sealsOf,
  socketPair,
  writeAt,
} from '../../src/native/index.js';
import { errnoOf, expectFdChange, expectNoFdLeak, pattern, sameBytes, temporaryFolder } from './helpers.js';

expectNoFdLeak();
const inFolder = temporaryFolder();

test('a memory file has its size, its name and zeros in it', () => {
  using file = createMemoryFile('a name', 10_000);
  expect(fileSize(file.fd)).toBe(10_000n);
  expect(readlinkSync(`/proc/self/fd/${file.fd}`)).toContain('memfd:a name');
  const bytes = new Uint8Array(10_000).fill(7);
  expect(readAt(file.fd, 0, bytes)).toBe(10_000);
  expect(bytes.every(byte => byte === 0)).toBe(true);
});

test('a memory file can neither shrink nor grow, and the seals stay', () => {
  using file = createMemoryFile('sealed', 8192);
  expect(sealsOf(file.fd)).toBe(Seal.SHRINK | Seal.GROW | Seal.SEAL);
  expect(isShrinkSealed(file.fd)).toBe(true);
  expect(() => ftruncateSync(file.fd, 4096)).toThrow('EPERM');
  expect(() => ftruncateSync(file.fd, 16384)).toThrow('EPERM');
  expect(errnoOf(() => writeAt(file.fd, 8192, pattern(1)))).toBe('EPERM');
  expect(fileSize(file.fd)).toBe(8192n);
});

test.each([0, -1, 1.5, Number.NaN, Infinity, 2 ** 53, 0n, -1n, 2n ** 63n, 2n ** 64n])(
  'a memory file of %s bytes is EINVAL',
  size => {
    expectFdChange(0, () => expect(errnoOf(() => createMemoryFile('bad', size))).toBe('EINVAL'));
  },
);

test('a name that is too long is EINVAL and leaks nothing', () => {
  expectFdChange(0, () => expect(errnoOf(() => createMemoryFile('x'.repeat(250), 4096))).toBe('EINVAL'));
});

test('what cannot be sealed has no seals, and a closed descriptor is EBADF', () => {
  using plain = new OwnedFd(openSync(inFolder('plain'), 'w+'));
  const [left, right] = socketPair();
  for (const owned of [plain, left, right]) {
    expect(sealsOf(owned.fd)).toBe(0);
    expect(isShrinkSealed(owned.fd)).toBe(false);
    owned.close();
  }
  expect(errnoOf(() => sealsOf(plain.fd))).toBe('EBADF');
  expect(errnoOf(() => isShrinkSealed(plain.fd))).toBe('EBADF');
});

test('accessOf tells how a descriptor was opened', () => {
  const path = inFolder('access');
  const access = (flags: string) => {
    using file = new OwnedFd(openSync(path, flags));
    return accessOf(file.fd);
  };
  expect(access('w')).toEqual({ readable: false, writable: true, append: false });
  expect(access('r')).toEqual({ readable: true, writable: false, append: false });
  expect(access('r+')).toEqual({ readable: true, writable: true, append: false });
  expect(access('a')).toEqual({ readable: false, writable: true, append: true });
  expect(errnoOf(() => accessOf(-1))).toBe('EBADF');
});

test('readAt and writeAt reach beyond 4 GiB', () => {
  using file = createMemoryFile('large', 2 ** 40);
  for (const offset of [2 ** 31 - 3, 2 ** 32 - 3, 2 ** 32, 5 * 2 ** 30 + 1, 2 ** 40 - 100]) {
    writeAt(file.fd, offset, pattern(100, offset));
    const bytes = new Uint8Array(100);
    expect(readAt(file.fd, offset, bytes)).toBe(100);
    expect(bytes).toEqual(pattern(100, offset));
  }
});

test('readAt tells how much was there before the end of the file', () => {
  using file = createMemoryFile('short', 100);
  writeAt(file.fd, 0, pattern(100));
  const bytes = new Uint8Array(50);
  expect(readAt(file.fd, 70, bytes)).toBe(30);
  expect(bytes.subarray(0, 30)).toEqual(pattern(100).subarray(70));
  expect(readAt(file.fd, 100, bytes)).toBe(0);
  expect(readAt(file.fd, 2 ** 50, bytes)).toBe(0);
  expect(readAt(file.fd, 0, new Uint8Array(0))).toBe(0);
});

test('readAt and writeAt name errno and call', () => {
  using readOnly = new OwnedFd(openSync('/dev/zero', 'r'));
  const [left, right] = socketPair();
  expect(() => writeAt(readOnly.fd, 0, pattern(1))).toThrow('pwrite (EBADF)');
  expect(() => readAt(-1, 0, new Uint8Array(1))).toThrow('pread (EBADF)');
  expect(() => readAt(left.fd, 0, new Uint8Array(1))).toThrow('pread: errno 29 (EIO)');
  expect(errnoOf(() => writeAt(readOnly.fd, 0, new Uint8Array(0)))).toBeUndefined();
  left.close();
  right.close();
});

test('random writes and reads agree with an array', () => {
  const size = 300;
  using file = new OwnedFd(openSync(inFolder('random'), 'w+'));
  const twin = new Uint8Array(size);
  writeSync(file.fd, twin);
  const access = fc.record({ offset: fc.nat(size), length: fc.nat(size), seed: fc.nat(250), write: fc.boolean() });
  fc.assert(
    fc.property(access, ({ offset, length, seed, write }) => {
      const inside = Math.min(length, size - offset);
      if (write) {
        writeAt(file.fd, offset, pattern(inside, seed));
        twin.set(pattern(inside, seed), offset);
      }
      const bytes = new Uint8Array(length);
      expect(readAt(file.fd, offset, bytes)).toBe(inside);
      expect(sameBytes(bytes.subarray(0, inside), twin.subarray(offset, offset + inside))).toBe(true);
    }),
    { numRuns: 2000 },
  );
});
