import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  COMMAND_BUSY,
  DmaEngineCommand,
  DmaEngineRegister,
  encodeScatterList,
  type ScatterEntry,
} from '../../src/devices/dma-engine/index.js';
import { ERRNO, PciIrq, PciRegion, VfioError, viewOf } from '../../src/uapi/index.js';
import {
  contentsOf,
  createHost,
  createLateHost,
  type EngineHost,
  reportedPages,
  type TestRegion,
} from './engine-host.js';
import { NaiveEngine, type NaiveResult } from './naive-engine.js';

const KIB = 1024;
const HIGH = 0xffff_ffff_0000_0000n;

// Two that are adjacent but lie apart in memory, one that may only be read, one that may only be written, one that no number holds.
const regions: readonly TestRegion[] = [
  { iova: 0x10000n, length: 256 * KIB, offset: 0, readable: true, writable: true },
  { iova: 0x50000n, length: 128 * KIB, offset: 320 * KIB, readable: true, writable: true },
  { iova: 0x100000n, length: 64 * KIB, offset: 256 * KIB, readable: true, writable: false },
  { iova: 0x200000n, length: 64 * KIB, offset: 448 * KIB, readable: false, writable: true },
  { iova: HIGH, length: 64 * KIB, offset: 512 * KIB, readable: true, writable: true },
];
const MEMORY_SIZE = 576 * KIB;

/** Mostly inside a region; sometimes across its end, or nowhere. */
const anyAddress = fc.oneof(
  {
    weight: 12,
    arbitrary: fc
      .tuple(fc.constantFrom(...regions), fc.nat(320 * KIB))
      .map(([region, offset]) => region.iova + BigInt(offset % region.length)),
  },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);
const anyLength = fc.oneof(
  { weight: 6, arbitrary: fc.nat(600) },
  { weight: 3, arbitrary: fc.nat(20 * KIB) },
  { weight: 1, arbitrary: fc.nat(200 * KIB) },
);
const anyEntry: fc.Arbitrary<ScatterEntry> = fc.record({
  iova: anyAddress,
  length: fc.oneof({ weight: 20, arbitrary: fc.nat(5000) }, { weight: 1, arbitrary: fc.nat(70_000) }),
  value: fc.nat(0xffff_ffff),
});

type Command =
  | { kind: 'copy'; source: bigint; destination: bigint; length: number }
  | { kind: 'fill'; destination: bigint; length: number; pattern: bigint }
  | { kind: 'scatter'; list: bigint; entries: ScatterEntry[] };

const anyCommand: fc.Arbitrary<Command> = fc.oneof(
  fc.record({
    kind: fc.constant('copy' as const),
    source: anyAddress,
    destination: anyAddress,
    length: anyLength,
  }),
  fc
    .record({ source: anyAddress, shift: fc.integer({ min: -3000, max: 3000 }), length: anyLength })
    .map(({ source, shift, length }) => ({
      kind: 'copy' as const,
      source,
      destination: BigInt.asUintN(64, source + BigInt(shift)),
      length,
    })),
  fc.record({
    kind: fc.constant('fill' as const),
    destination: anyAddress,
    length: anyLength,
    pattern: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  }),
  fc.record({
    kind: fc.constant('scatter' as const),
    list: fc.nat(20 * KIB).map(offset => 0x10000n + BigInt(offset)),
    entries: fc.array(anyEntry, { maxLength: 12 }),
  }),
);

let host: EngineHost;
beforeAll(async () => {
  host = await createHost(MEMORY_SIZE, regions);
});
afterAll(() => host.close());

async function read32(register: number): Promise<number> {
  return viewOf(await host.device.regionRead(PciRegion.BAR0, register, 4)).getUint32(0, true);
}

async function write32(register: number, value: number): Promise<void> {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  await host.device.regionWrite(PciRegion.BAR0, register, bytes);
}

async function outcome(run: Promise<void>): Promise<NaiveResult> {
  const errno = await run.then(
    () => undefined,
    (error: unknown) => {
      if (!(error instanceof VfioError)) throw error;
      return error.errno as NaiveResult['errno'];
    },
  );
  const done = viewOf(await host.device.regionRead(PciRegion.BAR0, DmaEngineRegister.COMMAND_DONE, 8));
  return { errno, done: done.getBigUint64(0, true) };
}

