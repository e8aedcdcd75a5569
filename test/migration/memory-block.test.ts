import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import {
  applyMemoryBlock,
  BLOCK_SIZE,
  compressMemoryBlock,
  contentPagesOf,
  encodeMemoryBlock,
  MAX_PAYLOAD,
  MachineMemory,
  PageList,
} from '../../src/migration/index.js';
import { type VfioError, viewOf } from '../../src/uapi/index.js';

const PAGES = [24, 8];
const made: GuestMemory[] = [];
afterAll(() => {
  for (const memory of made) memory.close();
});

/** Two ranges, both in one memory file, the second one first. */
function machine(fill: (page: number) => number): MachineMemory {
  const memory = GuestMemory.create((PAGES[0]! + PAGES[1]!) * 4096);
  made.push(memory);
  for (let page = 0; page < 32; page++) memory.write(page * 4096, Buffer.alloc(4096, fill(page)));
  return new MachineMemory([
    { iova: 0x1_0000_0000n, length: BigInt(PAGES[1]!) * 4096n, memory, offset: 0 },
    { iova: 0n, length: BigInt(PAGES[0]!) * 4096n, memory, offset: PAGES[1]! * 4096 },
  ]);
}

function pageOf(memory: MachineMemory, range: number, page: number): number {
  const into = new Uint8Array(4096);
  memory.read(range, page, into);
  return into[0]!;
}

const extent = fc.nat(1).chain(range =>
  fc.nat(PAGES[range]! - 1).chain(first =>
    fc.record({
      range: fc.constant(range),
      first: fc.constant(first),
      pages: fc.integer({ min: 1, max: PAGES[range]! - first }),
    }),
  ),
);

function encoded(memory: MachineMemory, list: PageList): Uint8Array {
  const into = new Uint8Array(MAX_PAYLOAD);
  return into.slice(0, encodeMemoryBlock(memory, list, into));
}

function compressed(memory: MachineMemory, list: PageList): Uint8Array {
  const payload = encoded(memory, list);
  return payload.subarray(0, compressMemoryBlock(payload));
}

function contentOf(memory: MachineMemory): Buffer {
  const content = Buffer.alloc(32 * 4096);
  memory.read(0, 0, content.subarray(0, PAGES[0]! * 4096));
  memory.read(1, 0, content.subarray(PAGES[0]! * 4096));
  return content;
}

function errnoOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return (error as VfioError).errno;
  }
  return 'none';
}

/** Kilobytes of memory files that this process has pages for. */
function residentShared(): number {
  return Number(/RssShmem:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]);
}

