import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  createMemoryFile,
  Mapping,
  OwnedFd,
  readAt,
  type WatchedInterval,
  WINDOW_SIZE,
  WriteWatch,
  writeAt,
} from '../../src/native/index.js';
import { errnoOf, expectFdChange, expectNoFdLeak } from './helpers.js';
import { Advice, advise, cannotWatchWrites, punchHole, replacePages, unmapPages } from './memory-calls.js';

expectNoFdLeak();

const PAGE = 4096;
const rights = { read: true, write: true };

/** The runs of pages of a mapping that were written. */
function takeRuns(watch: WriteWatch, interval: WatchedInterval): [number, number][] {
  const taken: [number, number][] = [];
  const first = interval.offset / PAGE;
  watch.takeWritten(interval, (runs, count) => {
    for (let run = 0; run < count; run++) taken.push([first + runs[2 * run]!, first + runs[2 * run + 1]!]);
  });
  return taken;
}

/** A memory file of so many pages, mapped and watched as a whole. */
class Watched implements Disposable {
  readonly file: OwnedFd;
  readonly mapping: Mapping;
  readonly watch = new WriteWatch();
  readonly pages: number;

  constructor(pages: number, before: (mapping: Mapping) => void = () => {}) {
    this.pages = pages;
    this.file = createMemoryFile('watched', pages * PAGE);
    this.mapping = Mapping.map(this.file.fd, 0, pages * PAGE, rights);
    before(this.mapping);
    this.watch.add({ mapping: this.mapping, offset: 0, length: pages * PAGE });
  }

  touch(...pages: number[]): void {
    for (const page of pages) this.mapping.write(page * PAGE + (page % PAGE), Uint8Array.of(1));
  }

  /** Numbers of the pages that were written. */
  take(first = 0, count = this.pages - first): number[] {
    const taken: number[] = [];
    const interval = { mapping: this.mapping, offset: first * PAGE, length: count * PAGE };
    for (const [start, end] of takeRuns(this.watch, interval)) {
      for (let page = start; page < end; page++) taken.push(page);
    }
    return taken;
  }

  [Symbol.dispose](): void {
    this.watch.close();
    this.mapping.close();
    this.file.close();
  }
}

/** How many areas of this process the kernel watches for writes. */
function watchedAreas(): number {
  const flags = readFileSync('/proc/self/smaps', 'utf8').match(/^VmFlags:.*\buw\b/gm);
  return flags?.length ?? 0;
}

function areas(): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter(line => line.includes('memfd:watched')).length;
}

