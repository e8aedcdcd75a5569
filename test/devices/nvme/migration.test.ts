import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Disk, MemoryDisk, NvmeController } from '../../../src/devices/nvme/index.js';
import { MigrationState, type VfioError, viewOf } from '../../../src/uapi/index.js';
import { readState } from '../engine-host.js';
import { HeldDisk } from './held-disk.js';
import { FREE_AREA, NvmeHost, type NvmeHostOptions, requireSuccess, turn, until } from './nvme-host.js';

const { STOP, STOP_COPY, RESUMING, RUNNING } = MigrationState;
const FLUSH = { opcode: 0, namespaceId: 1 };
const READ = { opcode: 2, namespaceId: 1, prp1: FREE_AREA };
const SIZE = 2 ** 20;

const hosts: NvmeHost[] = [];
afterEach(async () => {
  for (const host of hosts.splice(0).reverse()) await host.close();
});

function createHost(options: NvmeHostOptions): NvmeHost {
  const host = new NvmeHost(options);
  hosts.push(host);
  return host;
}

/** Stops the source, and starts a destination over the same guest memory where it was. */
async function move(source: NvmeHost, disk: Disk, options: NvmeHostOptions = {}): Promise<NvmeHost> {
  await source.device.features.setMigrationState(STOP_COPY);
  const state = await readState(source.device);
  const destination = createHost({ ...options, disk, guestOf: source });
  await destination.device.features.setMigrationState(RESUMING);
  await destination.device.writeMigrationData(state);
  await destination.device.features.setMigrationState(STOP);
  destination.adopt(source);
  await destination.device.features.setMigrationState(RUNNING);
  return destination;
}

