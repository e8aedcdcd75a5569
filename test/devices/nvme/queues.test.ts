import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { PciIrq, PciRegion } from '../../../src/uapi/index.js';
import { HeldDisk } from './held-disk.js';
import {
  completionDoorbell,
  FREE_AREA,
  NvmeHost,
  requireSuccess,
  submissionDoorbell,
  turn,
  until,
} from './nvme-host.js';

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

async function turns(count = 20): Promise<void> {
  for (let index = 0; index < count; index++) await turn();
}

/** The phase tags of a completion queue that begins at `base`. */
function phases(base: number, entries: number): number[] {
  return Array.from({ length: entries }, (_, index) => host.memory.read(base + 16 * index + 14, 1)[0]! & 1);
}

describe('a completion queue', () => {
  // The driver takes 64 KiB for each queue: two admin queues, then completion and submission queue 1.
  const BASE = 0x12_0000;

  test('that is full is not written to, and holds back its own commands only', async () => {
    host.enable();
    await host.createCompletionQueue(1, 3);
    await host.createSubmissionQueue(1, 16, 1);
    await host.createQueues(2, 8);
    host.consumes = false;
    const first = Array.from({ length: 10 }, () => host.submit(1, FLUSH));
    await turns();
    expect(disk.flushes).toBe(2);
    expect(phases(BASE, 3)).toEqual([1, 1, 0]);
    const other = host.submit(2, FLUSH);
    await turns();
    expect(disk.flushes).toBe(3);
    host.consumes = true;
    host.consumeAll();
    expect((await Promise.all([...first, other])).every(({ status }) => status === 'SUCCESS')).toBe(true);
    expect(disk.flushes).toBe(11);
  });

  test('counts the entries that commands in flight will need', async () => {
    host.enable();
    await host.createCompletionQueue(1, 3);
    await host.createSubmissionQueue(1, 16, 1);
    disk.held = true;
    const commands = Array.from({ length: 5 }, () => host.submit(1, FLUSH));
    await turns();
    expect(disk.waiting).toBe(2);
    disk.release();
    await Promise.all(commands);
  });

  test('turns its phase tag at each way through', async () => {
    await host.start(1, 4);
    for (let count = 1; count <= 9; count++) requireSuccess(await host.submit(1, FLUSH));
    // Nine entries in a ring of four: twice through, and one more.
    expect(phases(BASE, 4)).toEqual([1, 0, 0, 0]);
  });
});

describe('interrupts', () => {
  test('come once for a batch of completions, on the vector of the queue', async () => {
    await host.start(2, 32);
    host.interrupts.length = 0;
    const commands = Array.from({ length: 20 }, () => host.put(1, FLUSH).done);
    host.ring(1);
    await Promise.all(commands);
    expect(host.interrupts[1]).toBe(1);
    expect(host.interrupts[2]).toBeUndefined();
    requireSuccess(await host.submit(2, FLUSH));
    expect(host.interrupts[2]).toBe(1);
  });

  test('come once for what ends by promises in one pass of the event loop', async () => {
    await host.start(1, 32);
    disk.held = true;
    const commands = Array.from({ length: 10 }, () => host.submit(1, READ));
    await until(() => disk.waiting === 10);
    host.interrupts.length = 0;
    disk.release();
    await Promise.all(commands);
    expect(host.interrupts[1]).toBe(1);
  });

  test('do not come from a queue that was made without', async () => {
    host.enable();
    await host.createCompletionQueue(1, 8, 1);
    await host.createSubmissionQueue(1, 8, 1);
    host.interrupts.length = 0;
    const command = host.submit(1, FLUSH);
    await host.controller.whenIdle();
    expect(host.interrupts).toEqual([]);
    host.consumeAll();
    requireSuccess(await command);
  });

  describe('by pin', () => {
    const pin = () => host.controller.interrupts.intxLevel;

    beforeEach(async () => {
      await host.start(1, 8);
      host.controller.interrupts.disable(PciIrq.MSIX);
      host.consumes = false;
    });

    test('the pin is asserted until everything is consumed', async () => {
      const commands = [host.submit(1, FLUSH), host.submit(0, { opcode: 0xa, dwords: [6] })];
      await turns();
      expect(pin()).toBe(true);
      host.write32(completionDoorbell(0), 3);
      expect(pin()).toBe(true);
      host.consumeAll();
      expect(pin()).toBe(false);
      await Promise.all(commands);
    });

    test('a masked vector does not assert it, and does when it is unmasked', async () => {
      host.write32(0x0c, 0b11);
      expect([host.read32(0x0c), host.read32(0x10)]).toEqual([3, 3]);
      const command = host.submit(1, FLUSH);
      await turns();
      expect(pin()).toBe(false);
      host.write32(0x10, 0b10);
      expect(pin()).toBe(true);
      host.write32(0x0c, 0b10);
      expect(pin()).toBe(false);
      host.consumeAll();
      requireSuccess(await command);
    });

    test('the command register can switch it off', async () => {
      await host.controller.regionWrite(PciRegion.CONFIG, 4, Uint8Array.of(6, 4));
      const command = host.submit(1, FLUSH);
      await turns();
      expect(pin()).toBe(false);
      host.consumeAll();
      requireSuccess(await command);
    });
  });
});

