import { openSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  createMemoryFile,
  Mapping,
  OwnedFd,
  readAt,
  socketPair,
  WINDOW_SIZE,
  writeAt,
} from '../../src/native/index.js';
import { addressSpace, collectUntil, errnoOf, expectFdChange, expectNoFdLeak, pattern, sameBytes } from './helpers.js';

expectNoFdLeak();

const both = { read: true, write: true };
const readOnly = { read: true, write: false };
const writeOnly = { read: false, write: true };

function mapNew(length: number, rights = both): Mapping {
  using file = createMemoryFile('mapping', length);
  return Mapping.map(file.fd, 0, length, rights);
}

function isMapped(name: string): boolean {
  return readFileSync('/proc/self/maps', 'utf8').includes(`memfd:${name} `);
}

describe('a mapping', () => {
  test('is the file: writes show in either', () => {
    using file = createMemoryFile('shared', 3 * 4096);
    using mapping = Mapping.map(file.fd, 4096, 8192, both);
    mapping.write(10, pattern(100));
    const bytes = new Uint8Array(100);
    readAt(file.fd, 4096 + 10, bytes);
    expect(bytes).toEqual(pattern(100));
    writeAt(file.fd, 3 * 4096 - 1, Uint8Array.of(9));
    const last = new Uint8Array(1);
    mapping.read(8191, last);
    expect(last[0]).toBe(9);
  });

  test('stays when the descriptor is closed', () => {
    using mapping = expectFdChange(0, () => mapNew(4096));
    mapping.write(0, pattern(4096));
    const bytes = new Uint8Array(4096);
    mapping.read(0, bytes);
    expect(bytes).toEqual(pattern(4096));
  });

  test('takes a length that is no multiple of a page, and nothing beyond it', () => {
    using mapping = mapNew(5000);
    mapping.write(4999, Uint8Array.of(1));
    expect(mapping.windows.map(window => window.length)).toEqual([5000]);
    expect(errnoOf(() => mapping.write(5000, Uint8Array.of(1)))).toBe('EFAULT');
  });

  test('agrees with an array under random reads, writes and fills', () => {
    const size = 300;
    using mapping = mapNew(size);
    const twin = new Uint8Array(size);
    const action = fc.record({
      kind: fc.constantFrom('read', 'write', 'fill', 'view'),
      offset: fc.integer({ min: -2, max: size + 2 }),
      length: fc.nat(size + 2),
      byte: fc.nat(255),
    });
    fc.assert(
      fc.property(action, ({ kind, offset, length, byte }) => {
        const inside = offset >= 0 && offset + length <= size;
        const bytes = new Uint8Array(length);
        const errno = errnoOf(() => {
          if (kind === 'read') mapping.read(offset, bytes);
          else if (kind === 'view') bytes.set(mapping.view(offset, length));
          else if (kind === 'fill') mapping.fill(offset, length, byte);
          else mapping.write(offset, pattern(length, byte));
        });
        expect(errno).toBe(inside ? undefined : 'EFAULT');
        if (inside && kind === 'fill') twin.fill(byte, offset, offset + length);
        if (inside && kind === 'write') twin.set(pattern(length, byte), offset);
        if (inside && (kind === 'read' || kind === 'view')) {
          expect(sameBytes(bytes, twin.subarray(offset, offset + length))).toBe(true);
        }
        expect(sameBytes(mapping.view(0, size), twin)).toBe(true);
      }),
      { numRuns: 4000 },
    );
  });

  test.each([-1, 0.5, Number.NaN, Infinity, -Infinity, 2 ** 53])('answers EFAULT for offset %s', offset => {
    using mapping = mapNew(4096);
    expect(errnoOf(() => mapping.read(offset, new Uint8Array(1)))).toBe('EFAULT');
    expect(errnoOf(() => mapping.write(offset, new Uint8Array(1)))).toBe('EFAULT');
    expect(errnoOf(() => mapping.fill(offset, 1, 0))).toBe('EFAULT');
    expect(errnoOf(() => mapping.view(offset, 1))).toBe('EFAULT');
  });

  test('answers EFAULT for a negative or fractional length', () => {
    using mapping = mapNew(4096);
    for (const length of [-1, Number.NaN, Infinity]) {
      expect(errnoOf(() => mapping.fill(0, length, 0))).toBe('EFAULT');
      expect(errnoOf(() => mapping.view(0, length))).toBe('EFAULT');
    }
  });

  test('moves nothing at its very end', () => {
    using mapping = mapNew(4096);
    mapping.read(4096, new Uint8Array(0));
    mapping.write(4096, new Uint8Array(0));
    mapping.fill(4096, 0, 1);
    expect(mapping.view(4096, 0)).toHaveLength(0);
  });
});

