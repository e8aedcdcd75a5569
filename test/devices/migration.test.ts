import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  DmaEngineCommand,
  DmaEngineRegister,
  encodeScatterList,
  type WorkloadConfig,
  type WorkloadKindName,
} from '../../src/devices/dma-engine/index.js';
import { ERRNO, MigrationState, PciIrq, PciRegion, viewOf } from '../../src/uapi/index.js';
import {
  createHost,
  createLateHost,
  createRecordingHost,
  type EngineHost,
  migrate,
  RecordingBacking,
  readState,
  reportedPages,
} from './engine-host.js';

const PAGE = 4096;
const PAGES = 64;
const SIZE = PAGES * PAGE;

const anyConfig: fc.Arbitrary<WorkloadConfig> = fc.record({
  kind: fc.constantFrom<WorkloadKindName>('sequential', 'uniform', 'hot-set', 'rings'),
  base: fc.constantFrom(0n, 4096n, 64n),
  length: fc.integer({ min: 8, max: 60 }).map(pages => BigInt(pages * PAGE)),
  rate: fc.constant(0),
  pageSize: fc.constantFrom(512, 4096),
  seed: fc.nat(0xffff_ffff),
  exponent: fc.nat(30).map(tenths => tenths / 10),
  rings: fc.integer({ min: 1, max: 8 }),
  burst: fc.integer({ min: 1, max: 20 }),
  checkInterval: fc.nat(3),
});

async function startWorkload(host: EngineHost, config: WorkloadConfig): Promise<void> {
  await host.driver.configureWorkload(config);
  await host.driver.start();
}

async function registersOf(host: EngineHost): Promise<Uint8Array> {
  return host.device.regionRead(PciRegion.BAR0, 0, 4096);
}

