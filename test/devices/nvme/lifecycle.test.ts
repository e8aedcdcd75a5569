import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NvmeRegister } from '../../../src/devices/nvme/index.js';
import { PciRegion, viewOf } from '../../../src/uapi/index.js';
import { HeldDisk } from './held-disk.js';
import { FREE_AREA, MEMORY_SIZE, NvmeHost, requireSuccess, turn, until } from './nvme-host.js';

const { AQA, ASQ, ACQ, CC, CSTS } = NvmeRegister;
const ENABLE = 0x0046_0001;
const SHUTDOWN = 0x4000;
const READY = 1;
const FATAL = 2;
const FLUSH = { opcode: 0, namespaceId: 1 };
const READ = { opcode: 2, namespaceId: 1, prp1: FREE_AREA };

let disk: HeldDisk;
let host: NvmeHost;
beforeEach(() => {
  disk = new HeldDisk(2 ** 20);
  host = new NvmeHost({ disk });
});
afterEach(() => {
  disk.release();
  return host.close();
});

const status = () => host.read32(CSTS);

describe('registers', () => {
  test('tell what the controller can do', async () => {
    const bytes = new Uint8Array(8);
    await host.controller.regionRead(PciRegion.BAR0, 0, bytes);
    const capabilities = viewOf(bytes).getBigUint64(0, true);
    expect(capabilities & 0xffffn).toBe(1023n);
    expect((capabilities >> 16n) & 1n).toBe(1n);
    expect((capabilities >> 32n) & 0xfn).toBe(0n);
    expect((capabilities >> 37n) & 1n).toBe(1n);
    expect([(capabilities >> 48n) & 0xfn, (capabilities >> 52n) & 0xfn]).toEqual([0n, 4n]);
    expect(host.read32(0x08)).toBe(0x1_0400);
  });

  test('read the same in pieces of any size', async () => {
    host.enable();
    const whole = new Uint8Array(0x1000);
    await host.controller.regionRead(PciRegion.BAR0, 0, whole);
    for (const size of [1, 2, 3, 4, 8, 61]) {
      for (let offset = 0; offset + size <= 0x80; offset += size) {
        const piece = new Uint8Array(size);
        await host.controller.regionRead(PciRegion.BAR0, offset, piece);
        expect(piece).toEqual(whole.subarray(offset, offset + size));
      }
    }
    expect(whole.subarray(0x40).every(byte => byte === 0)).toBe(true);
  });

  test('keep no bits that are reserved, and are read-only where they say so', () => {
    for (const register of [0x00, 0x04, 0x08, CSTS, 0x20, 0x38, 0x3c, 0x40]) {
      const before = host.read32(register);
      host.write32(register, 0xffff_ffff);
      expect(host.read32(register)).toBe(before);
    }
    host.write32(AQA, 0xffff_ffff);
    host.write64(ASQ, 2n ** 64n - 1n);
    expect([host.read32(AQA), host.read32(ASQ), host.read32(ASQ + 4)]).toEqual([0x0fff_0fff, 0xffff_f000, 0xffff_ffff]);
  });

  test('the BAR has a doorbell for each end of each queue', async () => {
    const wide = new NvmeHost({ queues: 128 });
    await wide.start(3);
    expect(wide.controller.regions[PciRegion.BAR0]!.size).toBe(16384);
    const data = await wide.device.regionRead(PciRegion.BAR0, 0x1000 + 8 * 128 + 4, 4);
    expect(data).toEqual(new Uint8Array(4));
    await wide.close();
  });
});

