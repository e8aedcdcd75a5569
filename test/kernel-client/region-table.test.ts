import fc from 'fast-check';
import { expect, test } from 'vitest';
import { mapMemory, RegionTable } from '../../src/kernel/address-space.js';
import { createMemoryFile } from '../../src/native/index.js';
import { errnoOf, expectNoFdLeak } from '../native/helpers.js';

expectNoFdLeak();

const PAGE = 4096n;
const rights = { readable: true, writable: true };
const region = (page: number, pages: number) => ({ iova: BigInt(page) * PAGE, length: BigInt(pages) * PAGE });

/** Which region each of 16 pages belongs to: its first page, or nothing. */
type NaivePages = (number | undefined)[];

test('regions are kept apart, and unmapped whole or not at all', async () => {
  const file = createMemoryFile('memory', 65536);
  const place = fc.tuple(fc.nat(12), fc.integer({ min: 1, max: 4 }));
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(fc.boolean(), place), { maxLength: 20 }), async steps => {
      const table = new RegionTable();
      const pages: NaivePages = new Array(16).fill(undefined);
      for (const [adds, [page, count]] of steps) {
        const asked = region(page, count);
        const here = pages.slice(page, page + count);
        if (adds) {
          const memory = mapMemory({ ...asked, ...rights }, { fd: file.fd });
          const free = here.every(owner => owner === undefined);
          const answer = await table
            .add({ ...asked, ...rights }, memory, async () => {})
            .then(
              () => 'added',
              error => error.errno,
            );
          expect(answer).toBe(free ? 'added' : 'EEXIST');
          if (free) pages.fill(page, page, page + count);
          else memory.close();
        } else {
          const owners = new Set(here.filter(owner => owner !== undefined));
          const elsewhere = pages.some(
            (owner, at) => owners.has(owner!) && owner !== undefined && (at < page || at >= page + count),
          );
          const whole = owners.size > 0 && !elsewhere;
          expect(errnoOf(() => table.within(asked))).toBe(whole ? undefined : 'EINVAL');
          if (whole) {
            expect(new Set(table.within(asked).map(({ iova }) => Number(iova / PAGE)))).toEqual(owners);
            table.remove(asked);
            pages.fill(undefined, page, page + count);
          }
        }
      }
      expect(new Set(table.regions.map(({ iova }) => Number(iova / PAGE)))).toEqual(
        new Set(pages.filter(owner => owner !== undefined)),
      );
      table.remove(region(0, 16));
    }),
  );
  file.close();
});

test('what is not aligned, empty, without rights or beyond the address space is EINVAL', () => {
  const file = createMemoryFile('memory', 65536);
  const good = { ...region(1, 1), ...rights };
  const bad = [
    { iova: 5n },
    { iova: -PAGE },
    { length: 0n },
    { length: 5n },
    { length: 2n ** 60n },
    { iova: 2n ** 64n - PAGE, length: 2n * PAGE },
    { readable: false, writable: false },
  ];
  for (const change of bad) {
    expect(errnoOf(() => mapMemory({ ...good, ...change }, { fd: file.fd }))).toBe('EINVAL');
  }
  expect(errnoOf(() => mapMemory(good, { fd: -1 }))).toBe('EBADF');
  file.close();
});

test('a region that the kernel refuses is not in the table, and its memory is the caller’s to close', async () => {
  const file = createMemoryFile('memory', 65536);
  const table = new RegionTable();
  const asked = { ...region(1, 1), ...rights };
  const memory = mapMemory(asked, { fd: file.fd });
  const refused = table.add(asked, memory, async () => {
    throw new Error('refused');
  });
  await expect(refused).rejects.toThrow('refused');
  expect(table.regions).toEqual([]);
  memory.close();
  file.close();
});