describe('a block of memory', () => {
  it.each([
    ['as it is', encoded],
    ['compressed', compressed],
  ])('brings exactly the pages that were added, zeros or not, %s', (_, encode) => {
    const source = machine(page => (page % 3 === 0 ? 0 : page + 1));
    const destination = machine(() => 0);
    fc.assert(
      fc.property(fc.array(extent, { maxLength: 12 }), fc.nat(255), (extents, before) => {
        for (const [range, pages] of PAGES.entries())
          destination.write(range, 0, new Uint8Array(pages * 4096).fill(before));
        const list = new PageList();
        const expected = PAGES.map(pages => new Array<number>(pages).fill(before));
        for (const { range, first, pages } of extents) {
          expect(list.add(range, first, pages)).toBe(pages);
          for (let page = first; page < first + pages; page++) expected[range]![page] = pageOf(source, range, page);
        }
        const payload = encode(source, list);
        expect(applyMemoryBlock(destination, payload)).toBe(list.pages);
        expect(contentPagesOf(payload)).toBeLessThanOrEqual(list.pages);
        for (const range of [0, 1]) {
          expect(expected[range]!.map((_, page) => pageOf(destination, range, page))).toEqual(expected[range]);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('names zero pages without their bytes, and tells them from pages that only begin with zeros', () => {
    const source = machine(() => 0);
    source.write(0, 5, new Uint8Array(4096).fill(1, 4095));
    const list = new PageList();
    list.add(0, 0, 24);
    const payload = encoded(source, list);
    expect(contentPagesOf(payload)).toBe(1);
    expect(payload).toHaveLength(16 + 4096 + 3 * 16);
    const destination = machine(() => 9);
    applyMemoryBlock(destination, payload);
    expect(
      contentOf(destination)
        .subarray(0, 24 * 4096)
        .equals(contentOf(source).subarray(0, 24 * 4096)),
    ).toBe(true);
  });

  it('takes no memory for pages that nobody has used, at neither end', () => {
    const pages = 2048;
    const blank = () => {
      const memory = GuestMemory.create(pages * 4096);
      made.push(memory);
      return new MachineMemory([{ iova: 0n, length: BigInt(pages) * 4096n, memory }]);
    };
    const [source, destination] = [blank(), blank()];
    const before = residentShared();
    const list = new PageList();
    for (let page = 0; page < pages; ) {
      page += list.add(0, page, pages - page);
      applyMemoryBlock(destination, encoded(source, list));
      list.clear();
    }
    expect(residentShared() - before).toBeLessThan(pages * 4 * 0.1);
  });

  it('takes a block and no page more', () => {
    const list = new PageList();
    const most = BLOCK_SIZE / 4096;
    let taken = 0;
    while (!list.full) taken += list.add(0, 0, 24);
    expect(taken).toBe(most);
    expect(list.add(0, 0, 1)).toBe(0);
  });

  it('is refused, and writes nothing, when a number in it is wrong', () => {
    const source = machine(page => (page === 12 ? 0 : 1));
    const list = new PageList();
    list.add(0, 3, 2);
    list.add(0, 4, 1);
    list.add(1, 0, 1);
    const plain = encoded(source, list);
    const small = compressed(source, list);
    expect(small.length).toBeLessThan(plain.length / 4);
    const broken: [string, (view: DataView, table: number) => void][] = [
      ['more extents than there are', view => view.setUint32(0, 5, true)],
      ['fewer extents than there are', view => view.setUint32(0, 1, true)],
      ['extents beyond the limit', view => view.setUint32(0, 0xffffffff, true)],
      ['more content than there is', view => view.setUint32(4, 5, true)],
      ['less content than there is', view => view.setUint32(4, 1, true)],
      ['an encoding that does not exist', view => view.setUint32(8, 2, true)],
      ['the other encoding', view => view.setUint32(8, 1 - view.getUint32(8, true), true)],
      ['a last word that is not 0', view => view.setUint32(12, 1, true)],
      ['a range that does not exist', (view, table) => view.setUint32(table, 2, true)],
      ['pages beyond the range', (view, table) => view.setUint32(table + 4, 22, true)],
      ['a first page beyond the range', (view, table) => view.setUint32(table + 12, 1, true)],
      ['fewer pages than bytes', (view, table) => view.setUint32(table + 4, 0, true)],
      ['zeros where there is content', (view, table) => view.setUint32(table + 4, 2 ** 31 + 2, true)],
    ];
    for (const good of [plain, small]) {
      const destination = machine(() => 7);
      const before = contentOf(destination);
      for (const [name, breakIt] of broken) {
        const payload = good.slice();
        breakIt(viewOf(payload), payload.length - 16 * viewOf(payload).getUint32(0, true));
        expect(
          errnoOf(() => applyMemoryBlock(destination, payload)),
          name,
        ).toBe('EBADMSG');
      }
      for (let size = 0; size < good.length; size += size < 64 || good === small ? 1 : 1000) {
        expect(
          errnoOf(() => applyMemoryBlock(destination, good.subarray(0, size))),
          `${size} bytes`,
        ).toBe('EBADMSG');
      }
      expect(contentOf(destination).equals(before)).toBe(true);
      applyMemoryBlock(destination, good);
      expect(contentOf(destination).equals(before)).toBe(false);
    }
  });

  it('does nothing but refuse when it is any other bytes', () => {
    const source = machine(page => page);
    const list = new PageList();
    list.add(0, 0, 24);
    const good = compressed(source, list);
    fc.assert(
      fc.property(
        fc.array(fc.record({ at: fc.nat(good.length - 1), value: fc.nat(255) }), { minLength: 1, maxLength: 6 }),
        changes => {
          const payload = good.slice();
          for (const { at, value } of changes) payload[at] = value;
          const destination = machine(() => 0);
          expect(['none', 'EBADMSG']).toContain(errnoOf(() => applyMemoryBlock(destination, payload)));
          for (const memory of made.splice(1)) memory.close();
        },
      ),
      { numRuns: 200 },
    );
  });

  it('is refused before anything is unpacked when the pages in it say that they are larger', () => {
    const source = machine(() => 1);
    const list = new PageList();
    list.add(0, 0, 24);
    const payload = compressed(source, list).slice();
    viewOf(payload).setUint32(16, 0xffffffff, true);
    let message = '';
    try {
      applyMemoryBlock(
        machine(() => 0),
        payload,
      );
    } catch (error) {
      message = (error as VfioError).message;
    }
    expect(message).toMatch(/4294967295 bytes, 98304 are due/);
  });

  it('stays as it is when compressing saves nothing', () => {
    const source = machine(() => 0);
    source.write(0, 0, randomBytes(4096));
    const list = new PageList();
    list.add(0, 0, 2);
    expect(Buffer.from(compressed(source, list)).equals(Buffer.from(encoded(source, list)))).toBe(true);
  });
});

describe('MachineMemory', () => {
  const memory = GuestMemory.create(16 * 4096);
  made.push(memory);
  it.each([
    [
      'overlapping slots',
      [
        { iova: 0n, length: 8192n },
        { iova: 4096n, length: 8192n },
      ],
    ],
    ['a slot that is not whole pages', [{ iova: 0n, length: 100n }]],
    ['a slot that begins inside a page', [{ iova: 100n, length: 4096n }]],
    ['a slot larger than its memory', [{ iova: 0n, length: 17n * 4096n }]],
    ['a slot that begins behind its memory', [{ iova: 0n, length: 4096n, offset: 16 * 4096 }]],
    ['an empty slot', [{ iova: 0n, length: 0n }]],
  ])('refuses %s', (_, slots) => {
    let errno = '';
    try {
      new MachineMemory(slots.map(slot => ({ ...slot, memory })));
    } catch (error) {
      errno = (error as VfioError).errno;
    }
    expect(errno).toBe('EINVAL');
  });
});