describe('enabling', () => {
  test('makes the controller ready', async () => {
    expect(status()).toBe(0);
    host.enable();
    expect(status()).toBe(READY);
    requireSuccess(await host.admin({ opcode: 0xa, dwords: [6] }));
  });

  test.each<[string, (host: NvmeHost) => void, number]>([
    ['an admin submission queue of one entry', h => h.write32(AQA, 31 << 16), ENABLE],
    ['an admin completion queue of one entry', h => h.write32(AQA, 31), ENABLE],
    ['a command set that is not there', () => {}, ENABLE | (1 << 4)],
    ['an arbitration that is not there', () => {}, ENABLE | (1 << 11)],
    ['memory pages that are too large', () => {}, ENABLE | (5 << 7)],
    ['an admin queue that begins no memory page', h => h.write64(ASQ, 0x1000), ENABLE | (1 << 7)],
  ])('with %s is fatal, and a reset mends it', async (_, spoil, configuration) => {
    host.write32(AQA, (31 << 16) | 31);
    host.write64(ASQ, 0x10_0000);
    host.write64(ACQ, 0x11_0000);
    spoil(host);
    host.write32(CC, configuration);
    expect(status()).toBe(FATAL);
    host.write32(CC, 0);
    expect(status()).toBe(0);
    await host.start();
    requireSuccess(await host.submit(1, FLUSH));
  });

  test('fixes the admin queues, the page size and the command set until it is disabled', () => {
    host.enable();
    const before = [AQA, ASQ, ACQ].map(register => host.read32(register));
    host.write32(AQA, 0);
    host.write64(ASQ, 0x5000);
    host.write64(ACQ, 0x5000);
    host.write32(CC, ENABLE | (3 << 7) | (1 << 4));
    expect([AQA, ASQ, ACQ].map(register => host.read32(register))).toEqual(before);
    expect(host.read32(CC)).toBe(ENABLE);
  });

  test('works with every memory page size', async () => {
    for (let exponent = 0; exponent <= 4; exponent++) {
      host.write32(CC, 0);
      host.enable(exponent);
      await host.createQueues(1, 4);
      const pageSize = 4096 << exponent;
      disk.bytes.fill(0x40 + exponent);
      const prps = { prp1: FREE_AREA + pageSize - 512, prp2: FREE_AREA + 4 * pageSize };
      requireSuccess(await host.submit(1, { ...READ, ...prps, dwords: [0, 0, 3] }));
      const [first, second] = [host.memory.read(prps.prp1, 512), host.memory.read(prps.prp2, 1536)];
      expect([...first, ...second].every(byte => byte === 0x40 + exponent)).toBe(true);
    }
  });
});

describe('disabling', () => {
  test('takes the queues away, and keeps the admin queues where they are', async () => {
    await host.start(2);
    const before = [AQA, ASQ, ACQ].map(register => host.read32(register));
    host.write32(0x0c, 5);
    host.write32(CC, 0);
    expect(status()).toBe(0);
    expect([AQA, ASQ, ACQ].map(register => host.read32(register))).toEqual(before);
    expect(host.read32(0x0c)).toBe(0);
    await host.start(2);
    requireSuccess(await host.submit(2, FLUSH));
  });

  test('is over when nothing is in flight any more: no byte is written afterwards', async () => {
    await host.start();
    disk.held = true;
    disk.bytes.fill(0x55);
    void host.submit(1, READ);
    await until(() => disk.waiting === 1);
    host.write32(CC, 0);
    expect(status()).toBe(READY);
    disk.release();
    await until(() => status() === 0);
    const memory = host.memory.read(0, MEMORY_SIZE);
    for (let count = 0; count < 20; count++) await turn();
    expect(Buffer.compare(host.memory.read(0, MEMORY_SIZE), memory)).toBe(0);
    expect(host.completions.filter(({ submissionId }) => submissionId === 1)).toEqual([]);
  });

  test('and enabling again at once ends with a controller that is ready', async () => {
    await host.start();
    disk.held = true;
    void host.submit(1, READ);
    await until(() => disk.waiting === 1);
    host.write32(CC, 0);
    host.enable();
    disk.release();
    await until(() => status() === READY && disk.waiting === 0);
    await turn();
    requireSuccess(await host.admin({ opcode: 0xa, dwords: [6] }));
  });

  test('ends what deletes a queue, too', async () => {
    await host.start();
    disk.held = true;
    void host.submit(1, READ);
    await until(() => disk.waiting === 1);
    void host.admin({ opcode: 0, dwords: [1] });
    await turn();
    await turn();
    host.write32(CC, 0);
    disk.release();
    await until(() => status() === 0);
    await host.start();
    requireSuccess(await host.submit(1, FLUSH));
  });
});