describe.skipIf(cannotWatchWrites())('a write watch', () => {
  test('names exactly the pages that were written, as a naive set does', () => {
    const size = 40;
    using watched = new Watched(size);
    const naive = new Set<number>();
    const action = fc.record({
      kind: fc.constantFrom('write', 'fill', 'view', 'read', 'take', 'take a part'),
      offset: fc.nat(size * PAGE - 1),
      length: fc.oneof(fc.nat(3), fc.nat(3 * PAGE)),
    });
    fc.assert(
      fc.property(action, ({ kind, offset, length }) => {
        const count = Math.min(length, size * PAGE - offset);
        const first = Math.floor(offset / PAGE);
        if (kind === 'read') watched.mapping.read(offset, new Uint8Array(count));
        else if (kind === 'take' || kind === 'take a part') {
          const from = kind === 'take' ? 0 : first;
          const expected = [...naive].filter(page => page >= from).sort((a, b) => a - b);
          expect(watched.take(from)).toEqual(expected);
          for (const page of expected) naive.delete(page);
        } else {
          if (kind === 'write') watched.mapping.write(offset, new Uint8Array(count));
          else if (kind === 'fill') watched.mapping.fill(offset, count, 7);
          else watched.mapping.view(offset, count).fill(9);
          if (count > 0) for (let page = first; page <= (offset + count - 1) / PAGE; page++) naive.add(page);
        }
      }),
      { numRuns: 3000 },
    );
  });

  test('names pages that were never populated before, and none of those that were only read', () => {
    using watched = new Watched(1000, mapping => mapping.fill(0, 500 * PAGE, 1));
    expect(watched.take()).toEqual([]);
    watched.mapping.read(0, new Uint8Array(1000 * PAGE));
    watched.touch(3, 700, 999);
    expect(watched.take()).toEqual([3, 700, 999]);
    expect(watched.take()).toEqual([]);
  });

  test('goes on where one answer of the kernel is full', () => {
    using watched = new Watched(30_000);
    const every = Array.from({ length: 15_000 }, (_, index) => index * 2);
    watched.touch(...every);
    expect(watched.take()).toEqual(every);
    expect(watched.take()).toEqual([]);
  });

  test('sees what read(2) puts into the memory', () => {
    using watched = new Watched(16);
    const zeros = new OwnedFd(openSync('/dev/zero', 'r'));
    readAt(zeros.fd, 0, watched.mapping.view(5 * PAGE - 1, 2));
    zeros.close();
    expect(watched.take()).toEqual([4, 5]);
  });

  test('watches across the border of a window', () => {
    const border = WINDOW_SIZE / PAGE;
    using file = createMemoryFile('large', WINDOW_SIZE + 16 * PAGE);
    using mapping = Mapping.map(file.fd, 0, WINDOW_SIZE + 16 * PAGE, rights);
    using watch = new WriteWatch();
    const interval = { mapping, offset: WINDOW_SIZE - 16 * PAGE, length: 32 * PAGE };
    watch.add(interval);
    mapping.write(WINDOW_SIZE - 1, Uint8Array.of(1, 2));
    expect(takeRuns(watch, interval)).toEqual([[border - 1, border + 1]]);
  });

  test('does not see what goes to the file by another way: another mapping, pwrite, a hole', () => {
    using watched = new Watched(64, mapping => mapping.fill(0, 64 * PAGE, 1));
    using other = Mapping.map(watched.file.fd, 0, 64 * PAGE, rights);
    other.write(3 * PAGE, Uint8Array.of(2));
    writeAt(watched.file.fd, 4 * PAGE, Uint8Array.of(2));
    punchHole(watched.file, 5, 2);
    const byte = new Uint8Array(1);
    watched.mapping.read(5 * PAGE, byte);
    expect(byte[0]).toBe(0);
    expect(watched.take()).toEqual([]);
    watched.touch(5);
    expect(watched.take()).toEqual([5]);
  });

  test('keeps the marks, and the protection, of pages that the process lets go', () => {
    using watched = new Watched(64, mapping => mapping.fill(0, 64 * PAGE, 1));
    watched.touch(10);
    expect(advise(watched.mapping, 0, 64, Advice.DONTNEED)).toBe(true);
    expect(watched.take()).toContain(10);
    watched.touch(20);
    expect(watched.take()).toEqual([20]);
  });

  test('tells small pages apart in memory of huge ones', ({ skip }) => {
    const pages = 4096;
    using file = createMemoryFile('huge', pages * 2 * PAGE);
    // A huge page of a file is mapped as one only where its address is as far from a border as its offset.
    const probe = Mapping.map(file.fd, 0, pages * PAGE, rights);
    const shift = (probe.address / PAGE) % 512;
    probe.close();
    using mapping = Mapping.map(file.fd, shift * PAGE, pages * PAGE, rights);
    mapping.fill(0, pages * PAGE, 1);
    const first = 512 - shift;
    const collapsed = (mapping.address / PAGE) % 512 === shift && advise(mapping, first, 1024, Advice.COLLAPSE);
    const isHuge = () => /ShmemPmdMapped: +4096 kB/.test(readFileSync('/proc/self/smaps', 'utf8'));
    skip(!(collapsed && isHuge()), 'the kernel gives no huge pages here');
    using watch = new WriteWatch();
    const interval = { mapping, offset: 0, length: pages * PAGE };
    watch.add(interval);
    mapping.write((first + 700) * PAGE, Uint8Array.of(2));
    expect(takeRuns(watch, interval)).toEqual([[first + 700, first + 701]]);
  });

  test('goes on when a child is made and runs', () => {
    using watched = new Watched(64);
    watched.touch(1);
    expect(spawnSync('true').status).toBe(0);
    watched.touch(2);
    expect(watched.take()).toEqual([1, 2]);
  });
});

describe.skipIf(cannotWatchWrites())('two watches', () => {
  test('cannot have the same memory: EBUSY, until the first is closed', () => {
    using watched = new Watched(16);
    const interval = { mapping: watched.mapping, offset: 8 * PAGE, length: 8 * PAGE };
    using second = new WriteWatch();
    expect(errnoOf(() => second.add(interval))).toBe('EBUSY');
    watched.touch(9);
    expect(watched.take()).toEqual([9]);
    watched.watch.close();
    second.add(interval);
    watched.touch(3, 10);
    expect(takeRuns(second, interval)).toEqual([[10, 11]]);
  });
});

