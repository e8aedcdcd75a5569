import { describe, expect, test } from 'vitest';
import { LocalDevice } from '../../src/device/index.js';
import { MigrationState, PCI_NUM_IRQS, PciIrq, PciRegion } from '../../src/uapi/index.js';
import { gate, mapArray, TestDevice } from './test-device.js';

const { STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY, RUNNING_P2P } = MigrationState;
const CONFIG = PciRegion.CONFIG;

function withMsix(): TestDevice {
  return new TestDevice({ msix: { vectors: 3, bar: 2 } });
}

function busMaster(device: TestDevice): void {
  device.regionWrite(CONFIG, 4, Uint8Array.of(6, 0));
}

function readAll(device: TestDevice, region: number): Uint8Array {
  const into = new Uint8Array(device.regions[region]!.size);
  device.regionRead(region, 0, into);
  return into;
}

async function errnoOf(promise: Promise<unknown>): Promise<string | undefined> {
  return promise.then(
    () => undefined,
    (error: { errno: string }) => error.errno,
  );
}

/** All the data of a device that goes to STOP_COPY. */
async function save(device: TestDevice): Promise<Uint8Array> {
  const local = new LocalDevice(device);
  await local.features.setMigrationState(STOP_COPY);
  const pieces: Uint8Array[] = [];
  for (;;) {
    const piece = await local.readMigrationData(100);
    if (piece.length === 0) return Buffer.concat(pieces);
    pieces.push(piece);
  }
}

describe('regions', () => {
  test("are the author's BARs, the MSI-X table's and the configuration space", () => {
    expect(withMsix().regions.map(region => region.size)).toEqual([256, 0, 4096, 0, 0, 0, 0, 256, 0]);
  });

  test('an access to a region that is not there, or beyond its end, is EINVAL', () => {
    const device = withMsix();
    for (const [region, offset, count] of [
      [1, 0, 1],
      [6, 0, 1],
      [8, 0, 0],
      [9, 0, 1],
      [-1, 0, 1],
      [0, 256, 1],
      [0, 255, 2],
      [0, -1, 1],
      [0, Number.NaN, 1],
      [0, Number.MAX_SAFE_INTEGER, 1],
      [2, 4093, 4],
      [CONFIG, 253, 4],
    ] as const) {
      expect(() => device.regionRead(region, offset, new Uint8Array(count))).toThrow('EINVAL');
      expect(() => device.regionWrite(region, offset, new Uint8Array(count))).toThrow('EINVAL');
    }
    device.regionRead(0, 256, new Uint8Array(0));
  });

  test('the MSI-X table is memory', () => {
    const device = withMsix();
    device.regionWrite(2, 16, Uint8Array.of(1, 2, 3, 4));
    expect([...readAll(device, 2).subarray(15, 21)]).toEqual([0, 1, 2, 3, 4, 0]);
  });

  test('the local transport hands them through', async () => {
    const local = new LocalDevice(withMsix());
    expect(await local.info()).toEqual({ flags: 3, regions: 9, irqs: PCI_NUM_IRQS });
    await local.regionWrite(0, 5, Uint8Array.of(9));
    expect([...(await local.regionRead(0, 4, 3))]).toEqual([0, 9, 0]);
    expect(await errnoOf(local.regionRead(0, 256, 1))).toBe('EINVAL');
  });
});

describe('interrupts', () => {
  test('go by MSI-X when the driver uses it, else by INTx with the status bit', () => {
    const device = withMsix();
    const signals: string[] = [];
    const trigger = (name: string) => ({ signal: () => signals.push(name), close() {} });
    device.interrupts.setTriggers(PciIrq.INTX, 0, [trigger('intx')]);
    device.raise(1);
    expect([device.interrupts.intxLevel, readAll(device, CONFIG)[6]! & 8]).toEqual([true, 8]);
    device.clear();
    expect([device.interrupts.intxLevel, readAll(device, CONFIG)[6]! & 8]).toEqual([false, 0]);
    device.interrupts.setTriggers(PciIrq.MSIX, 0, [undefined, trigger('one')]);
    device.raise(1);
    device.raise(0);
    expect(signals).toEqual(['intx', 'one']);
    expect(device.interrupts.intxLevel).toBe(false);
  });

  test('INTx disable hides a pending interrupt; switched on again, it is asserted', () => {
    const device = new TestDevice();
    device.regionWrite(CONFIG, 4, Uint8Array.of(0, 4));
    device.raise(0);
    expect([device.interrupts.intxLevel, readAll(device, CONFIG)[6]! & 8]).toEqual([false, 8]);
    device.regionWrite(CONFIG, 4, Uint8Array.of(0, 0));
    expect(device.interrupts.intxLevel).toBe(true);
    device.regionWrite(CONFIG, 4, Uint8Array.of(0, 4));
    expect(device.interrupts.intxLevel).toBe(false);
    device.clear();
    device.regionWrite(CONFIG, 4, Uint8Array.of(0, 0));
    expect(device.interrupts.intxLevel).toBe(false);
  });

  test('a device without pin A has no INTx', () => {
    const device = new TestDevice({ intx: false });
    expect(device.interrupts.info(PciIrq.INTX).count).toBe(0);
    expect(readAll(device, CONFIG)[0x3d]).toBe(0);
    device.raise(0);
    expect(device.interrupts.intxLevel).toBe(false);
  });
});