describe('a workload that migrates', () => {
  test('writes the same pages in the same order, with the same bytes, as one that stays', async () => {
    await fc.assert(
      fc.asyncProperty(anyConfig, fc.nat(200), fc.nat(200), async (config, before, after) => {
        const stays = await createRecordingHost(new Uint8Array(SIZE));
        const source = await createRecordingHost(new Uint8Array(SIZE));
        for (const host of [stays, source]) await startWorkload(host, config);
        stays.engine.stepWorkload(before + after);
        source.engine.stepWorkload(before);
        const destination = await createRecordingHost(source.backing.bytes.slice());
        await migrate(source.device, destination.device);
        destination.engine.stepWorkload(after);
        expect([...source.backing.writes, ...destination.backing.writes]).toEqual(stays.backing.writes);
        expect(Buffer.compare(destination.backing.bytes, stays.backing.bytes)).toBe(0);
        expect(Buffer.compare(await registersOf(destination), await registersOf(stays))).toBe(0);
        for (const host of [stays, source, destination]) await host.close();
      }),
      { numRuns: 300 },
    );
  });

  test('with the pages that the log names it is found whole at the destination; without them it is found stale', async () => {
    for (const kind of ['sequential', 'uniform', 'hot-set', 'rings'] as const) {
      const source = await createHost(SIZE);
      await startWorkload(source, { kind, base: 0n, length: BigInt(SIZE), rate: 0 });
      source.engine.stepWorkload(40);
      const copy = new Uint8Array(SIZE);
      source.memory.read(0, copy);
      source.engine.dma.log.start(4096n, [{ iova: 0n, length: BigInt(SIZE) }]);
      source.engine.stepWorkload(30);
      const withLog = await createHost(SIZE);
      const without = await createHost(SIZE);
      for (const destination of [withLog, without]) destination.memory.write(0, copy);
      await source.device.features.setMigrationState(MigrationState.STOP_COPY);
      const state = await readState(source.device);
      const dirty = reportedPages(source.engine, 0n, SIZE);
      for (const page of dirty) {
        withLog.memory.write(Number(page) * PAGE, source.memory.view(Number(page) * PAGE, PAGE));
      }
      for (const destination of [withLog, without]) {
        await destination.device.features.setMigrationState(MigrationState.RESUMING);
        await destination.device.writeMigrationData(state);
        await destination.device.features.setMigrationState(MigrationState.RUNNING);
      }
      expect(await withLog.driver.verify()).toMatchObject({ bad: 0, stale: 0 });
      expect(dirty.length).toBeGreaterThan(0);
      expect(await without.driver.verify()).toMatchObject({ bad: dirty.length, stale: dirty.length });
      for (const host of [source, withLog, without]) await host.close();
    }
  });

  test('that runs by its rate stands still while the device is stopped, and goes on at the destination', async () => {
    const source = await createHost(SIZE);
    await startWorkload(source, { kind: 'uniform', base: 0n, length: BigInt(SIZE), rate: 50_000 });
    while ((await source.driver.statistics()).pagesWritten < 100) await new Promise(resolve => setTimeout(resolve, 1));
    const destination = await createHost(SIZE);
    await source.device.features.setMigrationState(MigrationState.STOP_COPY);
    const stopped = await source.driver.statistics();
    await new Promise(resolve => setTimeout(resolve, 20));
    expect(await source.driver.statistics()).toEqual(stopped);
    destination.memory.write(0, source.memory.view(0, SIZE));
    await destination.device.features.setMigrationState(MigrationState.RESUMING);
    await destination.device.writeMigrationData(await readState(source.device));
    await destination.device.features.setMigrationState(MigrationState.STOP);
    expect(await destination.driver.statistics()).toEqual(stopped);
    await destination.device.features.setMigrationState(MigrationState.RUNNING);
    while ((await destination.driver.statistics()).pagesWritten <= stopped.pagesWritten) {
      await new Promise(resolve => setTimeout(resolve, 1));
    }
    expect(await destination.driver.verify()).toMatchObject({ bad: 0 });
    await source.close();
    await destination.close();
  });

  test('a migration that is given up leaves the source running as before', async () => {
    const source = await createHost(SIZE);
    await startWorkload(source, { kind: 'uniform', base: 0n, length: BigInt(SIZE), rate: 20_000 });
    await source.device.features.setMigrationState(MigrationState.STOP_COPY);
    const { pagesWritten } = await source.driver.statistics();
    await source.device.features.setMigrationState(MigrationState.RUNNING);
    while ((await source.driver.statistics()).pagesWritten <= pagesWritten) {
      await new Promise(resolve => setTimeout(resolve, 1));
    }
    expect(await source.driver.verify()).toMatchObject({ bad: 0 });
    await source.close();
  });

  test('stops at a page that is whole, wherever it is when memory answers late', async () => {
    // Few pages, so that most writes check first: the stop comes between a read and the write that follows it, too.
    const config: WorkloadConfig = { kind: 'uniform', base: 0n, length: BigInt(4 * PAGE), rate: 0 };
    for (let turns = 1; turns < 40; turns++) {
      const late = await createLateHost(SIZE);
      await startWorkload(late, config);
      const batch = late.engine.stepWorkload(1000);
      for (let turn = 0; turn < turns; turn++) await new Promise(resolve => setImmediate(resolve));
      await late.device.features.setMigrationState(MigrationState.STOP_COPY);
      const { pagesWritten, running, errno } = await late.driver.statistics();
      expect([running, errno]).toEqual([true, undefined]);
      expect(pagesWritten).toBeLessThan(1000);
      const bytes = late.backing.bytes.slice();
      await batch;
      const destination = await createRecordingHost(bytes);
      await destination.device.features.setMigrationState(MigrationState.RESUMING);
      await destination.device.writeMigrationData(await readState(late.device));
      await destination.device.features.setMigrationState(MigrationState.RUNNING);
      expect(await destination.driver.verify()).toMatchObject({ bad: 0 });
      const stays = await createRecordingHost(new Uint8Array(SIZE));
      await startWorkload(stays, config);
      stays.engine.stepWorkload(pagesWritten + 100);
      destination.engine.stepWorkload(100);
      expect(Buffer.compare(destination.backing.bytes, stays.backing.bytes)).toBe(0);
      for (const host of [late, destination, stays]) await host.close();
    }
  });
});

