import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type BarSpec, PciConfigSpace } from '../../src/device/index.js';
import { viewOf } from '../../src/uapi/index.js';

const identity = { vendorId: 0x1234, deviceId: 0x5678, classCode: 0x010802, revision: 3, subsystemId: 9 };
const msix = { vectors: 5, bar: 4, tableOffset: 0, pendingOffset: 0x800 };

function create(bars: readonly BarSpec[] = [{ index: 0, size: 4096 }]): PciConfigSpace {
  return new PciConfigSpace(identity, bars, true, msix);
}

function read(config: PciConfigSpace, offset: number, size: 1 | 2 | 4): number {
  const bytes = new Uint8Array(4);
  config.read(offset, bytes.subarray(0, size));
  return viewOf(bytes).getUint32(0, true);
}

function write(config: PciConfigSpace, offset: number, size: 1 | 2 | 4, value: number): void {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  config.write(offset, bytes.subarray(0, size));
}

describe('the header', () => {
  test('says who the device is', () => {
    const config = create();
    expect(read(config, 0x00, 4)).toBe(0x5678_1234);
    expect(read(config, 0x08, 4)).toBe(0x0108_0203);
    expect(read(config, 0x0e, 1)).toBe(0);
    expect(read(config, 0x2c, 4)).toBe(0x0009_1234);
    expect(read(config, 0x3d, 1)).toBe(1);
  });

  test('who it is cannot be written', () => {
    const config = create();
    const before = config.save();
    for (const [offset, size] of [
      [0, 4],
      [6, 2],
      [8, 4],
      [0x0c, 4],
      [0x28, 4],
      [0x2c, 4],
      [0x30, 4],
      [0x34, 4],
      [0x3d, 1],
      [0x3e, 2],
    ] as const) {
      write(config, offset, size, 0xffff_ffff);
    }
    expect(config.save()).toEqual(before);
  });

  test('the command register takes memory, bus master, parity, SERR and INTx disable, and no other bit', () => {
    const config = create();
    expect(config.busMaster).toBe(false);
    write(config, 4, 2, 0xffff);
    expect(read(config, 4, 2)).toBe(0x0546);
    expect([config.busMaster, config.intxDisabled]).toEqual([true, true]);
    write(config, 4, 2, 0);
    expect([config.busMaster, config.intxDisabled]).toEqual([false, false]);
  });

  test('the interrupt line is a place for software to write a number', () => {
    const config = create();
    write(config, 0x3c, 1, 0xab);
    expect(read(config, 0x3c, 1)).toBe(0xab);
  });
});

describe('BARs', () => {
  test('of any size are found by writing all ones; an address that is written keeps its alignment', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 4, max: 31 }),
        fc.integer({ min: 4, max: 40 }),
        fc.boolean(),
        fc.nat(0xffff_ffff),
        (smallBits, wideBits, prefetchable, address) => {
          const config = create([
            { index: 1, size: 2 ** smallBits },
            { index: 2, size: 2 ** wideBits, wide: true, prefetchable },
          ]);
          write(config, 0x14, 4, 0xffff_ffff);
          expect(read(config, 0x14, 4)).toBe(2 ** 32 - 2 ** smallBits);
          write(config, 0x14, 4, address);
          expect(read(config, 0x14, 4)).toBe(address - (address % 2 ** smallBits));
          write(config, 0x18, 4, 0xffff_ffff);
          write(config, 0x1c, 4, 0xffff_ffff);
          const seen = (BigInt(read(config, 0x1c, 4)) << 32n) | BigInt(read(config, 0x18, 4));
          expect(seen & 0xfn).toBe(prefetchable ? 0xcn : 0x4n);
          expect((1n << 64n) - (seen & ~0xfn)).toBe(1n << BigInt(wideBits));
          for (const offset of [0x10, 0x20, 0x24]) {
            write(config, offset, 4, 0xffff_ffff);
            expect(read(config, offset, 4)).toBe(0);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  test('that cannot be are EINVAL', () => {
    const bad: BarSpec[] = [
      { index: 0, size: 0 },
      { index: 0, size: 8 },
      { index: 0, size: 3000 },
      { index: 0, size: 2 ** 32 },
      { index: -1, size: 4096 },
      { index: 6, size: 4096 },
      { index: 5, size: 4096, wide: true },
    ];
    for (const bar of bad) expect(() => create([bar])).toThrow('EINVAL');
  });
});

describe('capabilities', () => {
  test('form a list from the header on, 4-byte aligned, that ends', () => {
    const config = create();
    expect(read(config, 6, 2) & 0x10).toBe(0x10);
    const added = config.addCapability(0x09, 5);
    const last = config.addCapability(0x10, 20);
    const seen: [number, number][] = [];
    for (let at = read(config, 0x34, 1); at !== 0; at = read(config, at + 1, 1)) seen.push([read(config, at, 1), at]);
    expect(seen).toEqual([
      [0x11, 0x40],
      [0x09, added],
      [0x10, last],
    ]);
    expect([added, last].map(at => at % 4)).toEqual([0, 0]);
    expect(last - added).toBe(8);
    expect(() => config.addCapability(0x10, 200)).toThrow('ENOSPC');
  });

  test('without any there is no list', () => {
    const config = new PciConfigSpace(identity, [], false);
    expect([read(config, 6, 2), read(config, 0x34, 1), read(config, 0x3d, 1)]).toEqual([0, 0, 0]);
    write(config, 0x40, 4, 0xffff_ffff);
    expect(read(config, 0x40, 4)).toBe(0);
    expect(config.msixEnabled).toBe(false);
  });

  test('MSI-X says where table and pending bits are; only enable and function mask can be written', () => {
    const config = create();
    expect(read(config, 0x42, 2)).toBe(4);
    expect([read(config, 0x44, 4), read(config, 0x48, 4)]).toEqual([4, 0x804]);
    write(config, 0x42, 2, 0xffff);
    expect(read(config, 0x42, 2)).toBe(0xc004);
    expect(config.msixEnabled).toBe(true);
    write(config, 0x44, 4, 0xffff_ffff);
    expect(read(config, 0x44, 4)).toBe(4);
  });
});

describe('any writes', () => {
  test('change only what can be written, and a reset takes them all back', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(255), fc.uint8Array({ maxLength: 16 })), { maxLength: 20 }), writes => {
        const config = create();
        const initial = config.save();
        for (const [offset, data] of writes) config.write(offset, data.subarray(0, 256 - offset));
        expect(config.accepts(config.save())).toBe(true);
        const other = create();
        other.load(config.save());
        expect(other.save()).toEqual(config.save());
        config.reset();
        expect(config.save()).toEqual(initial);
      }),
      { numRuns: 1000 },
    );
  });

  test('bytes of another device are not accepted: any read-only bit, or another size', () => {
    const config = create();
    expect(config.accepts(config.save().subarray(1))).toBe(false);
    expect(config.accepts(new Uint8Array(257))).toBe(false);
    for (const offset of [0, 3, 9, 0x0e, 0x10, 0x20, 0x34, 0x3d, 0x40, 0x42, 0x44, 0xff]) {
      const bytes = config.save();
      bytes[offset]! ^= 1;
      expect(config.accepts(bytes)).toBe(false);
    }
    const asserted = config.save();
    asserted[6]! ^= 0x08;
    expect(config.accepts(asserted)).toBe(true);
  });
});