describe('DMA', () => {
  test('follows the bus master bit, and a stop for migration', async () => {
    const device = new TestDevice();
    mapArray(device, 4096);
    expect(() => device.dma.write(0, new Uint8Array(1))).toThrow('EPERM');
    busMaster(device);
    device.dma.write(0, new Uint8Array(1));
    for (const state of [RUNNING_P2P, STOP, STOP_COPY]) {
      await device.migration!.setState(state);
      expect(() => device.dma.write(0, new Uint8Array(1))).toThrow('EPERM');
    }
    await device.migration!.setState(RUNNING);
    device.dma.write(0, new Uint8Array(1));
    await device.migration!.setState(PRE_COPY);
    device.dma.write(0, new Uint8Array(1));
  });

  test('the state changes only when what was in flight has arrived and is logged', async () => {
    const device = new TestDevice();
    const backing = mapArray(device, 4096);
    busMaster(device);
    device.dma.log.start(4096n, [{ iova: 0n, length: 4096n }]);
    const held = gate();
    backing.beforeWrite = () => held.promise;
    const written = device.dma.write(0, Uint8Array.of(5));
    const stopped = device.migration!.setState(STOP).then(() => device.dma.log.dirtyPages());
    await new Promise(resolve => setImmediate(resolve));
    expect(device.migration!.state).toBe(RUNNING);
    held.open();
    expect(await stopped).toBe(1);
    await written;
  });
});

describe('reset', () => {
  test('registers, configuration and migration state as at power-on; memory map, triggers and log stay (rows D48, D49)', async () => {
    const device = withMsix();
    const fresh = [readAll(device, 0), readAll(device, 2), readAll(device, CONFIG)];
    const backing = mapArray(device, 4096);
    let signals = 0;
    device.interrupts.setTriggers(PciIrq.INTX, 0, [{ signal: () => signals++, close() {} }]);
    busMaster(device);
    device.dma.log.start(4096n, [{ iova: 0n, length: 4096n }]);
    device.dma.write(0, new Uint8Array(1));
    device.raise(0);
    device.regionWrite(0, 0, Uint8Array.of(1));
    device.regionWrite(2, 0, Uint8Array.of(1));
    await device.migration!.setState(RESUMING);
    await device.reset();
    expect([readAll(device, 0), readAll(device, 2), readAll(device, CONFIG)]).toEqual(fresh);
    expect(device.migration!.state).toBe(RUNNING);
    expect([device.interrupts.intxLevel, backing.closed, device.dma.log.dirtyPages()]).toEqual([false, 0, 1]);
    expect(() => device.dma.write(0, new Uint8Array(1))).toThrow('bus mastering');
    device.regionWrite(CONFIG, 4, Uint8Array.of(4, 0));
    device.dma.write(0, new Uint8Array(1));
    expect(device.calls.slice(-3)).toEqual(['quiesce', 'reset', 'run']);
    device.raise(0);
    device.interrupts.unmask(PciIrq.INTX, 0, 1);
    expect(signals).toBe(2);
  });

  test('one that overtakes a stop leaves the device running', async () => {
    for (const resetFirst of [false, true]) {
      const device = new TestDevice();
      const backing = mapArray(device, 4096);
      busMaster(device);
      const held = gate();
      backing.beforeWrite = () => held.promise;
      const written = device.dma.write(0, Uint8Array.of(5));
      const operations = [
        () => errnoOf(device.migration!.setState(STOP)),
        () => Promise.resolve(device.reset()).then(() => undefined),
      ];
      if (resetFirst) operations.reverse();
      const running = operations.map(operation => operation());
      held.open();
      const outcomes = await Promise.all(running);
      await written;
      // A stop that was quicker than the reset has ended well; either way the reset has the last word.
      expect([undefined, 'ECANCELED']).toContain(outcomes[resetFirst ? 1 : 0]);
      expect(device.migration!.state).toBe(RUNNING);
      device.regionWrite(CONFIG, 4, Uint8Array.of(6, 0));
      await device.dma.write(0, Uint8Array.of(6));
      expect(device.calls.at(-1)).toBe('run');
    }
  });
});

describe('a stop that a reset overtook', () => {
  test('and that comes to its end after the reset does not switch DMA off again', async () => {
    const device = new TestDevice();
    mapArray(device, 4096);
    const reset = device.reset();
    const held = gate();
    device.quiet = held.promise;
    const stop = errnoOf(device.migration!.setState(STOP));
    await reset;
    held.open();
    expect(await stop).toBe('ECANCELED');
    busMaster(device);
    device.dma.write(0, Uint8Array.of(1));
    expect(device.migration!.state).toBe(RUNNING);
  });
});