describe('a command that migrates', () => {
  const BIG = 8 << 20;

  async function doneOf(host: EngineHost): Promise<number> {
    const bytes = await host.device.regionRead(PciRegion.BAR0, DmaEngineRegister.COMMAND_DONE, 8);
    return Number(viewOf(bytes).getBigUint64(0, true));
  }

  /** Starts a command, stops the device in the middle of it, and finishes it at a destination with the same memory. */
  async function moveWithin(
    prepare: (memory: Uint8Array) => void,
    begin: (host: EngineHost) => Promise<unknown>,
  ): Promise<{ bytes: Uint8Array; doneAtSource: number; completions: number; destination: EngineHost }> {
    const source = await createRecordingHost(new Uint8Array(BIG));
    prepare(source.backing.bytes);
    // The driver polls on at the source, whose command never ends there.
    void begin(source).catch(() => {});
    while ((await doneOf(source)) === 0) await new Promise(resolve => setImmediate(resolve));
    await source.device.features.setMigrationState(MigrationState.STOP_COPY);
    const doneAtSource = await doneOf(source);
    const destination = await createRecordingHost(source.backing.bytes.slice());
    await destination.device.features.setMigrationState(MigrationState.RESUMING);
    await destination.device.writeMigrationData(await readState(source.device));
    await destination.device.features.setMigrationState(MigrationState.RUNNING);
    const status = () => destination.device.regionRead(PciRegion.BAR0, DmaEngineRegister.COMMAND_STATUS, 16);
    while (((await status())[3]! & 0x80) !== 0) await new Promise(resolve => setImmediate(resolve));
    expect((await status())[0]).toBe(0);
    const completions = (await status())[12]!;
    await source.device.reset();
    return { bytes: destination.backing.bytes, doneAtSource, completions, destination };
  }

  test('a fill goes on at the next chunk', async () => {
    const { bytes, doneAtSource, completions } = await moveWithin(
      () => {},
      host => host.driver.fill({ destination: 0n, length: BigInt(BIG), pattern: 0x0807060504030201n }),
    );
    expect(doneAtSource % 65536).toBe(0);
    expect(doneAtSource).toBeLessThan(BIG);
    expect(completions).toBe(1);
    expect(bytes.every((byte, index) => byte === (index % 8) + 1)).toBe(true);
  });

  test('a copy that overlaps itself goes on from the right end', async () => {
    const expected = Uint8Array.from({ length: BIG }, (_, index) => (index * 7 + (index >>> 10)) & 0xff);
    const { bytes, doneAtSource } = await moveWithin(
      memory => memory.set(expected),
      host => host.driver.copy({ source: 0n, destination: 1000n, length: BigInt(BIG - 1000) }),
    );
    expect(doneAtSource).toBeLessThan(BIG - 1000);
    expect(Buffer.compare(bytes.subarray(1000), expected.subarray(0, BIG - 1000))).toBe(0);
  });

  test('a scatter goes on at the next entry', async () => {
    const entries = Array.from({ length: 5000 }, (_, index) => ({
      iova: BigInt(0x10_0000 + index * 64),
      length: 64,
      value: index,
    }));
    const { bytes, doneAtSource } = await moveWithin(
      memory => memory.set(encodeScatterList(entries)),
      host => host.driver.scatter({ list: 0n, entries: entries.length }),
    );
    expect(doneAtSource).toBeLessThan(5000);
    const view = viewOf(bytes);
    for (let index = 0; index < 5000; index++) expect(view.getUint32(0x10_0000 + index * 64 + 60, true)).toBe(index);
  });

  test('VERIFY counts each page once', async () => {
    const { doneAtSource, destination } = await moveWithin(
      () => {},
      async host => {
        await startWorkload(host, { kind: 'sequential', base: 0n, length: BigInt(BIG), rate: 0, pageSize: 512 });
        host.engine.stepWorkload(BIG / 512);
        await host.driver.verify();
      },
    );
    expect(doneAtSource).toBeLessThan(BIG / 512);
    const result = viewOf(await destination.device.regionRead(PciRegion.BAR0, DmaEngineRegister.VERIFY_CHECKED, 16));
    expect([result.getUint32(0, true), result.getUint32(8, true)]).toEqual([BIG / 512, 0]);
    await destination.close();
  });

  test('a copy stops between chunks, never between the read and the write of one, when memory answers late', async () => {
    const length = 5 * 65536;
    const pattern = Uint8Array.from({ length }, (_, index) => (index * 13 + (index >>> 8)) & 0xff);
    for (let turns = 1; turns < 10; turns++) {
      const late = await createLateHost(2 * length);
      late.backing.bytes.set(pattern);
      void late.driver.copy({ source: 0n, destination: BigInt(length), length: BigInt(length) }).catch(() => {});
      while (late.backing.accesses === 0) await Promise.resolve();
      for (let turn = 1; turn < turns; turn++) await new Promise(resolve => setImmediate(resolve));
      await late.device.features.setMigrationState(MigrationState.STOP_COPY);
      expect((await doneOf(late)) % 65536).toBe(0);
      expect(late.backing.accesses % 2).toBe(0);
      const destination = await createRecordingHost(late.backing.bytes.slice());
      await destination.device.features.setMigrationState(MigrationState.RESUMING);
      await destination.device.writeMigrationData(await readState(late.device));
      await destination.device.features.setMigrationState(MigrationState.RUNNING);
      await new Promise(resolve => setImmediate(resolve));
      const end = await destination.device.regionRead(PciRegion.BAR0, DmaEngineRegister.COMMAND_STATUS, 4);
      expect([...end]).toEqual([0, 0, 0, 0]);
      expect(Buffer.compare(destination.backing.bytes.subarray(length), pattern)).toBe(0);
      await late.device.reset();
      await destination.close();
    }
  });

  test('one that an interrupt handler started is waited for as any other', async () => {
    const length = 3 * 65536;
    const late = await createLateHost(2 * length);
    const direct = new RecordingBacking(new Uint8Array(4096));
    late.engine.dma.map.map({ iova: 1n << 32n, length: 4096n, readable: true, writable: true }, direct);
    const write = (register: number, value: bigint) => {
      const bytes = new Uint8Array(8);
      viewOf(bytes).setBigUint64(0, value, true);
      late.engine.regionWrite(PciRegion.BAR0, register, bytes);
    };
    const start = (command: number) =>
      late.engine.regionWrite(PciRegion.BAR0, DmaEngineRegister.COMMAND, Uint8Array.of(command, 0, 0, 0));
    const signal = () => {
      late.engine.interrupts.disable(PciIrq.MSIX);
      write(DmaEngineRegister.DESTINATION, BigInt(length));
      write(DmaEngineRegister.LENGTH, BigInt(length));
      start(DmaEngineCommand.COPY);
    };
    late.engine.interrupts.setTriggers(PciIrq.MSIX, 0, [{ signal, close() {} }]);
    write(DmaEngineRegister.DESTINATION, 1n << 32n);
    write(DmaEngineRegister.LENGTH, 8n);
    start(DmaEngineCommand.FILL);
    while (late.backing.accesses === 0) await Promise.resolve();
    await late.device.features.setMigrationState(MigrationState.STOP_COPY);
    expect([await doneOf(late), late.backing.accesses]).toEqual([65536, 2]);
    await late.device.reset();
    await late.close();
  });

  test('a command that is written while the device is stopped begins when it runs', async () => {
    const host = await createRecordingHost(new Uint8Array(SIZE));
    await host.device.features.setMigrationState(MigrationState.STOP);
    const fill = host.driver.fill({ destination: 0n, length: 8n, pattern: 0x77n });
    await new Promise(resolve => setTimeout(resolve, 10));
    expect(host.backing.writes).toEqual([]);
    await host.device.features.setMigrationState(MigrationState.RUNNING);
    await fill;
    expect(host.backing.bytes[0]).toBe(0x77);
    await host.close();
  });

  test('one that does not exist, or whose workload is gone, migrates too, and ends with EINVAL at the destination', async () => {
    for (const command of [0, 77, DmaEngineCommand.VERIFY]) {
      const source = await createRecordingHost(new Uint8Array(SIZE));
      await source.device.features.setMigrationState(MigrationState.STOP);
      await source.device.regionWrite(PciRegion.BAR0, DmaEngineRegister.COMMAND, Uint8Array.of(command, 0, 0, 0));
      const destination = await createRecordingHost(new Uint8Array(SIZE));
      await migrate(source.device, destination.device);
      await new Promise(resolve => setImmediate(resolve));
      const end = await destination.device.regionRead(PciRegion.BAR0, DmaEngineRegister.COMMAND_STATUS, 4);
      expect([...end]).toEqual([ERRNO.EINVAL, 0, 0, 0]);
      await source.close();
      await destination.close();
    }
  });

  test('one that is written and whose device stops and runs again at once is done once', async () => {
    const host = await createRecordingHost(new Uint8Array(SIZE));
    const write = (register: number, value: number) =>
      host.engine.regionWrite(PciRegion.BAR0, register, Uint8Array.of(value, 0, 0, 0));
    write(DmaEngineRegister.LENGTH, 8);
    write(DmaEngineRegister.COMMAND, 2);
    const stopping = host.device.features.setMigrationState(MigrationState.STOP);
    await stopping;
    await host.device.features.setMigrationState(MigrationState.RUNNING);
    await new Promise(resolve => setTimeout(resolve, 5));
    expect(host.backing.writes).toEqual([0]);
    const completions = await host.device.regionRead(PciRegion.BAR0, DmaEngineRegister.COMPLETIONS, 4);
    expect(completions[0]).toBe(1);
    await host.close();
  });
});