describe('a migration', () => {
  test('in the middle of requests loses none and does none twice', async () => {
    for (let seed = 0; seed < 12; seed++) {
      const disk = new HeldDisk(SIZE, 'elsewhere');
      let host = createHost({ disk });
      await host.start(2, 16);
      const done: Promise<unknown>[] = [];
      for (let round = 0; round < 4; round++) {
        disk.held = round % 2 === 0;
        for (let count = 0; count < 5; count++) done.push(host.submit(1 + (count % 2), READ));
        for (let count = 0; count < (seed + round) % 4; count++) await turn();
        const moving = move(host, disk);
        for (let count = 0; count < 5; count++) await turn();
        disk.release();
        host = await moving;
      }
      await Promise.all(done);
      expect(host.outstanding).toBe(0);
      expect(disk.accesses.filter(kind => kind === 'read')).toHaveLength(20);
      for (const closed of hosts.splice(0).reverse()) await closed.close();
    }
  });

  test('waits for what is in flight, and takes up nothing more', async () => {
    const disk = new HeldDisk(SIZE, 'elsewhere');
    const host = createHost({ disk });
    await host.start();
    disk.held = true;
    const first = host.submit(1, READ);
    await until(() => disk.waiting === 1);
    let isStopped = false;
    const stopping = host.device.features.setMigrationState(STOP).then(() => {
      isStopped = true;
    });
    const second = host.submit(1, READ);
    for (let count = 0; count < 10; count++) await turn();
    expect([isStopped, disk.waiting]).toEqual([false, 1]);
    disk.release();
    await stopping;
    requireSuccess(await first);
    expect(host.outstanding).toBe(1);
    await host.device.features.setMigrationState(RUNNING);
    requireSuccess(await second);
  });

  test('brings the commands along that were held', async () => {
    const disk = new HeldDisk(SIZE, 'elsewhere');
    const host = createHost({ disk });
    await host.start();
    host.controller.holdQueues();
    const command = host.submit(1, READ);
    const destination = await move(host, disk);
    await destination.controller.whenIdle();
    requireSuccess(await command);
  });

  test('brings the queues along where they are, full ones included', async () => {
    const disk = new HeldDisk(SIZE, 'elsewhere');
    const host = createHost({ disk });
    await host.start(1, 4);
    requireSuccess(await host.submit(1, FLUSH));
    host.consumes = false;
    const commands = Array.from({ length: 3 }, () => host.submit(1, FLUSH));
    await host.controller.whenIdle();
    const late = host.submit(1, FLUSH);
    const destination = await move(host, disk);
    destination.consumeAll();
    await Promise.all([...commands, late]);
    expect(destination.outstanding).toBe(0);
  });

  test('tells of completions once more that the host has not consumed', async () => {
    const disk = new HeldDisk(SIZE, 'elsewhere');
    const host = createHost({ disk });
    await host.start(2);
    host.consumes = false;
    const command = host.submit(1, FLUSH);
    await host.controller.whenIdle();
    const destination = await move(host, disk);
    requireSuccess(await command);
    expect(destination.interrupts).toEqual([undefined, 1]);
  });

  test('raises no interrupt once the device has stopped', async () => {
    const disk = new HeldDisk(SIZE, 'elsewhere');
    const host = createHost({ disk });
    await host.start();
    disk.held = true;
    void host.submit(1, READ);
    await until(() => disk.waiting === 1);
    const stopping = host.device.features.setMigrationState(STOP);
    disk.release();
    await stopping;
    const { length } = host.completions;
    const interrupts = [...host.interrupts];
    for (let count = 0; count < 10; count++) await turn();
    expect([host.interrupts, host.completions.length, host.outstanding]).toEqual([interrupts, length, 0]);
  });

  test('brings features, serial number, counters, logs and events along', async () => {
    const disk = new HeldDisk(SIZE);
    const host = createHost({ disk, serial: 'FROM-THE-SOURCE' });
    await host.start(2);
    const told = host.admin({ opcode: 0xc });
    requireSuccess(await host.admin({ opcode: 9, dwords: [6, 0] }));
    requireSuccess(await host.admin({ opcode: 9, dwords: [9, 0x1_0002] }));
    requireSuccess(await host.admin({ opcode: 9, dwords: [4, 350] }));
    await host.submit(1, { opcode: 0x7f, namespaceId: 1 });
    requireSuccess(await host.submit(2, READ));
    requireSuccess(await host.admin({ opcode: 2, prp1: FREE_AREA, dwords: [1 | (1023 << 16)] }));
    const errors = host.memory.read(FREE_AREA, 4096);
    const before = host.controller.statistics;
    const destination = await move(host, new HeldDisk(SIZE), { serial: 'OWN' });
    expect(destination.controller.statistics).toEqual(before);
    expect(destination.controller.serial).toBe('FROM-THE-SOURCE');
    expect((await destination.admin({ opcode: 0xa, dwords: [6] })).result).toBe(0);
    expect((await destination.admin({ opcode: 0xa, dwords: [9, 2] })).result).toBe(0x1_0002);
    expect((await destination.admin({ opcode: 0xa, dwords: [4] })).result).toBe(350);
    requireSuccess(await destination.admin({ opcode: 2, prp1: FREE_AREA, dwords: [1 | (1023 << 16)] }));
    expect(destination.memory.read(FREE_AREA, 4096)).toEqual(errors);
    destination.write32(0x1000 + 8 * 4, 1);
    expect(await told).toMatchObject({ status: 'SUCCESS', result: 0x01_0000 });
  });

  test('brings the content of a disk in memory along', async () => {
    const disk = new MemoryDisk(SIZE + 4096);
    disk.content.set([1, 2, 3], 5);
    disk.content.set([4], SIZE - 1);
    disk.content.set([5], SIZE + 4095);
    const host = createHost({ disk });
    await host.start();
    const target = new MemoryDisk(SIZE + 4096);
    target.content.fill(0xff);
    const size = await host.device.features.migrationDataSize();
    await move(host, target);
    expect(Buffer.compare(target.content, disk.content)).toBe(0);
    expect(size).toBeGreaterThanOrEqual(SIZE);
  });

  test('flushes the disk first, and does not happen when that fails', async () => {
    const disk = new HeldDisk(SIZE, 'elsewhere');
    const host = createHost({ disk });
    await host.start();
    await host.device.features.setMigrationState(STOP);
    expect(disk.flushes).toBe(1);
    await host.device.features.setMigrationState(RUNNING);
    disk.failure = { error: new Error('odd'), how: 'reject' };
    await expect(host.device.features.setMigrationState(STOP)).rejects.toMatchObject({ errno: 'EIO' });
    disk.failure = undefined;
    requireSuccess(await host.submit(1, FLUSH));
  });

  test.each([0, 1])('of a controller that is not enabled, or failed, brings that along (%i)', async enable => {
    const host = createHost({ disk: new HeldDisk(SIZE, 'elsewhere') });
    if (enable === 1) host.write32(0x14, 0x0046_0001);
    const destination = await move(host, new HeldDisk(SIZE, 'elsewhere'));
    expect(destination.read32(0x1c)).toBe(enable === 1 ? 2 : 0);
    destination.write32(0x14, 0);
    await destination.start();
    requireSuccess(await destination.submit(1, FLUSH));
  });

  test('of a controller that was shut down leaves it shut down', async () => {
    const disk = new HeldDisk(SIZE, 'elsewhere');
    const host = createHost({ disk });
    await host.start();
    host.write32(0x14, 0x0046_4001);
    const destination = await move(host, disk);
    expect(destination.read32(0x1c)).toBe(9);
    void destination.submit(1, READ);
    for (let count = 0; count < 10; count++) await turn();
    expect(disk.accesses).not.toContain('read');
  });
});