describe('shutting down', () => {
  test('finishes what is in flight, makes everything durable, and then says so', async () => {
    await host.start();
    disk.held = true;
    const read = host.submit(1, READ);
    await until(() => disk.waiting === 1);
    host.write32(CC, ENABLE | SHUTDOWN);
    expect(status()).toBe(READY | 4);
    disk.release();
    disk.held = true;
    requireSuccess(await read);
    await until(() => disk.flushes === 1);
    expect(status()).toBe(READY | 4);
    disk.release();
    await until(() => status() === (READY | 8));
  });

  test('takes no more commands, until the controller is reset', async () => {
    await host.start();
    host.write32(CC, ENABLE | SHUTDOWN);
    expect(status()).toBe(READY | 8);
    void host.submit(1, READ);
    for (let count = 0; count < 10; count++) await turn();
    expect(disk.accesses).toEqual(['flush']);
    host.write32(CC, 0);
    expect(status()).toBe(0);
    await host.start();
    requireSuccess(await host.submit(1, FLUSH));
  });

  test('that a reset cuts off is not told as complete', async () => {
    await host.start();
    disk.held = true;
    host.write32(CC, ENABLE | SHUTDOWN);
    await until(() => disk.waiting === 1);
    host.write32(CC, 0);
    disk.release();
    await until(() => status() === 0);
    for (let count = 0; count < 10; count++) await turn();
    expect(status()).toBe(0);
  });
});

describe('memory with a queue in it that cannot be reached', () => {
  test.each([
    ['the submission queue', 1, 0x01],
    ['the completion queue', 5, 0x05],
  ])('is fatal: %s', async (_, opcode) => {
    host.enable();
    const outside = MEMORY_SIZE;
    const completions = opcode === 5 ? outside : 0x40_0000;
    requireSuccess(await host.admin({ opcode: 5, prp1: completions, dwords: [(7 << 16) | 1, 1] }));
    const submissions = opcode === 1 ? outside : 0x41_0000;
    requireSuccess(await host.admin({ opcode: 1, prp1: submissions, dwords: [(7 << 16) | 1, 0x1_0001] }));
    host.write32(0x1008, 1);
    await host.controller.whenIdle();
    expect(status()).toBe(READY | FATAL);
    host.write32(CC, 0);
    expect(status()).toBe(0);
    await host.start();
    requireSuccess(await host.submit(1, FLUSH));
  });

  test('without bus mastering nothing is fetched, and with it again all is', async () => {
    await host.start();
    host.setBusMaster(false);
    const first = host.submit(1, FLUSH);
    for (let count = 0; count < 10; count++) await turn();
    expect([host.outstanding, status()]).toEqual([1, READY]);
    host.setBusMaster(true);
    const second = host.submit(1, FLUSH);
    requireSuccess(await first);
    requireSuccess(await second);
  });
});

describe('a function level reset', () => {
  test('brings everything back to power-on, whatever was in flight', async () => {
    await host.start(2);
    disk.held = true;
    for (const queue of [1, 2]) void host.submit(queue, READ);
    await until(() => disk.waiting === 2);
    const reset = host.device.reset();
    await turn();
    disk.release();
    await reset;
    expect([AQA, ASQ, ACQ, CC, CSTS].map(register => host.read32(register))).toEqual([0, 0, 0, 0, 0]);
    host.setBusMaster(true);
    await host.start();
    requireSuccess(await host.submit(1, FLUSH));
  });

  test('and another one on its heels both succeed although the disk cannot be flushed', async () => {
    for (let delay = 0; delay < 12; delay++) {
      await host.start();
      disk.failure = { error: new Error('odd'), how: 'reject' };
      const first = host.device.reset();
      for (let wait = 0; wait < delay; wait++) await Promise.resolve();
      await Promise.all([first, host.device.reset()]);
      expect(status()).toBe(0);
      host.setBusMaster(true);
    }
  });

  test('succeeds although the disk cannot be flushed', async () => {
    await host.start();
    disk.failure = { error: new Error('odd'), how: 'reject' };
    await host.device.reset();
    expect(status()).toBe(0);
  });
});