function execute(command: Command): Promise<NaiveResult> {
  switch (command.kind) {
    case 'copy':
      return outcome(host.driver.copy({ ...command, length: BigInt(command.length) }));
    case 'fill':
      return outcome(host.driver.fill({ ...command, length: BigInt(command.length) }));
    case 'scatter':
      host.memory.write(Number(command.list - 0x10000n), encodeScatterList(command.entries));
      return outcome(host.driver.scatter({ list: command.list, entries: command.entries.length }));
  }
}

function executeNaively(naive: NaiveEngine, command: Command): NaiveResult {
  switch (command.kind) {
    case 'copy':
      return naive.copy(command.source, command.destination, BigInt(command.length));
    case 'fill':
      return naive.fill(command.destination, BigInt(command.length), command.pattern);
    case 'scatter':
      naive.memory.set(encodeScatterList(command.entries), Number(command.list - 0x10000n));
      return naive.scatter(command.list, command.entries.length);
  }
}

describe('commands against a naive twin', () => {
  test('any commands leave the same bytes, end with the same errno and progress, and log exactly the pages they wrote', async () => {
    const seedBytes = Uint8Array.from({ length: MEMORY_SIZE }, (_, index) => (index * 31 + (index >>> 8)) & 0xff);
    await fc.assert(
      fc.asyncProperty(fc.array(anyCommand, { minLength: 1, maxLength: 5 }), async commands => {
        host.memory.write(0, seedBytes);
        const naive = new NaiveEngine(seedBytes.slice(), regions);
        const ranges = regions.map(({ iova, length }) => ({ iova, length: BigInt(length) }));
        host.engine.dma.log.start(4096n, ranges);
        try {
          for (const command of commands) expect(await execute(command)).toEqual(executeNaively(naive, command));
          expect(Buffer.compare(contentsOf(host.memory), naive.memory)).toBe(0);
          const logged = regions.flatMap(({ iova, length }) => reportedPages(host.engine, iova, length));
          expect(new Set(logged)).toEqual(naive.dirty);
        } finally {
          host.engine.dma.log.stop();
        }
      }),
      { numRuns: 700 },
    );
  });
});