describe('doorbells', () => {
  test('a value beyond the queue is not taken', async () => {
    await host.start(1, 8);
    host.write32(submissionDoorbell(1), 8);
    host.write32(completionDoorbell(1), 8);
    await turns();
    expect(host.controller.statistics.errors).toBe(0);
    requireSuccess(await host.submit(1, FLUSH));
  });

  test('do nothing before the controller is enabled', async () => {
    host.write32(submissionDoorbell(0), 1);
    host.write32(completionDoorbell(0), 1);
    await turns();
    await host.start();
    requireSuccess(await host.submit(1, FLUSH));
  });

  test('of any offset and size harm nothing', async () => {
    await host.start(1, 8);
    for (let offset = 0x1000; offset < 0x4000; offset += 3) {
      for (const size of [1, 2, 4, 8, 16]) {
        if (offset + size <= 0x4000 && (offset > 0x1020 || offset % 4 !== 0)) {
          await host.controller.regionWrite(PciRegion.BAR0, offset, new Uint8Array(size).fill(0xff));
        }
      }
    }
    requireSuccess(await host.submit(1, FLUSH));
  });

  test('read 0', async () => {
    await host.start();
    const bytes = new Uint8Array(32).fill(1);
    await host.controller.regionRead(PciRegion.BAR0, 0x1000, bytes);
    expect(bytes.every(byte => byte === 0)).toBe(true);
  });
});

describe('several queues', () => {
  test('take turns, a burst each', async () => {
    await host.start(2, 64);
    requireSuccess(await host.admin({ opcode: 9, dwords: [1, 1] }));
    const commands = [1, 2].flatMap(queue =>
      Array.from({ length: 6 }, (_, index) => host.put(queue, { ...READ, dwords: [100 * queue + index] }).done),
    );
    host.ring(1);
    host.ring(2);
    await Promise.all(commands);
    const order = disk.readOffsets.map(offset => Math.floor(offset / 51_200));
    expect(order).toEqual([1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2].map(queue => (order[0] === 1 ? queue : 3 - queue)));
  });

  test('a queue that is never empty starves no other one', async () => {
    await host.start(2, 16);
    let isOtherDone = false;
    let busy = 0;
    const keepBusy = async () => {
      while (!isOtherDone) {
        await host.submit(1, FLUSH);
        busy++;
      }
    };
    const loops = Array.from({ length: 12 }, keepBusy);
    await turns();
    requireSuccess(await host.submit(2, FLUSH));
    isOtherDone = true;
    await Promise.all(loops);
    expect(busy).toBeGreaterThan(12);
  });

  test('a turn of the event loop does a bounded number of commands', async () => {
    await host.start(1, 512);
    const commands = Array.from({ length: 500 }, () => host.put(1, FLUSH).done);
    host.ring(1);
    await turn();
    expect(disk.flushes).toBeGreaterThan(0);
    expect(disk.flushes).toBeLessThan(200);
    await Promise.all(commands);
  });

  test('commands in flight are bounded', async () => {
    await host.start(1, 512);
    disk.held = true;
    const commands = Array.from({ length: 200 }, () => host.put(1, READ).done);
    host.ring(1);
    await turns();
    expect(host.controller.inFlight).toBe(64);
    expect(disk.waiting).toBe(64);
    disk.release();
    await Promise.all(commands);
    expect(host.controller.inFlight).toBe(0);
  });
});

describe('deleting a submission queue', () => {
  test('completes what was fetched first, and drops what was not', async () => {
    await host.start(1, 8);
    disk.held = true;
    const fetched = host.submit(1, READ);
    await until(() => disk.waiting === 1);
    const deletion = host.admin({ opcode: 0, dwords: [1] });
    await turns();
    void host.submit(1, READ);
    expect((await host.admin({ opcode: 0, dwords: [1] })).status).toBe('INVALID_QUEUE_ID');
    expect(disk.waiting).toBe(1);
    // The read, its queue's deletion, and the command that came too late.
    expect(host.outstanding).toBe(3);
    disk.release();
    requireSuccess(await fetched);
    requireSuccess(await deletion);
    await host.createSubmissionQueue(1, 8, 1);
    requireSuccess(await host.submit(1, FLUSH));
    expect(disk.accesses).toEqual(['read', 'flush']);
  });
});

describe('queues that are held', () => {
  test('keep their commands until they are released, and then do all of them', async () => {
    await host.start(2, 16);
    host.controller.holdQueues();
    const before = host.memory.read(FREE_AREA, 4096);
    const commands = [1, 2].flatMap(queue => Array.from({ length: 9 }, () => host.submit(queue, READ)));
    const admin = host.admin({ opcode: 6, prp1: FREE_AREA, dwords: [1] });
    let isIdle = false;
    const idle = host.controller.whenIdle().then(() => {
      isIdle = true;
    });
    await turns();
    expect(disk.accesses).toEqual([]);
    expect(host.outstanding).toBe(19);
    expect(isIdle).toBe(false);
    expect(Buffer.compare(host.memory.read(FREE_AREA, 4096), before)).toBe(0);
    host.controller.releaseQueues();
    await idle;
    expect(host.outstanding).toBe(0);
    expect((await Promise.all([...commands, admin])).every(({ status }) => status === 'SUCCESS')).toBe(true);
  });

  test('finish what was fetched before', async () => {
    await host.start(1, 16);
    disk.held = true;
    const fetched = host.submit(1, READ);
    await until(() => disk.waiting === 1);
    host.controller.holdQueues();
    const kept = host.submit(1, READ);
    disk.release();
    requireSuccess(await fetched);
    expect(host.outstanding).toBe(1);
    host.controller.releaseQueues();
    requireSuccess(await kept);
  });

  test('stay held over a controller reset', async () => {
    await host.start(1, 16);
    host.controller.holdQueues();
    host.write32(0x14, 0);
    host.enable();
    const command = host.admin({ opcode: 0xa, dwords: [6] });
    await turns();
    expect(host.outstanding).toBe(1);
    host.controller.releaseQueues();
    requireSuccess(await command);
  });
});