describe('a state that does not fit', () => {
  let source: NvmeHost;
  let state: Uint8Array;
  beforeEach(async () => {
    source = createHost({ disk: new MemoryDisk(SIZE), queues: 2 });
    await source.start(2);
    void source.admin({ opcode: 0xc });
    await source.submit(1, { opcode: 0x7f, namespaceId: 1 });
    await source.device.features.setMigrationState(STOP_COPY);
    state = await readState(source.device);
  });

  /** Every offset in the controller's own state, which comes last; some in what the PCI device puts before it. */
  function offsets(): number[] {
    const own = state.length - 800;
    return Array.from({ length: state.length }, (_, offset) => offset).filter(at => at >= own || at % 61 === 0);
  }

  /** Offers a state to a fresh controller; the errno, or none. What was refused must have changed nothing. */
  async function offer(bytes: Uint8Array, target: NvmeController): Promise<string | undefined> {
    const { migration } = target;
    await migration!.setState(RESUMING);
    migration!.writeData(bytes);
    const before = fingerprint(target);
    try {
      await migration!.setState(STOP);
      return undefined;
    } catch (error) {
      expect(fingerprint(target)).toEqual(before);
      expect(migration!.state).toBe(RESUMING);
      return (error as VfioError).errno;
    }
  }

  function fingerprint(controller: NvmeController): unknown {
    const registers = new Uint8Array(64);
    void controller.regionRead(0, 0, registers);
    return [registers, controller.serial, controller.statistics];
  }

  const fresh = (disk: Disk = new MemoryDisk(SIZE)) => new NvmeController({ disk, queues: 2 });

  test('is taken when it is whole, refused when it is cut off anywhere or has a byte too many', async () => {
    expect(await offer(state, fresh())).toBeUndefined();
    for (const length of offsets()) {
      expect(await offer(state.subarray(0, length), fresh())).toBe('EINVAL');
    }
    expect(await offer(Buffer.concat([state, Uint8Array.of(0)]), fresh())).toBe('EINVAL');
  });

  test('with any bytes changed is refused or works: it ends nothing', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.constantFrom(...offsets()), fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 255))), {
          minLength: 1,
          maxLength: 3,
        }),
        async changes => {
          const bytes = state.slice();
          for (const [offset, value] of changes) bytes[offset] = value;
          const target = fresh();
          const errno = await offer(bytes, target);
          if (errno !== undefined) return errno === 'EINVAL';
          await target.migration!.setState(RUNNING);
          await turn();
          await target.reset();
          return true;
        },
      ),
      { numRuns: 1000 },
    );
  });

  test.each<[string, () => NvmeController]>([
    ['a disk of another size', () => fresh(new MemoryDisk(SIZE / 2))],
    ['a disk elsewhere', () => fresh(new HeldDisk(SIZE, 'elsewhere'))],
    ['blocks of another size', () => new NvmeController({ disk: new MemoryDisk(SIZE), queues: 2, blockSize: 4096 })],
    ['fewer queues', () => new NvmeController({ disk: new MemoryDisk(SIZE), queues: 1 })],
    ['more queues', () => new NvmeController({ disk: new MemoryDisk(SIZE), queues: 3 })],
  ])('because the destination has %s is refused', async (_, target) => {
    expect(await offer(state, target())).toBe('EINVAL');
  });

  test('claims of many queues cost nothing', async () => {
    const bytes = state.slice();
    for (const offset of offsets().filter(at => at + 2 <= bytes.length)) {
      const changed = bytes.slice();
      viewOf(changed).setUint16(offset, 0xffff, true);
      const errno = await offer(changed, fresh());
      expect([undefined, 'EINVAL']).toContain(errno);
    }
  });
});
