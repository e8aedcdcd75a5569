import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DEFAULT_MAX_REGIONS, DmaMap, type DmaRegionSpec, type MaybePromise } from '../../src/memory/index.js';
import { type ErrnoName, VfioError } from '../../src/uapi/index.js';
import { errnoOf, pattern, sameBytes } from '../native/helpers.js';
import { FailingBacking, HeapBacking, LateBacking } from './heap-backing.js';
import { NaiveDmaMap } from './naive-dma-map.js';

function spec(iova: bigint, length: bigint, rights = 'rw'): DmaRegionSpec {
  return { iova, length, readable: rights.includes('r'), writable: rights.includes('w') };
}

function mapWith(...regions: DmaRegionSpec[]): DmaMap {
  const map = new DmaMap();
  for (const region of regions) map.map(region, new HeapBacking(new Uint8Array(Number(region.length))));
  return map;
}

async function outcome(action: () => MaybePromise<void>): Promise<ErrnoName | undefined> {
  try {
    await action();
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(VfioError);
    return (error as VfioError).errno;
  }
}

describe('the map does what its naive twin does', () => {
  const SPAN = 48;
  // Where arithmetic may go wrong: the bottom, the last exact number, the top.
  const bases = [0n, 2n ** 32n - 20n, 2n ** 53n - 24n, 2n ** 63n - 20n, 2n ** 64n - BigInt(SPAN)];
  const position = fc.integer({ min: 0, max: SPAN + 3 }).map(BigInt);
  const size = fc.integer({ min: 0, max: 14 });
  const access = { at: position, length: fc.integer({ min: 0, max: 30 }), asNumber: fc.boolean() };
  const command = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant('map' as const),
        at: position,
        length: size,
        rights: fc.constantFrom('rw', 'rw', 'rw', 'r', 'w', ''),
        late: fc.boolean(),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('unmap' as const), at: position, length: fc.nat(SPAN) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('unmap one' as const), pick: fc.nat(100) }) },
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('read' as const), ...access }) },
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('write' as const), ...access, seed: fc.nat(250) }) },
  );

  class Pair {
    readonly map = new DmaMap(6);
    readonly naive = new NaiveDmaMap(6);
    readonly live: HeapBacking[] = [];
    readonly dead: HeapBacking[] = [];
    readonly base: bigint;

    constructor(base: bigint) {
      this.base = base;
    }

    address(at: bigint, asNumber: boolean): number | bigint {
      const address = this.base + at;
      return asNumber && address < 2n ** 53n ? Number(address) : address;
    }

    mapBoth(region: DmaRegionSpec, late: boolean): void {
      const content = pattern(Number(region.length), Number(region.iova % 200n));
      const backing = late ? new LateBacking(content.slice()) : new HeapBacking(content.slice());
      const errno = errnoOf(() => this.map.map(region, backing));
      expect(errno).toBe(this.naive.map(region, content));
      (errno === undefined ? this.live : this.dead).push(backing);
    }

    unmapBoth(iova: bigint, length: bigint): void {
      const expected = this.naive.unmap(iova, length);
      if (typeof expected === 'string') {
        expect(errnoOf(() => this.map.unmap(iova, length))).toBe(expected);
        return;
      }
      const removed = this.map.unmap(iova, length);
      expect(removed.map(region => region.iova)).toEqual(expected.map(region => region.iova));
      for (const { backing } of removed) {
        this.live.splice(this.live.indexOf(backing as HeapBacking), 1);
        this.dead.push(backing as HeapBacking);
      }
    }

    check(): void {
      const regions = this.map.regions;
      const expected = this.naive.regions;
      expect(regions.map(({ backing: _, ...region }) => region)).toEqual(
        expected.map(({ id: _, ...region }) => region),
      );
      expect(this.map.statistics).toEqual({ regions: expected.length, refused: this.naive.refused });
      for (const region of regions) {
        const { bytes } = region.backing as HeapBacking;
        for (const [index, byte] of bytes.entries()) {
          if (this.naive.cells.get(region.iova + BigInt(index))!.byte !== byte)
            throw new Error(`byte ${index} differs`);
        }
      }
      expect(this.live.every(backing => backing.closed === 0)).toBe(true);
      expect(this.dead.every(backing => backing.closed === 1)).toBe(true);
    }
  }

  test('under random commands at both ends of the address space and around 2^53', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...bases),
        fc.array(command, { minLength: 5, maxLength: 30 }),
        async (base, commands) => {
          const pair = new Pair(base);
          for (const step of commands) {
            if (step.kind === 'map') {
              pair.mapBoth(spec(base + step.at, BigInt(step.length), step.rights), step.late);
            } else if (step.kind === 'unmap') {
              pair.unmapBoth(base + step.at, BigInt(step.length));
            } else if (step.kind === 'unmap one') {
              const region = pair.map.regions[step.pick % 6];
              if (region !== undefined) pair.unmapBoth(region.iova, region.length);
            } else if (step.kind === 'read') {
              const got = new Uint8Array(step.length);
              const expected = new Uint8Array(step.length);
              const errno = await outcome(() => pair.map.read(pair.address(step.at, step.asNumber), got));
              expect(errno).toBe(pair.naive.read(base + step.at, expected));
              expect(sameBytes(got, expected)).toBe(true);
            } else {
              const bytes = pattern(step.length, step.seed);
              const errno = await outcome(() => pair.map.write(pair.address(step.at, step.asNumber), bytes));
              expect(errno).toBe(pair.naive.write(base + step.at, bytes));
            }
            pair.check();
          }
          const removed = pair.map.unmapAll();
          expect(removed).toHaveLength(pair.naive.regions.length);
          expect([...pair.live, ...pair.dead].every(backing => backing.closed === 1)).toBe(true);
          expect(pair.map.regions).toHaveLength(0);
        },
      ),
      { numRuns: 3000 },
    );
  });

  test('with thousands of small regions, as a virtual IOMMU makes them', () => {
    const map = new DmaMap();
    const memory = new Uint8Array(2000 * 16);
    const order = Array.from({ length: 2000 }, (_, index) => (index * 769) % 2000);
    for (const index of order) {
      map.map(spec(BigInt(index * 16), 16n), new HeapBacking(memory.subarray(index * 16, index * 16 + 16)));
    }
    const twin = new Uint8Array(memory.length);
    fc.assert(
      fc.property(fc.nat(memory.length), fc.nat(600), fc.nat(250), (at, wanted, seed) => {
        const length = Math.min(wanted, memory.length - at);
        map.write(at, pattern(length, seed));
        twin.set(pattern(length, seed), at);
        const got = new Uint8Array(length);
        map.read(at, got);
        expect(sameBytes(got, pattern(length, seed))).toBe(true);
      }),
      { numRuns: 1000 },
    );
    expect(sameBytes(memory, twin)).toBe(true);
    for (const index of order.slice(0, 1000)) map.unmap(BigInt(index * 16), 16n);
    for (const [position, index] of order.entries()) {
      const errno = errnoOf(() => map.read(index * 16, new Uint8Array(16)));
      expect(errno).toBe(position < 1000 ? 'EFAULT' : undefined);
    }
  });
});