describe.skipIf(cannotWatchWrites())('refusals', () => {
  test.each([
    ['an offset inside a page', 100, PAGE],
    ['a length that is no whole page', 0, 100],
    ['nothing', 0, 0],
    ['a negative offset', -PAGE, PAGE],
    ['more than the mapping', 0, 17 * PAGE],
  ])('%s is EINVAL', (_, offset, length) => {
    using file = createMemoryFile('bad', 16 * PAGE);
    using mapping = Mapping.map(file.fd, 0, 16 * PAGE, rights);
    using watch = new WriteWatch();
    expect(errnoOf(() => watch.add({ mapping, offset, length }))).toBe('EINVAL');
  });

  test('memory that nobody here can write is EPERM', () => {
    using file = createMemoryFile('narrow', PAGE);
    using narrow = new OwnedFd(openSync(`/proc/self/fd/${file.fd}`, 'r'));
    using mapping = Mapping.map(narrow.fd, 0, PAGE, { read: true, write: false });
    using watch = new WriteWatch();
    expect(errnoOf(() => watch.add({ mapping, offset: 0, length: PAGE }))).toBe('EPERM');
  });

  test('a mapping that was closed is EBADF, and closing the watch leaves its addresses alone', () => {
    using watched = new Watched(16);
    watched.mapping.close();
    expect(errnoOf(() => watched.take())).toBe('EBADF');
    // Maps at the addresses that have just come free.
    using next = new Watched(16);
    watched.watch.close();
    next.touch(4);
    expect(next.take()).toEqual([4]);
  });

  test('memory of which a part was exchanged is EPERM, and never called clean', () => {
    using watched = new Watched(16);
    replacePages(watched.mapping, watched.file, 8, 2);
    watched.touch(8);
    expect(errnoOf(() => watched.take())).toBe('EPERM');
  });
});

describe.skipIf(cannotWatchWrites())('what the kernel does not tell', () => {
  test('pages whose addresses are taken away are called clean', () => {
    using watched = new Watched(16);
    watched.touch(3, 8, 12);
    unmapPages(watched.mapping, 8, 2);
    expect(watched.take()).toEqual([3, 12]);
    replacePages(watched.mapping, watched.file, 8, 2);
  });
});

describe.skipIf(cannotWatchWrites())('a mapping that is only written', () => {
  test('is watched like any other', () => {
    using file = createMemoryFile('write-only', 4 * PAGE);
    using mapping = Mapping.map(file.fd, 0, 4 * PAGE, { read: false, write: true });
    using watch = new WriteWatch();
    const interval = { mapping, offset: 0, length: 4 * PAGE };
    watch.add(interval);
    mapping.write(2 * PAGE, Uint8Array.of(1));
    expect(takeRuns(watch, interval)).toEqual([[2, 3]]);
  });
});

describe.skipIf(cannotWatchWrites())('closing', () => {
  test('gives descriptors and areas back, and a second time does nothing', () => {
    using file = createMemoryFile('watched', 64 * PAGE);
    using mapping = Mapping.map(file.fd, 0, 64 * PAGE, rights);
    const before = { watched: watchedAreas(), areas: areas() };
    expectFdChange(0, () => {
      const watch = new WriteWatch();
      watch.add({ mapping, offset: 8 * PAGE, length: 8 * PAGE });
      watch.add({ mapping, offset: 32 * PAGE, length: 8 * PAGE });
      mapping.fill(0, 64 * PAGE, 1);
      expect(watchedAreas()).toBe(before.watched + 2);
      watch.close();
      watch.close();
    });
    expect({ watched: watchedAreas(), areas: areas() }).toEqual(before);
    mapping.fill(0, 64 * PAGE, 2);
  });

  test('by SIGKILL leaves nothing behind', async () => {
    using file = createMemoryFile('watched', 16 * PAGE);
    const native = new URL('../../dist/native/index.js', import.meta.url).href;
    const program = `
      import { Mapping, WriteWatch } from ${JSON.stringify(native)};
      const mapping = Mapping.map(3, 0, ${16 * PAGE}, { read: true, write: true });
      const watch = new WriteWatch();
      watch.add({ mapping, offset: 0, length: ${16 * PAGE} });
      mapping.write(0, Uint8Array.of(7));
      console.log('armed');
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit', file.fd],
    });
    expect(String(await once(child.stdout!, 'data'))).toBe('armed\n');
    child.kill('SIGKILL');
    await once(child, 'close');
    using mapping = Mapping.map(file.fd, 0, 16 * PAGE, rights);
    const byte = new Uint8Array(1);
    mapping.read(0, byte);
    expect(byte[0]).toBe(7);
    using watch = new WriteWatch();
    watch.add({ mapping, offset: 0, length: 16 * PAGE });
    mapping.fill(0, 16 * PAGE, 8);
    expect(takeRuns(watch, { mapping, offset: 0, length: 16 * PAGE })).toEqual([[0, 16]]);
  });
});
