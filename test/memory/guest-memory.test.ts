import { ftruncateSync } from 'node:fs';
import { expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { isShrinkSealed, Mapping, readAt } from '../../src/native/index.js';
import { withFreeFds } from '../native/fd-limit.js';
import { errnoOf, expectFdChange, expectNoFdLeak, pattern } from '../native/helpers.js';

expectNoFdLeak();

test('guest memory is zeros of the size asked for, and sealed so that a device may map it', () => {
  for (const size of [1, 4096, 100_000n]) {
    using guest = GuestMemory.create(size);
    expect(guest.size).toBe(BigInt(size));
    expect(isShrinkSealed(guest.fd)).toBe(true);
    expect(() => ftruncateSync(guest.fd, 0)).toThrow('EPERM');
    const bytes = new Uint8Array(Number(size)).fill(1);
    guest.read(0, bytes);
    expect(bytes.every(byte => byte === 0)).toBe(true);
  }
});

test('a device that maps the descriptor sees the same bytes, both ways', () => {
  using guest = GuestMemory.create(8192);
  using device = Mapping.map(guest.fd, 0, 8192, { read: true, write: true });
  guest.write(100, pattern(500));
  expect(device.view(100, 500)).toEqual(pattern(500));
  device.write(4000, pattern(500, 7));
  const bytes = new Uint8Array(500);
  guest.read(4000, bytes);
  expect(bytes).toEqual(pattern(500, 7));
  expect(guest.view(4000, 500)).toEqual(bytes);
});

test('a duplicate descriptor outlives the guest memory', () => {
  const guest = GuestMemory.create(4096);
  guest.write(0, pattern(10));
  const copy = expectFdChange(1, () => guest.duplicateFd());
  expectFdChange(-1, () => guest.close());
  const bytes = new Uint8Array(10);
  readAt(copy.fd, 0, bytes);
  expect(bytes).toEqual(pattern(10));
  copy.close();
});

test('closing twice is harmless, and everything is EBADF afterwards', () => {
  const guest = GuestMemory.create(4096);
  guest.close();
  expectFdChange(0, () => guest.close());
  expect(guest.fd).toBe(-1);
  expect(errnoOf(() => guest.read(0, new Uint8Array(1)))).toBe('EBADF');
  expect(errnoOf(() => guest.write(0, new Uint8Array(1)))).toBe('EBADF');
  expect(errnoOf(() => guest.view(0, 1))).toBe('EBADF');
  expect(errnoOf(() => guest.duplicateFd())).toBe('EBADF');
});

test('out of range is EFAULT, a bad size EINVAL', () => {
  using guest = GuestMemory.create(4096);
  expect(errnoOf(() => guest.read(4096, new Uint8Array(1)))).toBe('EFAULT');
  expect(errnoOf(() => guest.write(4095, new Uint8Array(2)))).toBe('EFAULT');
  for (const size of [0, -1, 0.5, Number.NaN, Infinity, 2 ** 53, 2n ** 53n, 2n ** 64n]) {
    expectFdChange(0, () => expect(errnoOf(() => GuestMemory.create(size))).toBe('EINVAL'));
  }
});

test('memory that cannot be had leaks nothing', () => {
  expectFdChange(0, () => expect(errnoOf(() => GuestMemory.create(2 ** 52))).toBe('ENOMEM'));
  withFreeFds(0, () => expect(errnoOf(() => GuestMemory.create(4096))).toBe('EMFILE'));
});