describe('rights', () => {
  test('a read-only mapping reads, and refuses every write before it touches a page', () => {
    using file = createMemoryFile('read-only', 4096);
    writeAt(file.fd, 0, pattern(64));
    using mapping = Mapping.map(file.fd, 0, 4096, readOnly);
    const bytes = new Uint8Array(64);
    mapping.read(0, bytes);
    expect(bytes).toEqual(pattern(64));
    expect(errnoOf(() => mapping.write(0, pattern(1)))).toBe('EACCES');
    expect(errnoOf(() => mapping.fill(0, 1, 1))).toBe('EACCES');
    expect(errnoOf(() => mapping.view(0, 1))).toBe('EACCES');
    expect(errnoOf(() => mapping.windows)).toBe('EACCES');
  });

  test('a write-only mapping writes and does not read', () => {
    using file = createMemoryFile('write-only', 4096);
    using mapping = Mapping.map(file.fd, 0, 4096, writeOnly);
    mapping.write(5, pattern(64));
    const bytes = new Uint8Array(64);
    readAt(file.fd, 5, bytes);
    expect(bytes).toEqual(pattern(64));
    expect(errnoOf(() => mapping.read(0, bytes))).toBe('EACCES');
    expect(errnoOf(() => mapping.view(0, 1))).toBe('EACCES');
  });

  test('a descriptor that was opened for reading cannot be mapped for writing', () => {
    using file = createMemoryFile('narrow', 4096);
    using narrow = new OwnedFd(openSync(`/proc/self/fd/${file.fd}`, 'r'));
    Mapping.map(narrow.fd, 0, 4096, readOnly).close();
    expect(errnoOf(() => Mapping.map(narrow.fd, 0, 4096, both))).toBe('EACCES');
  });
});

describe('what cannot be mapped', () => {
  const bad: [string, number | bigint, number][] = [
    ['no bytes', 0, 0],
    ['negative length', 0, -1],
    ['fractional length', 0, 4096.5],
    ['length beyond 2^53', 0, 2 ** 53],
    ['unaligned offset', 100, 4096],
    ['negative offset', -4096, 4096],
    ['fractional offset', 0.5, 4096],
    ['offset 2^63', 2n ** 63n, 4096],
    ['offset 2^64', 2n ** 64n, 4096],
  ];
  test.each(bad)('%s is EINVAL', (_, offset, length) => {
    using file = createMemoryFile('bad', 8192);
    expect(errnoOf(() => Mapping.map(file.fd, offset, length, both))).toBe('EINVAL');
  });

  test('no right at all is EINVAL', () => {
    using file = createMemoryFile('bad', 8192);
    expect(errnoOf(() => Mapping.map(file.fd, 0, 4096, { read: false, write: false }))).toBe('EINVAL');
  });

  test('a closed descriptor is EBADF, a socket ENODEV', () => {
    const [left, right] = socketPair();
    expect(errnoOf(() => Mapping.map(left.fd, 0, 4096, both))).toBe('ENODEV');
    left.close();
    right.close();
    expect(errnoOf(() => Mapping.map(left.fd, 0, 4096, both))).toBe('EBADF');
  });

  test('more than the address space is ENOMEM', () => {
    using file = createMemoryFile('huge', 2n ** 52n);
    expect(errnoOf(() => Mapping.map(file.fd, 0, 2 ** 52, both))).toBe('ENOMEM');
  });
});

describe('windows', () => {
  test('a mapping of more than 1 GiB is read, written and filled across the border', () => {
    const size = WINDOW_SIZE + 8192;
    using mapping = mapNew(size);
    const border = WINDOW_SIZE;
    for (let before = 0; before <= 40; before++) {
      mapping.write(border - before, pattern(40, before));
      const bytes = new Uint8Array(40);
      mapping.read(border - before, bytes);
      expect(bytes).toEqual(pattern(40, before));
    }
    mapping.fill(border - 100, 200, 0xee);
    const around = new Uint8Array(202);
    mapping.read(border - 101, around);
    expect(around[0]).toBe(0);
    expect(around.subarray(1, 201).every(byte => byte === 0xee)).toBe(true);
    expect(around[201]).toBe(0);
    expect(mapping.windows.map(window => window.length)).toEqual([WINDOW_SIZE, 8192]);
    expect(mapping.windows[1]!.subarray(0, 100).every(byte => byte === 0xee)).toBe(true);
  });

  test('a view lies in one window: at the border yes, across it EINVAL', () => {
    using mapping = mapNew(WINDOW_SIZE + 8192);
    expect(mapping.view(WINDOW_SIZE - 10, 10)).toHaveLength(10);
    expect(mapping.view(WINDOW_SIZE, 8192)).toHaveLength(8192);
    expect(errnoOf(() => mapping.view(WINDOW_SIZE - 10, 11))).toBe('EINVAL');
    mapping.view(WINDOW_SIZE, 1)[0] = 5;
    const byte = new Uint8Array(1);
    mapping.read(WINDOW_SIZE, byte);
    expect(byte[0]).toBe(5);
  });

  test('a whole number of windows has no window behind the last', () => {
    using mapping = mapNew(2 * WINDOW_SIZE);
    mapping.write(2 * WINDOW_SIZE, new Uint8Array(0));
    mapping.write(2 * WINDOW_SIZE - 1, Uint8Array.of(3));
    expect(mapping.windows).toHaveLength(2);
  });

  test('a terabyte costs only the windows that are touched', () => {
    const size = 2 ** 40;
    const before = process.memoryUsage().external;
    using mapping = mapNew(size);
    for (const offset of [0, size / 2, size - 5]) {
      mapping.write(offset, pattern(5, offset));
      const bytes = new Uint8Array(5);
      mapping.read(offset, bytes);
      expect(bytes).toEqual(pattern(5, offset));
    }
    expect(process.memoryUsage().external - before).toBeLessThan(4 * WINDOW_SIZE);
  });
});