describe('a DMA', () => {
  test('is refused as a whole before a byte moves, and is counted', () => {
    const map = mapWith(spec(0n, 16n), spec(16n, 16n, 'r'), spec(32n, 16n), spec(64n, 16n));
    expect(errnoOf(() => map.write(10, pattern(20)))).toBe('EFAULT');
    expect(errnoOf(() => map.write(40, pattern(20)))).toBe('EFAULT');
    expect(errnoOf(() => map.read(40, new Uint8Array(30)))).toBe('EFAULT');
    expect(map.statistics).toEqual({ regions: 4, refused: 3 });
    for (const { backing } of map.regions) {
      expect((backing as HeapBacking).bytes.every(byte => byte === 0)).toBe(true);
    }
  });

  test('says in its error what is missing where', () => {
    const map = mapWith(spec(0x1000n, 16n), spec(0x1010n, 16n, 'r'));
    expect(() => map.write(0x1008, new Uint8Array(16))).toThrow(
      'DMA_WRITE: address: 16 bytes at 0x1008: 0x1010 is mapped without the right (EFAULT)',
    );
    expect(() => map.read(0x1018, new Uint8Array(16))).toThrow(
      'DMA_READ: address: 16 bytes at 0x1018: 0x1020 is not mapped (EFAULT)',
    );
  });

  test('of no bytes works anywhere and touches nothing', () => {
    const map = mapWith(spec(0n, 16n, 'r'));
    for (const address of [0, 8, 16, 1000, 2n ** 64n - 1n]) {
      expect(map.write(address, new Uint8Array(0))).toBeUndefined();
      expect(map.read(address, new Uint8Array(0))).toBeUndefined();
    }
    expect(map.statistics.refused).toBe(0);
  });

  test('at a number that is no address is EINVAL; at an address that does not exist EFAULT', () => {
    const map = mapWith(spec(0n, 2n ** 20n));
    for (const bad of [0.5, Number.NaN, Infinity, 2 ** 53]) {
      expect(errnoOf(() => map.read(bad, new Uint8Array(1)))).toBe('EINVAL');
      expect(errnoOf(() => map.write(bad, new Uint8Array(1)))).toBe('EINVAL');
    }
    for (const nowhere of [-1, -1n, 2n ** 64n, 2n ** 70n]) {
      expect(errnoOf(() => map.read(nowhere, new Uint8Array(1)))).toBe('EFAULT');
      expect(errnoOf(() => map.write(nowhere, new Uint8Array(1)))).toBe('EFAULT');
    }
  });

  test('that ends just beyond 2^53 is not rounded into the region before', () => {
    const map = mapWith(spec(2n ** 53n - 16n, 16n));
    expect(map.write(2 ** 53 - 1, new Uint8Array(1))).toBeUndefined();
    expect(errnoOf(() => map.write(2 ** 53 - 1, new Uint8Array(2)))).toBe('EFAULT');
    expect(errnoOf(() => map.write(2n ** 53n, new Uint8Array(1)))).toBe('EFAULT');
  });

  test('in a region whose end beyond 2^53 is no exact number may reach that end and no further', () => {
    const map = mapWith(spec(2n ** 53n - 16n, 23n));
    expect(map.write(2 ** 53 - 1, new Uint8Array(8))).toBeUndefined();
    expect(errnoOf(() => map.write(2 ** 53 - 1, new Uint8Array(9)))).toBe('EFAULT');
  });

  test('is done at once where memory is at hand, and gives a promise only where it is not', async () => {
    const map = mapWith(spec(0n, 16n), spec(16n, 16n));
    map.map(spec(32n, 16n), new LateBacking(new Uint8Array(16)));
    expect(map.write(0, pattern(8))).toBeUndefined();
    expect(map.write(8, pattern(16))).toBeUndefined();
    const late = map.write(8, pattern(40));
    expect(late).toBeInstanceOf(Promise);
    await late;
    const got = new Uint8Array(40);
    await map.read(8, got);
    expect(got).toEqual(pattern(40));
  });
});