describe('a client that leaves', () => {
  test('takes its maps and triggers along; registers, log and state stay', () => {
    const device = withMsix();
    const backing = mapArray(device, 4096);
    let closes = 0;
    device.interrupts.setTriggers(PciIrq.MSIX, 0, [{ signal() {}, close: () => closes++ }]);
    busMaster(device);
    device.dma.log.start(4096n, [{ iova: 0n, length: 4096n }]);
    device.dma.write(0, new Uint8Array(1));
    device.regionWrite(0, 3, Uint8Array.of(7));
    device.disconnect();
    expect([backing.closed, closes, device.dma.map.regions.length]).toEqual([1, 1, 0]);
    expect(readAll(device, 0)[3]).toBe(7);
    expect(device.dma.log.dirtyPages()).toBe(1);
    expect(() => device.dma.write(0, new Uint8Array(1))).toThrow('EFAULT');
  });
});

describe('migration', () => {
  function busyDevice(): TestDevice {
    const device = withMsix();
    busMaster(device);
    device.regionWrite(0, 9, Uint8Array.of(1, 2, 3));
    device.regionWrite(2, 5, Uint8Array.of(4));
    device.raise(0);
    return device;
  }

  test('moves registers, configuration space, MSI-X table and the level of INTx', async () => {
    const source = busyDevice();
    const state = await save(source);
    const destination = withMsix();
    mapArray(destination, 4096);
    await destination.migration!.setState(RESUMING);
    destination.migration!.writeData(state);
    await destination.migration!.setState(STOP);
    for (const region of [0, 2, CONFIG]) expect(readAll(destination, region)).toEqual(readAll(source, region));
    expect(destination.interrupts.intxLevel, 'nothing is signalled where the machine does not run yet').toBe(false);
    expect(() => destination.dma.write(0, new Uint8Array(1))).toThrow('EPERM');
    await destination.migration!.setState(RUNNING);
    expect(destination.interrupts.intxLevel).toBe(true);
    destination.dma.write(0, new Uint8Array(1));
  });

  test('by PRE_COPY the identity comes first, once, and the whole is the same', async () => {
    const whole = await save(busyDevice());
    const source = busyDevice();
    await source.migration!.setState(PRE_COPY);
    const identity = source.migration!.readData(1000);
    expect(identity.length).toBe(16);
    await source.migration!.setState(STOP_COPY);
    const rest = source.migration!.readData(1 << 20);
    expect(Buffer.concat([identity, rest])).toEqual(Buffer.from(whole));
    expect(source.migration!.readData(1).length).toBe(0);
  });

  test('data cut off at any length is EINVAL and changes nothing', async () => {
    const state = await save(busyDevice());
    const device = withMsix();
    device.regionWrite(0, 0, Uint8Array.of(42));
    const before = [readAll(device, 0), readAll(device, 2), readAll(device, CONFIG)];
    await device.migration!.setState(RESUMING);
    for (let length = 0; length < state.length; length++) {
      expect(await errnoOf(device.migration!.setState(STOP))).toBe('EINVAL');
      expect(device.migration!.state).toBe(RESUMING);
      device.migration!.writeData(state.subarray(length, length + 1));
    }
    expect([readAll(device, 0), readAll(device, 2), readAll(device, CONFIG)]).toEqual(before);
    expect(device.interrupts.intxLevel).toBe(false);
    await device.migration!.setState(STOP);
    expect(readAll(device, 0)[9]).toBe(1);
  });

  test('data with anything behind it, or of another device or version, is EINVAL and changes nothing', async () => {
    const state = await save(busyDevice());
    const offers: [TestDevice, Uint8Array][] = [
      [withMsix(), Buffer.concat([state, Uint8Array.of(0)])],
      [withMsix(), Buffer.concat([state, new Uint8Array(4)])],
      [withMsix(), Buffer.concat([state, state])],
      [new TestDevice({ msix: { vectors: 3, bar: 2 }, stateVersion: 2 }), state],
      [new TestDevice({ msix: { vectors: 3, bar: 2 }, deviceId: 1 }), state],
      [new TestDevice({ msix: { vectors: 3, bar: 2 }, revision: 1 }), state],
      [new TestDevice({ msix: { vectors: 300, bar: 2 } }), state],
      [new TestDevice({ msix: { vectors: 4, bar: 2 } }), state],
      [new TestDevice(), state],
    ];
    for (const [device, bytes] of offers) {
      const before = [readAll(device, 0), readAll(device, CONFIG)];
      await device.migration!.setState(RESUMING);
      device.migration!.writeData(bytes);
      expect(await errnoOf(device.migration!.setState(STOP))).toBe('EINVAL');
      expect([readAll(device, 0), readAll(device, CONFIG)]).toEqual(before);
    }
  });

  test('of a device that cannot migrate is ENOTTY', async () => {
    const local = new LocalDevice(new TestDevice({ migrationFlags: 0 }));
    expect(await errnoOf(local.readMigrationData(10))).toBe('ENOTTY');
    expect(await errnoOf(local.writeMigrationData(new Uint8Array(1)))).toBe('ENOTTY');
    await local.reset();
    await local.close();
  });
});
