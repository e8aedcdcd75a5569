import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import {
  applyMemoryBlock,
  BLOCK_SIZE,
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

describe('a block of memory', () => {
  it('brings exactly the pages that were added', () => {
    const source = machine(page => page + 1);
    const destination = machine(() => 0);
    fc.assert(
      fc.property(fc.array(extent, { maxLength: 12 }), extents => {
        for (const [range, pages] of PAGES.entries()) destination.write(range, 0, new Uint8Array(pages * 4096));
        const list = new PageList();
        const expected = [new Array<number>(PAGES[0]!).fill(0), new Array<number>(PAGES[1]!).fill(0)];
        for (const { range, first, pages } of extents) {
          expect(list.add(range, first, pages)).toBe(pages);
          for (let page = first; page < first + pages; page++) expected[range]![page] = pageOf(source, range, page);
        }
        const payload = encoded(source, list);
        expect(applyMemoryBlock(destination, payload)).toBe(extents.reduce((sum, { pages }) => sum + pages, 0));
        for (const range of [0, 1]) {
          expect(expected[range]!.map((_, page) => pageOf(destination, range, page))).toEqual(expected[range]);
        }
      }),
      { numRuns: 300 },
    );
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
    const source = machine(() => 1);
    const list = new PageList();
    list.add(0, 3, 2);
    list.add(1, 0, 1);
    const good = encoded(source, list);
    const destination = machine(() => 0);
    const broken: [string, (view: DataView) => void][] = [
      ['more extents than there are', view => view.setUint32(0, 3, true)],
      ['extents beyond the limit', view => view.setUint32(0, 0xffffffff, true)],
      ['a range that does not exist', view => view.setUint32(24, 2, true)],
      ['pages beyond the range', view => view.setUint32(28, 9, true)],
      ['a first page beyond the range', view => view.setUint32(36, 1, true)],
      ['fewer pages than bytes', view => view.setUint32(12, 1, true)],
    ];
    for (const [name, breakIt] of broken) {
      const payload = good.slice();
      breakIt(viewOf(payload));
      expect(() => applyMemoryBlock(destination, payload), name).toThrow('EBADMSG');
    }
    for (let size = 0; size < good.length; size += size < 64 ? 1 : 1000) {
      expect(() => applyMemoryBlock(destination, good.subarray(0, size)), `${size} bytes`).toThrow('EBADMSG');
    }
    expect(pageOf(destination, 0, 3)).toBe(0);
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