describe('what a command does besides', () => {
  beforeEach(() => host.memory.write(0, new Uint8Array(MEMORY_SIZE)));

  test('a copy that overlaps itself over several chunks is right in both directions', async () => {
    const bytes = Uint8Array.from({ length: 200 * KIB }, (_, index) => (index * 7 + (index >>> 9)) & 0xff);
    for (const [from, to] of [
      [0, 1],
      [1, 0],
      [0, 4096],
      [4096, 0],
      [0, 40_000],
    ] as const) {
      host.memory.write(from, bytes);
      await host.driver.copy({
        source: 0x10000n + BigInt(from),
        destination: 0x10000n + BigInt(to),
        length: BigInt(bytes.length),
      });
      const seen = new Uint8Array(bytes.length);
      host.memory.read(to, seen);
      expect(Buffer.compare(seen, bytes)).toBe(0);
    }
  });

  test('an interval that ends beyond 2^64 is EOVERFLOW, one that ends there is only not mapped', async () => {
    const beyond = { destination: 2n ** 64n - 8n, length: 9n, pattern: 1n };
    await expect(host.driver.fill(beyond)).rejects.toMatchObject({ errno: 'EOVERFLOW' });
    await expect(host.driver.fill({ ...beyond, length: 8n })).rejects.toMatchObject({ errno: 'EFAULT' });
  });

  test('a command that does not exist ends with EINVAL', async () => {
    for (const command of [0, 5, 0xffff_ffff]) {
      await write32(DmaEngineRegister.COMMAND, command);
      await Promise.resolve();
      expect(await read32(DmaEngineRegister.COMMAND_STATUS)).toBe(ERRNO.EINVAL);
    }
  });

  test('VERIFY without an armed workload ends with EINVAL', async () => {
    await expect(host.driver.verify()).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('without bus mastering a command ends with EPERM and nothing is written', async () => {
    await host.device.regionWrite(PciRegion.CONFIG, 4, Uint8Array.of(2, 0));
    try {
      const fill = host.driver.fill({ destination: 0x10000n, length: 64n, pattern: -1n });
      await expect(fill).rejects.toMatchObject({ errno: 'EPERM' });
      expect(contentsOf(host.memory).every(byte => byte === 0)).toBe(true);
    } finally {
      await host.driver.enableBusMaster();
    }
  });

  test('each command that ends counts, raises vector 0, and sets status bit 0 until it is cleared', async () => {
    let raised = 0;
    host.engine.interrupts.setTriggers(PciIrq.MSIX, 0, [{ signal: () => raised++, close() {} }]);
    const before = await read32(DmaEngineRegister.COMPLETIONS);
    await host.driver.fill({ destination: 0x10000n, length: 8n, pattern: 1n });
    await expect(host.driver.fill({ destination: 0n, length: 8n, pattern: 1n })).rejects.toThrow('EFAULT');
    expect(raised).toBe(2);
    expect(await read32(DmaEngineRegister.COMPLETIONS)).toBe(before + 2);
    expect(await read32(DmaEngineRegister.INTERRUPT_STATUS)).toBe(1);
    await write32(DmaEngineRegister.INTERRUPT_STATUS, 2);
    expect(await read32(DmaEngineRegister.INTERRUPT_STATUS)).toBe(1);
    await write32(DmaEngineRegister.INTERRUPT_STATUS, 1);
    expect(await read32(DmaEngineRegister.INTERRUPT_STATUS)).toBe(0);
    host.engine.interrupts.disable(PciIrq.MSIX);
  });

  test('without MSI-X, INTx stays asserted until the status is cleared', async () => {
    let raised = 0;
    host.engine.interrupts.setTriggers(PciIrq.INTX, 0, [{ signal: () => raised++, close() {} }]);
    await host.driver.fill({ destination: 0x10000n, length: 8n, pattern: 1n });
    expect([raised, host.engine.interrupts.intxLevel]).toEqual([1, true]);
    host.engine.interrupts.unmask(PciIrq.INTX, 0, 1);
    expect(raised).toBe(2);
    await write32(DmaEngineRegister.INTERRUPT_STATUS, 1);
    expect(host.engine.interrupts.intxLevel).toBe(false);
    host.engine.interrupts.unmask(PciIrq.INTX, 0, 1);
    expect(raised).toBe(2);
    host.engine.interrupts.disable(PciIrq.INTX);
  });

  test('whoever gets the interrupt may start the next command from within', async () => {
    const left = [0x22, 0x33, 0x44];
    const signal = () => {
      const value = left.shift();
      if (value === undefined) return;
      const bytes = new Uint8Array(4);
      viewOf(bytes).setUint32(0, value, true);
      host.engine.regionWrite(PciRegion.BAR0, DmaEngineRegister.PATTERN, bytes);
      host.engine.regionWrite(PciRegion.BAR0, DmaEngineRegister.COMMAND, Uint8Array.of(DmaEngineCommand.FILL, 0, 0, 0));
    };
    host.engine.interrupts.setTriggers(PciIrq.MSIX, 0, [{ signal, close() {} }]);
    const before = await read32(DmaEngineRegister.COMPLETIONS);
    await host.driver.fill({ destination: 0x10000n, length: 4n, pattern: 0x11n });
    while (((await read32(DmaEngineRegister.COMMAND_STATUS)) & COMMAND_BUSY) !== 0) await Promise.resolve();
    expect(await read32(DmaEngineRegister.COMPLETIONS)).toBe(before + 4);
    expect(contentsOf(host.memory)[0]).toBe(0x44);
    host.engine.interrupts.disable(PciIrq.MSIX);
  });

  test('a long command lets other work of the event loop through', async () => {
    let turns = 0;
    const count = () => {
      turns++;
      immediate = setImmediate(count);
    };
    let immediate = setImmediate(count);
    const big = await createHost(8 << 20);
    await big.driver.fill({ destination: 0n, length: 8n << 20n, pattern: 0x0102030405060708n });
    clearImmediate(immediate);
    // 8 MiB are 128 chunks: eight turns at 16 chunks each.
    expect(turns).toBeGreaterThanOrEqual(7);
    await big.close();
  });

  test('memory that answers late gives the same result', async () => {
    const late = await createLateHost(300 * KIB);
    await late.driver.fill({ destination: 10n, length: 100_000n, pattern: 0x0807060504030201n });
    await late.driver.copy({ source: 10n, destination: 150_001n, length: 100_000n });
    await late.driver.copy({ source: 150_001n, destination: 150_101n, length: 100_000n });
    const expected = Uint8Array.from({ length: 100_000 }, (_, index) => (index % 8) + 1);
    expect(Buffer.compare(late.backing.bytes.subarray(150_101, 250_101), expected)).toBe(0);
    late.backing.bytes.set(encodeScatterList([{ iova: 3n, length: 5, value: 0x04030201 }]), 4096);
    await late.driver.scatter({ list: 4096n, entries: 1 });
    expect([...late.backing.bytes.subarray(2, 9)]).toEqual([0, 1, 2, 3, 4, 1, 0]);
    await late.close();
  });

  test('while a command runs, another one is refused and counted, and its parameters cannot be changed', async () => {
    const late = await createLateHost(64 * KIB);
    late.backing.held = true;
    const fill = late.driver.fill({ destination: 0n, length: 16n, pattern: 0x55n });
    while (late.backing.waiting === 0) await new Promise(resolve => setImmediate(resolve));
    const write = (register: number, value: number) =>
      late.device.regionWrite(PciRegion.BAR0, register, Uint8Array.of(value, 0, 0, 0));
    await write(DmaEngineRegister.COMMAND, DmaEngineCommand.FILL);
    await write(DmaEngineRegister.DESTINATION, 99);
    const refused = await late.device.regionRead(PciRegion.BAR0, DmaEngineRegister.REFUSED_COMMANDS, 4);
    expect([...refused]).toEqual([1, 0, 0, 0]);
    const destination = await late.device.regionRead(PciRegion.BAR0, DmaEngineRegister.DESTINATION, 4);
    expect([...destination]).toEqual([0, 0, 0, 0]);
    late.backing.release();
    await fill;
    expect(late.backing.bytes[0]).toBe(0x55);
    await late.close();
  });
});

describe('register access', () => {
  test('reads of any size and alignment give the bytes of the registers', async () => {
    const whole = await host.device.regionRead(PciRegion.BAR0, 0, 4096);
    expect(new TextDecoder().decode(whole.subarray(0, 4))).toBe('DMAE');
    fc.assert(
      fc.property(fc.nat(4095), fc.nat(64), (offset, size) => {
        const count = Math.min(size, 4096 - offset);
        const into = new Uint8Array(count);
        host.engine.regionRead(PciRegion.BAR0, offset, into);
        expect(into).toEqual(whole.subarray(offset, offset + count));
      }),
    );
  });

  test('a write of another size or alignment than an aligned word or two has no effect', async () => {
    const before = await host.device.regionRead(PciRegion.BAR0, 0, 4096);
    for (const [offset, size] of [
      [DmaEngineRegister.PATTERN, 1],
      [DmaEngineRegister.PATTERN, 2],
      [DmaEngineRegister.PATTERN + 1, 4],
      [DmaEngineRegister.PATTERN + 4, 8],
      [DmaEngineRegister.PATTERN, 12],
      [DmaEngineRegister.SOURCE, 16],
    ] as const) {
      await host.device.regionWrite(PciRegion.BAR0, offset, new Uint8Array(size).fill(0xa5));
    }
    expect(await host.device.regionRead(PciRegion.BAR0, 0, 4096)).toEqual(before);
  });

  test('registers that may only be read, and what is no register, keep their value', async () => {
    const written = new Set([8, 0x30, 0x80, 0xa0, 0xb4]);
    for (let at = 0x10; at < 0x30; at += 4) written.add(at);
    for (let at = 0x88; at < 0xb4; at += 4) written.add(at);
    const before = await host.device.regionRead(PciRegion.BAR0, 0, 4096);
    for (let at = 0; at < 4096; at += 4) {
      if (!written.has(at)) await write32(at, 0xa5a5_a5a5);
    }
    expect(await host.device.regionRead(PciRegion.BAR0, 0, 4096)).toEqual(before);
  });

  test('an 8-byte register can be written by halves', async () => {
    await write32(DmaEngineRegister.PATTERN, 0x11223344);
    await write32(DmaEngineRegister.PATTERN + 4, 0x55667788);
    const pattern = viewOf(await host.device.regionRead(PciRegion.BAR0, DmaEngineRegister.PATTERN, 8));
    expect(pattern.getBigUint64(0, true)).toBe(0x5566778811223344n);
  });
});