describe('a backing that fails', () => {
  const failure = (errno: ErrnoName) => new VfioError(errno, { operation: 'test' });
  const failing: [string, (errno: ErrnoName) => MaybePromise<void>][] = [
    [
      'at once',
      errno => {
        throw failure(errno);
      },
    ],
    ['later', errno => Promise.reject(failure(errno))],
  ];

  test.each(failing)('%s never says EFAULT, which would mean that nothing has moved', async (_, fail) => {
    for (const [errno, expected] of [
      ['EFAULT', 'EIO'],
      ['EIO', 'EIO'],
      ['ENOSPC', 'ENOSPC'],
      ['ETIMEDOUT', 'ETIMEDOUT'],
    ] as const) {
      const map = mapWith(spec(0n, 16n));
      map.map(spec(16n, 16n), new FailingBacking(16, () => fail(errno)));
      for (const at of [16, 8, 16n, 8n]) {
        expect(await outcome(() => map.write(at, pattern(12)))).toBe(expected);
        expect(await outcome(() => map.read(at, new Uint8Array(12)))).toBe(expected);
      }
      const moved = (map.regions[0]!.backing as HeapBacking).bytes;
      expect(moved.subarray(8)).toEqual(pattern(8));
      expect(map.statistics.refused).toBe(0);
    }
  });

  test('after others that were late fails the DMA as well', async () => {
    const map = new DmaMap();
    map.map(spec(0n, 16n), new LateBacking(new Uint8Array(16)));
    map.map(spec(16n, 16n), new FailingBacking(16, () => Promise.reject(failure('EFAULT'))));
    expect(await outcome(() => map.write(8, pattern(16)))).toBe('EIO');
  });

  test('with something that is no VfioError is EIO with it as the cause', async () => {
    const map = new DmaMap();
    const cause = new TypeError('a bug');
    map.map(
      spec(0n, 16n),
      new FailingBacking(16, () => {
        throw cause;
      }),
    );
    expect(await outcome(() => map.write(0, pattern(1)))).toBe('EIO');
  });

  test('because its region was unmapped while the DMA was on its way fails that DMA and nothing else', async () => {
    const map = new DmaMap();
    const first = new LateBacking(new Uint8Array(16));
    map.map(spec(0n, 16n), first);
    map.map(spec(16n, 16n), new HeapBacking(new Uint8Array(16)));
    const pending = outcome(() => map.write(8, pattern(16)));
    map.unmap(16n, 16n);
    expect(await pending).toBe('EBADF');
    expect(first.bytes.subarray(8)).toEqual(pattern(8));
  });
});