describe('closing', () => {
  test('ends every access with EBADF, and a second close does nothing', () => {
    const mapping = mapNew(4096);
    mapping.close();
    mapping.close();
    expect(errnoOf(() => mapping.read(0, new Uint8Array(1)))).toBe('EBADF');
    expect(errnoOf(() => mapping.write(0, new Uint8Array(1)))).toBe('EBADF');
    expect(errnoOf(() => mapping.fill(0, 1, 1))).toBe('EBADF');
    expect(errnoOf(() => mapping.view(0, 1))).toBe('EBADF');
    expect(errnoOf(() => mapping.windows)).toBe('EBADF');
  });

  test('gives the pages back at once when nobody was given a view', () => {
    using file = createMemoryFile('unseen', 4096);
    const mapping = Mapping.map(file.fd, 0, 4096, both);
    mapping.write(0, pattern(100));
    expect(isMapped('unseen')).toBe(true);
    mapping.close();
    expect(isMapped('unseen')).toBe(false);
  });

  test('leaves views that show zeros and lead nowhere', () => {
    using file = createMemoryFile('stale', 8192);
    const mapping = Mapping.map(file.fd, 0, 8192, both);
    mapping.write(0, pattern(8192));
    const view = mapping.view(4000, 200);
    mapping.close();
    expect(isMapped('stale')).toBe(false);
    expect(view.every(byte => byte === 0)).toBe(true);
    view.fill(0xff);
    const bytes = new Uint8Array(200);
    readAt(file.fd, 4000, bytes);
    expect(bytes).toEqual(pattern(8192).subarray(4000, 4200));
  });

  test('gives the addresses back when the last view is gone, and not before', async () => {
    const size = WINDOW_SIZE + 8192;
    await collectUntil(() => false); // what other tests left must not go meanwhile
    const before = addressSpace();
    const held = (() => {
      using mapping = mapNew(size);
      mapping.write(size - 1, pattern(1));
      return { view: mapping.view(0, 4096) as Uint8Array | undefined };
    })();
    await collectUntil(() => false);
    expect(addressSpace() - before).toBeGreaterThan(0.9 * WINDOW_SIZE);
    held.view!.fill(1);
    held.view = undefined;
    expect(await collectUntil(() => addressSpace() - before < 0.1 * WINDOW_SIZE)).toBe(true);
  });

  test('a thousand mappings that come and go leave no pages behind', () => {
    using file = createMemoryFile('churn', 4096);
    const twin = Mapping.map(file.fd, 0, 4096, both);
    for (let round = 0; round < 1000; round++) {
      const mapping = Mapping.map(file.fd, 0, 4096, both);
      mapping.write(round, Uint8Array.of(round));
      mapping.close();
    }
    const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
    expect(maps.filter(line => line.includes('memfd:churn '))).toHaveLength(1);
    const bytes = new Uint8Array(1000);
    twin.read(0, bytes);
    expect(bytes).toEqual(Uint8Array.from({ length: 1000 }, (_, index) => index));
    twin.close();
  });

  test('a view cannot be transferred away from the mapping', () => {
    using mapping = mapNew(4096);
    const view = mapping.view(0, 10);
    try {
      structuredClone(view, { transfer: [view.buffer as ArrayBuffer] });
    } catch {
      // Node 20 ignores the request, later versions refuse it: either way the view must still be there.
    }
    expect(mapping.view(0, 10)).toHaveLength(10);
    mapping.write(0, pattern(10));
    expect(view).toEqual(pattern(10));
  });
});