describe("the engine's state from a peer", () => {
  async function stateOf(config: WorkloadConfig | undefined): Promise<Uint8Array> {
    const source = await createRecordingHost(new Uint8Array(SIZE));
    if (config !== undefined) {
      await startWorkload(source, config);
      source.engine.stepWorkload(100);
    }
    await source.driver.fill({ destination: 0n, length: 8n, pattern: 3n });
    await source.device.features.setMigrationState(MigrationState.STOP_COPY);
    const state = await readState(source.device);
    await source.close();
    return state;
  }

  async function offer(host: EngineHost, state: Uint8Array): Promise<string | undefined> {
    await host.device.features.setMigrationState(MigrationState.RESUMING);
    await host.device.writeMigrationData(state);
    return host.device.features.setMigrationState(MigrationState.STOP).then(
      () => undefined,
      (error: { errno: string }) => error.errno,
    );
  }

  for (const kind of [undefined, 'sequential', 'rings'] as const) {
    test(`cut off at any length it is EINVAL, and nothing has changed (${kind ?? 'no workload'})`, async () => {
      const config = kind && { kind, base: 0n, length: BigInt(SIZE), rate: 0 };
      const state = await stateOf(config);
      const host = await createRecordingHost(new Uint8Array(SIZE));
      await host.driver.fill({ destination: 64n, length: 16n, pattern: 9n });
      const before = await registersOf(host);
      const config0 = await host.device.regionRead(PciRegion.CONFIG, 0, 256);
      for (let length = 0; length < state.length; length++) {
        expect(await offer(host, state.subarray(0, length))).toBe('EINVAL');
        await host.device.reset();
        await host.driver.enableBusMaster();
        await host.driver.fill({ destination: 64n, length: 16n, pattern: 9n });
      }
      await host.device.features.setMigrationState(MigrationState.RESUMING);
      await host.device.writeMigrationData(state.subarray(0, state.length - 1));
      await expect(host.device.features.setMigrationState(MigrationState.STOP)).rejects.toThrow('EINVAL');
      expect(await registersOf(host)).toEqual(before);
      expect(await host.device.regionRead(PciRegion.CONFIG, 0, 256)).toEqual(config0);
      await host.device.writeMigrationData(state.subarray(state.length - 1));
      await host.device.features.setMigrationState(MigrationState.STOP);
      await host.close();
    });
  }

  test('with any bytes changed it is EINVAL and changes nothing, or it is taken and the engine lives', async () => {
    const states = [
      await stateOf(undefined),
      await stateOf({ kind: 'uniform', base: 0n, length: BigInt(SIZE), rate: 0 }),
      await stateOf({ kind: 'rings', base: 0n, length: BigInt(SIZE), rate: 0 }),
    ];
    const host = await createRecordingHost(new Uint8Array(SIZE));
    let refused = 0;
    // The engine's part begins behind identity, configuration space and MSI-X table; that is where most changes go.
    const engineAt = 16 + 4 + 256 + 4 + 4096 + 5 + 4;
    const anyChange = fc.tuple(
      fc.oneof(
        { weight: 9, arbitrary: fc.nat(700).map(at => engineAt + at) },
        { weight: 1, arbitrary: fc.nat(engineAt) },
      ),
      fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 2, 3, 4, 0x80, 0xff)),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...states),
        fc.array(anyChange, { minLength: 1, maxLength: 4 }),
        async (state, changes) => {
          const changed = state.slice();
          for (const [at, value] of changes) changed[at % changed.length] = value;
          await host.device.reset();
          const before = await registersOf(host);
          const errno = await offer(host, changed);
          if (errno !== undefined) {
            refused++;
            expect(errno).toBe('EINVAL');
            expect(Buffer.compare(await registersOf(host), before)).toBe(0);
            return;
          }
          await host.device.features.setMigrationState(MigrationState.RUNNING);
          host.engine.stepWorkload(20);
          await new Promise(resolve => setImmediate(resolve));
          expect(host.engine.migration!.state).toBe(MigrationState.RUNNING);
        },
      ),
      { numRuns: 3000 },
    );
    expect(refused).toBeGreaterThan(300);
    await host.device.reset();
    await host.driver.enableBusMaster();
    await host.driver.fill({ destination: 0n, length: 8n, pattern: 1n });
    await host.close();
  });

  test('of another kind of device, or without data, it is EINVAL', async () => {
    const host = await createRecordingHost(new Uint8Array(SIZE));
    expect(await offer(host, new Uint8Array(0))).toBe('EINVAL');
    await host.device.reset();
    const state = await stateOf(undefined);
    state[8]! ^= 1;
    expect(await offer(host, state)).toBe('EINVAL');
    await host.close();
  });
});