describe('mapping', () => {
  test('what cannot be mapped closes its backing once and changes nothing', () => {
    const map = new DmaMap(2);
    map.map(spec(0x1000n, 0x1000n), new HeapBacking(new Uint8Array(1)));
    const refused: [DmaRegionSpec, ErrnoName][] = [
      [spec(0n, 0n), 'EINVAL'],
      [spec(0n, -1n), 'EINVAL'],
      [spec(-1n, 0x10n), 'EINVAL'],
      [spec(0n, 2n ** 53n + 1n), 'EINVAL'],
      [spec(2n ** 64n - 0x1000n, 0x1001n), 'EINVAL'],
      [spec(2n ** 64n, 0x1000n), 'EINVAL'],
      [spec(0n, 0x1000n, ''), 'EINVAL'],
      [spec(0x1fffn, 1n), 'EEXIST'],
      [spec(0xfffn, 2n), 'EEXIST'],
      [spec(0n, 0x10000n), 'EEXIST'],
      [spec(0x1000n, 0x1000n), 'EEXIST'],
      [spec(0x1800n, 1n), 'EEXIST'],
    ];
    for (const [region, errno] of refused) {
      const backing = new HeapBacking(new Uint8Array(1));
      expect(errnoOf(() => map.map(region, backing))).toBe(errno);
      expect(backing.closed).toBe(1);
    }
    map.map(spec(0x2000n, 0x1000n), new HeapBacking(new Uint8Array(1)));
    const beyond = new HeapBacking(new Uint8Array(1));
    expect(errnoOf(() => map.map(spec(0x3000n, 0x1000n), beyond))).toBe('ENOSPC');
    expect(beyond.closed).toBe(1);
    expect(map.statistics.regions).toBe(2);
    map.unmapAll();
    map.map(spec(0x3000n, 0x1000n), new HeapBacking(new Uint8Array(1)));
  });

  test('takes 65535 regions unless told otherwise', () => {
    expect(new DmaMap().maxRegions).toBe(DEFAULT_MAX_REGIONS);
    expect(DEFAULT_MAX_REGIONS).toBe(65535);
    expect(new DmaMap(undefined).maxRegions).toBe(65535);
  });

  test('the last byte of the address space can be mapped and reached', () => {
    const map = mapWith(spec(2n ** 64n - 16n, 16n));
    expect(map.write(2n ** 64n - 1n, Uint8Array.of(7))).toBeUndefined();
    expect((map.regions[0]!.backing as HeapBacking).bytes[15]).toBe(7);
    expect(errnoOf(() => map.write(2n ** 64n - 1n, new Uint8Array(2)))).toBe('EFAULT');
    expect(map.unmap(2n ** 64n - 16n, 16n)).toHaveLength(1);
  });
});

describe('unmapping', () => {
  test('takes whole regions with holes between them, and never a part', () => {
    const map = mapWith(spec(0n, 16n), spec(32n, 16n), spec(64n, 16n));
    for (const [iova, length] of [
      [0n, 15n],
      [1n, 15n],
      [0n, 33n],
      [8n, 64n],
      [16n, 16n],
      [80n, 1000n],
      [0n, 0n],
      [-16n, 32n],
      [0n, 2n ** 64n + 1n],
    ] as const) {
      expect(errnoOf(() => map.unmap(iova, length))).toBe('EINVAL');
    }
    expect(map.regions).toHaveLength(3);
    expect(map.unmap(0n, 64n).map(region => region.iova)).toEqual([0n, 32n]);
    expect(map.unmap(0n, 2n ** 64n).map(region => region.iova)).toEqual([64n]);
  });

  test('everything, twice, is harmless', () => {
    const map = mapWith(spec(0n, 16n), spec(2n ** 60n, 16n));
    expect(map.unmapAll()).toHaveLength(2);
    expect(map.unmapAll()).toHaveLength(0);
    expect(errnoOf(() => map.read(0, new Uint8Array(1)))).toBe('EFAULT');
  });

  test('the list of regions that was handed out does not change', () => {
    const map = mapWith(spec(0n, 16n));
    const { regions } = map;
    map.unmapAll();
    expect(regions).toHaveLength(1);
  });
});
