import { describe, expect, test } from 'vitest';
import { RegionFlag } from '../../src/uapi/index.js';
import { decodeRegionInfo, encodeRegionInfo } from '../../src/vfio-user/wire/device-messages.js';
import { errnoOf } from '../native/helpers.js';
import { words } from './peer.js';

const { READ, WRITE, MMAP, CAPS } = RegionFlag;
const region = { flags: READ | WRITE, size: 0x8000 };
const areas = [
  { offset: 0x1000, size: 0x2000 },
  { offset: 0x4000, size: 0x1000 },
];

/** A reply with a chain of capabilities behind it. */
function reply(capabilityOffset: number, capabilities: Uint8Array, argsz = 32 + capabilities.length): Uint8Array {
  return Uint8Array.from([
    ...words(argsz, READ | MMAP | CAPS, 0, capabilityOffset, 0x8000n, 0x10000n),
    ...capabilities,
  ]);
}

const sparse = (next: number, ...pairs: readonly bigint[]) => words(0x10001, next, pairs.length / 2, 0, ...pairs);

describe('a region that may be mapped', () => {
  test('in areas has the bytes of the protocol, and is decoded as it was encoded', () => {
    const { payload, withFile } = encodeRegionInfo(2, region, { offset: 0x10000, areas }, 4096);
    expect(withFile).toBe(true);
    expect(payload).toEqual(
      Uint8Array.from([
        ...words(80, READ | WRITE | MMAP | CAPS, 2, 32, 0x8000n, 0x10000n),
        ...words(0x10001, 0, 2, 0, 0x1000n, 0x2000n, 0x4000n, 0x1000n),
      ]),
    );
    expect(decodeRegionInfo(payload)).toEqual({
      needed: 80,
      whole: true,
      flags: READ | WRITE | MMAP | CAPS,
      size: 0x8000,
      fileOffset: 0x10000n,
      areas,
    });
  });

  test('as a whole needs no capability', () => {
    const whole = { offset: 0, areas: [{ offset: 0, size: 0x8000 }] };
    const { payload, withFile } = encodeRegionInfo(2, region, whole, 32);
    expect(withFile).toBe(true);
    expect(payload).toEqual(words(32, READ | WRITE | MMAP, 2, 0, 0x8000n, 0n));
  });

  test('tells an argsz without room for the areas the one that has, and brings no file', () => {
    for (let argsz = 32; argsz < 80; argsz++) {
      const { payload, withFile } = encodeRegionInfo(2, region, { offset: 0, areas }, argsz);
      expect(withFile).toBe(false);
      expect(payload).toEqual(words(80, READ | WRITE | MMAP, 2, 0, 0x8000n, 0n));
      expect(decodeRegionInfo(payload)).toMatchObject({ needed: 80, whole: false, areas: undefined });
    }
  });
});

describe('a chain of capabilities', () => {
  test('is followed to the areas', () => {
    const chain = Uint8Array.from([...words(7, 44, 1), ...sparse(0, 0n, 0x1000n)]);
    expect(decodeRegionInfo(reply(32, chain)).areas).toEqual([{ offset: 0, size: 0x1000 }]);
  });

  test('without areas, or of none, tells of none', () => {
    expect(decodeRegionInfo(reply(0, words())).areas).toBeUndefined();
    expect(decodeRegionInfo(reply(32, words(7, 0, 1))).areas).toBeUndefined();
    expect(decodeRegionInfo(reply(32, sparse(0))).areas).toEqual([]);
  });

  test('may hold areas of no bytes, which are left out', () => {
    expect(decodeRegionInfo(reply(32, sparse(0, 0n, 0n, 0x7000n, 0x1000n))).areas).toEqual([
      { offset: 0x7000, size: 0x1000 },
    ]);
  });

  test.each([
    ['leads back to itself', 32, words(7, 32, 0)],
    ['leads back', 44, Uint8Array.from([...words(7, 44, 0), ...words(7, 32, 0)])],
    ['leads out of the reply', 32, words(7, 2 ** 32 - 1, 0)],
    ['begins out of the reply', 64, sparse(0)],
    ['begins at its last byte', 47, sparse(0)],
    ['has half a head', 32, words(1, 0)],
    ['has fewer areas than it says', 32, words(0x10001, 0, 2, 0, 0n, 0x1000n)],
    ['says that there are four billion areas', 32, words(0x10001, 0, 2 ** 32 - 1, 0, 0n, 0x1000n)],
    ['has an area that leaves the region', 32, sparse(0, 0x7000n, 0x1001n)],
    ['has an area beyond the region', 32, sparse(0, 0x8001n, 0n)],
    ['has an area that wraps round', 32, sparse(0, 2n ** 64n - 4096n, 8192n)],
  ])('that %s is EINVAL', (_name, first, capabilities) => {
    expect(errnoOf(() => decodeRegionInfo(reply(first, capabilities)))).toBe('EINVAL');
  });

  test('is not looked for in a reply that says it is not whole', () => {
    expect(decodeRegionInfo(reply(32, words(), 4096))).toMatchObject({ needed: 4096, whole: false, areas: undefined });
  });
});
