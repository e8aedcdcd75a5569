import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { LocalDevice, type PciDeviceOptions, type RegionArea } from '../../src/device/index.js';
import { type MaybePromise, PeerMapping } from '../../src/memory/index.js';
import { type Mapping, OwnedFd } from '../../src/native/index.js';
import { MigrationState } from '../../src/uapi/index.js';
import { errnoOf, expectFdChange, expectNoFdLeak, pattern, sameBytes } from '../native/helpers.js';
import { TestDevice } from './test-device.js';

expectNoFdLeak();

const SIZE = 0x8000;
const AREAS: readonly RegionArea[] = [
  { offset: 0x1000, size: 0x1000 },
  { offset: 0x3000, size: 0x2000 },
];

/** A device whose registers are an array of the BAR's size, and which writes down what its registers were asked. */
class MappableDevice extends TestDevice {
  readonly bar = new Uint8Array(SIZE);
  readonly accesses: [number, number][] = [];
  /** Whether registers answer at once. */
  late = false;

  constructor(options: Partial<PciDeviceOptions> = {}) {
    super({ bars: [{ index: 0, size: SIZE, mappable: AREAS }], ...options });
    onTestFinished(() => this.close());
  }

  memory(bar = 0): Mapping {
    return this.barMemory(bar);
  }

  protected override readRegister(_bar: number, offset: number, into: Uint8Array): MaybePromise<void> {
    this.accesses.push([offset, into.length]);
    return this.#move(() => into.set(this.bar.subarray(offset, offset + into.length)));
  }

  protected override writeRegister(_bar: number, offset: number, data: Uint8Array): MaybePromise<void> {
    this.accesses.push([offset, data.length]);
    return this.#move(() => this.bar.set(data, offset));
  }

  #move(move: () => void): MaybePromise<void> {
    if (this.late) return Promise.resolve().then(move);
    move();
  }
}

function isMemory(offset: number): boolean {
  return AREAS.some(area => offset >= area.offset && offset < area.offset + area.size);
}

describe('a BAR with mappable areas', () => {
  test('any accesses are what those of one plain memory would be, and registers see only what is theirs', async () => {
    const near = fc
      .tuple(fc.constantFrom(0, 0x1000, 0x2000, 0x3000, 0x5000, SIZE), fc.integer({ min: -20, max: 20 }))
      .map(([border, distance]) => Math.max(0, Math.min(SIZE, border + distance)));
    const access = fc.tuple(
      fc.boolean(),
      fc.oneof(near, fc.nat(SIZE)),
      fc.oneof(fc.nat(64), fc.nat(SIZE)),
      fc.nat(250),
    );
    const device = new MappableDevice();
    const twin = new Uint8Array(SIZE);
    await fc.assert(
      fc.asyncProperty(fc.array(access, { maxLength: 10 }), fc.boolean(), async (accesses, late) => {
        device.late = late;
        for (const [writes, offset, most, seed] of accesses) {
          const length = Math.min(most, SIZE - offset);
          device.accesses.length = 0;
          if (writes) {
            const data = pattern(length, seed);
            await device.regionWrite(0, offset, data);
            twin.set(data, offset);
          } else {
            const into = new Uint8Array(length);
            await device.regionRead(0, offset, into);
            expect(sameBytes(into, twin.subarray(offset, offset + length))).toBe(true);
          }
          const registers = device.accesses.reduce((sum, [, count]) => sum + count, 0);
          const expected = Array.from({ length }, (_, index) => offset + index).filter(at => !isMemory(at)).length;
          expect(registers).toBe(expected);
        }
      }),
      { numRuns: 200 },
    );
  });

  test('shows the same bytes to the author and to a client that maps the file', () => {
    const device = new MappableDevice();
    const { fd, offset, areas } = device.regions[0]!.mapping!;
    expect({ offset, areas }).toEqual({ offset: 0, areas: AREAS });
    const file = new OwnedFd(fd);
    const client = new PeerMapping(file.duplicate(), 0x3000n, 0x2000n, { read: true, write: true });
    file.release();
    client.mapping.write(8, pattern(4));
    device.memory().write(0x3010, pattern(4, 9));
    const into = new Uint8Array(16);
    device.regionRead(0, 0x3008, into);
    expect(into.subarray(0, 4)).toEqual(pattern(4));
    expect(into.subarray(8, 12)).toEqual(pattern(4, 9));
    client.close();
  });

  test('is zeros after a reset', async () => {
    const device = new MappableDevice();
    device.memory().fill(0, SIZE, 7);
    await device.reset();
    const into = new Uint8Array(0x2000);
    device.regionRead(0, 0x3000, into);
    expect(into.every(byte => byte === 0)).toBe(true);
  });

  test('migrates, and only to a device with the same areas', async () => {
    const source = new MappableDevice();
    source.regionWrite(0, 0x1ff0, pattern(16));
    source.regionWrite(0, 0x3000, pattern(0x2000, 3));
    const from = new LocalDevice(source);
    await from.features.setMigrationState(MigrationState.STOP_COPY);
    const pieces: Uint8Array[] = [];
    for (let piece = await from.readMigrationData(1000); piece.length > 0; piece = await from.readMigrationData(1000)) {
      pieces.push(piece);
    }
    const image = Buffer.concat(pieces);

    const others = [
      { index: 0, size: SIZE, mappable: [AREAS[0]!] },
      { index: 0, size: SIZE },
    ];
    for (const bar of others) {
      const to = new LocalDevice(new MappableDevice({ bars: [bar] }));
      await to.features.setMigrationState(MigrationState.RESUMING);
      await to.writeMigrationData(image);
      await expect(to.features.setMigrationState(MigrationState.STOP)).rejects.toMatchObject({ errno: 'EINVAL' });
    }

    const destination = new MappableDevice();
    const to = new LocalDevice(destination);
    await to.features.setMigrationState(MigrationState.RESUMING);
    await to.writeMigrationData(image);
    await to.features.setMigrationState(MigrationState.RUNNING);
    const into = new Uint8Array(SIZE);
    destination.memory().read(0, into);
    expect(into.subarray(0x1ff0, 0x2000)).toEqual(pattern(16));
    expect(sameBytes(into.subarray(0x3000, 0x5000), pattern(0x2000, 3))).toBe(true);
  });

  test('of which the areas cannot be is EINVAL, and leaves no file', () => {
    for (const mappable of [
      [],
      [{ offset: 0, size: 0 }],
      [{ offset: 1, size: 4096 }],
      [{ offset: 0, size: 4095 }],
      [{ offset: SIZE, size: 4096 }],
      [{ offset: -4096, size: 4096 }],
      [{ offset: Number.NaN, size: 4096 }],
      [
        { offset: 0x1000, size: 0x1000 },
        { offset: 0, size: 0x1000 },
      ],
      [
        { offset: 0, size: 0x2000 },
        { offset: 0x1000, size: 0x1000 },
      ],
    ]) {
      const bars = [
        { index: 0, size: SIZE, mappable: AREAS },
        { index: 1, size: SIZE, mappable },
      ];
      expectFdChange(0, () => expect(errnoOf(() => new TestDevice({ bars }))).toBe('EINVAL'));
    }
  });

  test('is asked for by its index; another has no memory', () => {
    expect(errnoOf(() => new MappableDevice().memory(1))).toBe('EINVAL');
  });

  test('gives its file back when the device is closed, which is allowed twice', () => {
    expectFdChange(0, () => {
      const device = new MappableDevice();
      device.close();
      device.close();
    });
  });
});
