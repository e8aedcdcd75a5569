import { describe, expect, onTestFinished, test } from 'vitest';
import { createEventFd, isEventFd, openFdCount, readEventFd } from '../../src/native/index.js';
import { ERRNO, type VfioError, viewOf } from '../../src/uapi/index.js';
import { Command } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, pattern, temporaryFolder } from '../native/helpers.js';
import { takeAllFds } from './all-fds.js';
import {
  ERROR_REPLY,
  message,
  NO_REPLY,
  Peer,
  QEMU_PROPOSAL,
  REPLY,
  turn,
  until,
  versionPayload,
  words,
} from './peer.js';
import { greeted, mappedFiles, memoryFile, serve } from './served.js';
import { Stamp, StampDevice, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

function write(offset: number, data: Uint8Array): Uint8Array {
  return Uint8Array.from([...words(BigInt(offset), 0, data.length), ...data]);
}
const { EINVAL, EEXIST, ENOSPC, EOPNOTSUPP, EIO, ENOTTY, EACCES } = ERRNO;

const enableBusMaster = Uint8Array.from([...words(4n, 7, 2), 6, 0]);
function regionWrite(offset: number, data: Uint8Array): Uint8Array {
  return Uint8Array.from([...words(BigInt(offset), 0, data.length), ...data]);
}
function eventfd() {
  const file = createEventFd();
  onTestFinished(() => file.close());
  return file;
}

/** A REPORT of everything below `length`, 4 KiB pages, whose reply would be 8 MiB. */
function featureReport(length: bigint): Uint8Array {
  return Buffer.concat([words(1 << 24, 8 | (1 << 16)), words(0n, length, 4096n)]);
}

describe('VERSION', () => {
  test('is answered, and what comes before it is EINVAL and the end', async () => {
    await serve(path('a'));
    const early = Peer.connect(path('a'));
    expect(await early.errno(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).toBe(EINVAL);
    expect(await early.closed()).toBe(true);
    early.close();
    const reply = await (await greeted(path('a'))).greet();
    expect(reply).toMatchObject({ flags: ERROR_REPLY, errno: EINVAL });
  });

  test('of another major, or with JSON that is none, is EINVAL and the end', async () => {
    await serve(path('b'));
    for (const payload of [versionPayload('{}', 1), versionPayload('{'), new Uint8Array(3)]) {
      const peer = Peer.connect(path('b'));
      expect(await peer.errno(Command.VERSION, payload)).toBe(EINVAL);
      expect(await peer.closed()).toBe(true);
      peer.close();
    }
  });

  test('a second time is EINVAL, and the connection goes on with what was agreed', async () => {
    await serve(path('c'));
    const peer = await greeted(path('c'));
    expect(await peer.errno(Command.VERSION, versionPayload('{"capabilities":{"max_data_xfer_size":1}}'))).toBe(EINVAL);
    expect(await peer.errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
  });

  test('is answered to QEMU with no more bytes than it sent', async () => {
    await serve(path('d'));
    const peer = Peer.connect(path('d'));
    onTestFinished(() => peer.close());
    const request = versionPayload(QEMU_PROPOSAL, 0, 0);
    const reply = await peer.request(Command.VERSION, request);
    expect(reply.flags).toBe(REPLY);
    expect(reply.payload.length).toBeLessThanOrEqual(request.length);
  });

  test('larger than any needs to be is the end before it has come', async () => {
    await serve(path('e'));
    const peer = Peer.connect(path('e'));
    await peer.send(message(Command.VERSION, new Uint8Array(0), { size: 16 + 8193 }));
    expect(await peer.reply()).toMatchObject({ flags: ERROR_REPLY, errno: EINVAL });
    expect(await peer.closed()).toBe(true);
    peer.close();
  });

  test('that does not come is the end, so that others get their turn', async () => {
    const reasons: (VfioError | undefined)[] = [];
    await serve(path('f'), { versionTimeoutMs: 50, onDisconnect: reason => reasons.push(reason) });
    const silent = Peer.connect(path('f'));
    const next = Peer.connect(path('f'));
    expect((await next.greet()).flags).toBe(REPLY);
    expect(await silent.closed()).toBe(true);
    silent.close();
    next.close();
    await until(() => reasons.length > 0);
    expect(reasons).toEqual([undefined]);
  });
});

describe('a frame that cannot be understood', () => {
  test.each([
    ['a size below 16', { size: 15 }],
    ['a size above what is taken', { size: 0xffff_ffff }],
    ['a type that does not exist', { flags: 2 }],
  ])('%s gets EINVAL where a reply makes sense, and the connection ends', async (name, header) => {
    await serve(path('g'));
    const peer = await greeted(path('g'));
    await peer.send(message(Command.DEVICE_RESET, new Uint8Array(0), { id: 42, ...header }));
    if (!name.includes('type')) expect(await peer.reply()).toMatchObject({ id: 42, flags: ERROR_REPLY, errno: EINVAL });
    expect(await peer.closed()).toBe(true);
  });

  test('a reply ends the connection unanswered: a client has nothing to reply to', async () => {
    await serve(path('h'));
    const peer = await greeted(path('h'));
    await peer.send(message(Command.REGION_READ, words(0n, 0, 8), { flags: REPLY }));
    expect(await peer.closed()).toBe(true);
  });

  test('what came whole before it is served first, however long that takes', async () => {
    const { device } = await serve(path('i'));
    const peer = await greeted(path('i'));
    const slow = message(Command.REGION_WRITE, regionWrite(Stamp.SLOW, words(1)), { id: 1 });
    const read = message(Command.REGION_READ, words(0n, 0, 8), { id: 2 });
    const broken = message(Command.DEVICE_RESET, new Uint8Array(0), { id: 3, size: 1 });
    await peer.send(Uint8Array.from([...slow, ...read, ...broken]));
    await until(() => device.held === 1);
    device.release();
    expect(await peer.reply()).toMatchObject({ id: 1, flags: REPLY });
    expect(await peer.reply()).toMatchObject({ id: 2, flags: REPLY });
    expect(await peer.reply()).toMatchObject({ id: 3, flags: ERROR_REPLY });
    expect(await peer.closed()).toBe(true);
  });
});

describe('commands', () => {
  test('that do not exist are EINVAL, those that are not served EOPNOTSUPP, and the connection goes on', async () => {
    await serve(path('j'));
    const peer = await greeted(path('j'));
    for (const command of [0, 14, 19, 0xffff]) expect(await peer.errno(command)).toBe(EINVAL);
    for (const command of [Command.DMA_READ, Command.DMA_WRITE]) {
      expect(await peer.errno(command)).toBe(EOPNOTSUPP);
    }
    expect(await peer.errno(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).toBe(0);
  });

  test('tell of the device, its regions and its interrupts', async () => {
    await serve(path('k'));
    const peer = await greeted(path('k'));
    expect((await peer.request(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).payload).toEqual(words(16, 3, 9, 5));
    const region = (index: number) => peer.request(Command.DEVICE_GET_REGION_INFO, words(32, 0, index, 0, 0n, 0n));
    expect((await region(0)).payload).toEqual(words(32, 3, 0, 0, 4096n, 0n));
    expect((await region(7)).payload).toEqual(words(32, 3, 7, 0, 256n, 0n));
    expect((await region(6)).payload).toEqual(words(32, 0, 6, 0, 0n, 0n));
    expect((await region(9)).errno).toBe(EINVAL);
    const irq = (type: number) => peer.request(Command.DEVICE_GET_IRQ_INFO, words(16, 0, type, 0));
    expect((await irq(0)).payload).toEqual(words(16, 7, 0, 1));
    expect((await irq(2)).payload).toEqual(words(16, 9, 2, 4));
    expect((await irq(5)).errno).toBe(EINVAL);
  });

  test('REGION_READ and REGION_WRITE stay within what the region has', async () => {
    await serve(path('l'));
    const peer = await greeted(path('l'));
    expect(await peer.errno(Command.REGION_WRITE, regionWrite(0x100, pattern(64)))).toBe(0);
    const read = await peer.request(Command.REGION_READ, words(0x100n, 0, 64));
    expect(read.payload).toEqual(Uint8Array.from([...words(0x100n, 0, 64), ...pattern(64)]));
    for (const access of [
      words(4090n, 0, 8),
      words(0n, 0, 4097),
      words(0n, 6, 1),
      words(0n, 9, 1),
      words(2n ** 63n, 0, 1),
    ]) {
      expect(await peer.errno(Command.REGION_READ, access)).toBe(EINVAL);
    }
    expect(await peer.errno(Command.REGION_WRITE, regionWrite(4090, pattern(8)))).toBe(EINVAL);
    expect(await peer.errno(Command.REGION_WRITE, words(0n, 0, 8))).toBe(EINVAL);
  });

  test('are served in order, also while one takes its time', async () => {
    const { device } = await serve(path('m'));
    const peer = await greeted(path('m'));
    await peer.send(message(Command.REGION_WRITE, regionWrite(Stamp.SLOW, words(1)), { id: 1 }));
    for (let id = 2; id < 100; id++) {
      await peer.send(message(Command.REGION_WRITE, regionWrite(0x100, words(id)), { id }));
    }
    await until(() => device.held === 1);
    await turn();
    expect(device.registers[0x100]).toBe(0);
    device.release();
    for (let id = 1; id < 100; id++) expect((await peer.reply()).id).toBe(id);
    expect(device.registers[0x100]).toBe(99);
  });

  test('that want no reply get none, not even an error', async () => {
    const { device } = await serve(path('n'));
    const peer = await greeted(path('n'));
    await peer.send(message(Command.REGION_WRITE, regionWrite(0x100, words(5)), { id: 1, flags: NO_REPLY }));
    await peer.send(message(Command.REGION_WRITE, regionWrite(8192, words(5)), { id: 2, flags: NO_REPLY }));
    expect((await peer.request(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).id).toBe(7);
    expect(device.registers[0x100]).toBe(5);
  });

  test('at which the author of the device erred are EIO, the error is told, and the connection goes on', async () => {
    const errors: unknown[] = [];
    await serve(path('o'), { onError: error => errors.push(error) });
    const peer = await greeted(path('o'));
    expect(await peer.errno(Command.REGION_WRITE, regionWrite(Stamp.BROKEN, words(0)))).toBe(EIO);
    expect(await peer.errno(Command.REGION_WRITE, regionWrite(Stamp.BROKEN, words(1)))).toBe(EIO);
    expect(errors.map(error => (error as Error).message)).toEqual(Array(2).fill('the author made a mistake'));
    expect(await peer.errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
  });

  test('RESET has no payload and resets', async () => {
    const { device } = await serve(path('p'));
    const peer = await greeted(path('p'));
    device.registers.fill(9);
    expect(await peer.errno(Command.DEVICE_RESET, words(0))).toBe(EINVAL);
    expect(device.registers[0]).toBe(9);
    expect(await peer.errno(Command.DEVICE_RESET)).toBe(0);
    expect(device.registers[0]).toBe(0);
  });
});

describe('DMA_MAP and DMA_UNMAP', () => {
  const map = (iova: bigint, length: bigint, flags = 3, offset = 0n) => words(32, flags, offset, iova, length);

  test('make memory that the device reaches, and take it away', async () => {
    const { device } = await serve(path('q'));
    const peer = await greeted(path('q'));
    const file = memoryFile(65536);
    const fds = openFdCount();
    const maps = mappedFiles();
    expect(await peer.errno(Command.DMA_MAP, map(0x10000n, 0x4000n, 3, 0x2000n), [file.fd])).toBe(0);
    expect(mappedFiles()).toBe(maps + 1);
    expect(device.dma.map.regions).toMatchObject([
      { iova: 0x10000n, length: 0x4000n, readable: true, writable: true, backing: { kind: 'mapped' } },
    ]);
    const unmap = words(24, 0, 0x10000n, 0x4000n);
    expect((await peer.request(Command.DMA_UNMAP, unmap)).payload).toEqual(unmap);
    expect(mappedFiles()).toBe(maps);
    expect(openFdCount()).toBe(fds);
  });

  test('take no region twice, no more than were agreed on, and nothing that the file does not hold', async () => {
    const { device } = await serve(path('r'));
    const peer = await greeted(path('r'), '{"capabilities":{"max_dma_maps":2}}');
    const file = memoryFile(65536);
    const fds = openFdCount();
    expect(await peer.errno(Command.DMA_MAP, map(0n, 0x4000n), [file.fd])).toBe(0);
    expect(await peer.errno(Command.DMA_MAP, map(0x3000n, 0x1000n), [file.fd])).toBe(EEXIST);
    expect(await peer.errno(Command.DMA_MAP, map(0x10000n, 0x20000n), [file.fd])).toBe(EINVAL);
    expect(await peer.errno(Command.DMA_MAP, map(0x10000n, 0x1000n, 3, 0x10000n), [file.fd])).toBe(EINVAL);
    expect(await peer.errno(Command.DMA_MAP, map(0x10000n, 0n), [file.fd])).toBe(EINVAL);
    expect(await peer.errno(Command.DMA_MAP, map(0x10000n, 0x1000n, 0), [file.fd])).toBe(EINVAL);
    expect(await peer.errno(Command.DMA_MAP, map(2n ** 64n - 4096n, 0x2000n), [file.fd])).toBe(EINVAL);
    expect(await peer.errno(Command.DMA_MAP, map(0x10000n, 0x1000n), [eventfd().fd])).toBe(EINVAL);
    expect(device.dma.map.statistics.regions).toBe(1);
    expect(await peer.errno(Command.DMA_MAP, map(0x10000n, 0x1000n), [file.fd])).toBe(0);
    expect(await peer.errno(Command.DMA_MAP, map(0x20000n, 0x1000n), [file.fd])).toBe(ENOSPC);
    expect(await peer.errno(Command.DMA_UNMAP, words(24, 2, 0n, 0n))).toBe(0);
    expect(device.dma.map.statistics.regions).toBe(0);
    expect(openFdCount()).toBe(fds + 1); // the eventfd, which is this test's
  });

  test('never split a region', async () => {
    const { device } = await serve(path('s'));
    const peer = await greeted(path('s'));
    for (const iova of [0n, 0x1000n, 0x2000n]) expect(await peer.errno(Command.DMA_MAP, map(iova, 0x1000n))).toBe(0);
    expect(await peer.errno(Command.DMA_MAP, map(0x8000n, 0x2000n))).toBe(0);
    expect(await peer.errno(Command.DMA_UNMAP, words(24, 0, 0x8000n, 0x1000n))).toBe(EINVAL);
    expect(await peer.errno(Command.DMA_UNMAP, words(24, 0, 0x5000n, 0x1000n))).toBe(EINVAL);
    expect(device.dma.map.statistics.regions).toBe(4);
    expect(await peer.errno(Command.DMA_UNMAP, words(24, 0, 0n, 0x3000n))).toBe(0);
    expect(device.dma.map.statistics.regions).toBe(1);
  });

  test('with more descriptors than one close the others', async () => {
    await serve(path('u'));
    const peer = await greeted(path('u'), '{"capabilities":{"max_msg_fds":16}}');
    const file = memoryFile(4096);
    const fds = openFdCount();
    expect(await peer.errno(Command.DMA_MAP, map(0n, 0x1000n), [file.fd, file.fd, file.fd])).toBe(0);
    expect(await peer.errno(Command.DMA_UNMAP, words(24, 2, 0n, 0n), [file.fd, file.fd])).toBe(0);
    expect(openFdCount()).toBe(fds);
  });
});

describe('SET_IRQS', () => {
  const irqs = (flags: number, type: number, start: number, count: number) => words(20, flags, type, start, count);

  test('gives vectors their eventfds, takes them away, and switches a type off', async () => {
    const { device } = await serve(path('v'));
    const peer = await greeted(path('v'));
    const [first, second] = [eventfd(), eventfd()];
    const fds = openFdCount();
    expect(await peer.errno(Command.DEVICE_SET_IRQS, irqs(36, 2, 1, 2), [first.fd, second.fd])).toBe(0);
    expect(openFdCount()).toBe(fds + 2);
    device.interrupts.raise(2, 1);
    device.interrupts.raise(2, 2);
    device.interrupts.raise(2, 2);
    expect([readEventFd(first.fd), readEventFd(second.fd)]).toEqual([1n, 2n]);
    expect(await peer.errno(Command.DEVICE_SET_IRQS, irqs(36, 2, 2, 1))).toBe(0);
    expect(openFdCount()).toBe(fds + 1);
    device.interrupts.raise(2, 2);
    expect(readEventFd(second.fd)).toBe(0n);
    expect(await peer.errno(Command.DEVICE_SET_IRQS, irqs(33, 2, 0, 0))).toBe(0);
    expect(openFdCount()).toBe(fds);
  });

  test('triggers, masks and unmasks the vectors that are named', async () => {
    const { device } = await serve(path('w'));
    const peer = await greeted(path('w'));
    const files = [eventfd(), eventfd(), eventfd(), eventfd()];
    await peer.errno(
      Command.DEVICE_SET_IRQS,
      irqs(36, 2, 0, 4),
      files.map(file => file.fd),
    );
    const counts = () => files.map(file => Number(readEventFd(file.fd)));
    expect(await peer.errno(Command.DEVICE_SET_IRQS, irqs(33, 2, 1, 2))).toBe(0);
    expect(counts()).toEqual([0, 1, 1, 0]);
    const chosen = Uint8Array.from([...words(24, 34, 2, 0, 4), 1, 0, 0, 255]);
    expect(await peer.errno(Command.DEVICE_SET_IRQS, chosen)).toBe(0);
    expect(counts()).toEqual([1, 0, 0, 1]);

    const level = eventfd();
    await peer.errno(Command.DEVICE_SET_IRQS, irqs(36, 0, 0, 1), [level.fd]);
    expect(await peer.errno(Command.DEVICE_SET_IRQS, irqs(9, 0, 0, 1))).toBe(0);
    device.interrupts.setIntxLevel(true);
    expect(readEventFd(level.fd)).toBe(0n);
    expect(await peer.errno(Command.DEVICE_SET_IRQS, irqs(17, 0, 0, 1))).toBe(0);
    expect(readEventFd(level.fd)).toBe(1n);
  });

  test('that is refused changes nothing, and closes what came along', async () => {
    const { device } = await serve(path('x'));
    const peer = await greeted(path('x'));
    const [kept, other] = [eventfd(), eventfd()];
    await peer.errno(Command.DEVICE_SET_IRQS, irqs(36, 2, 0, 1), [kept.fd]);
    const fds = openFdCount();
    const refused: [Uint8Array, number[]][] = [
      [irqs(36, 2, 0, 2), [other.fd]],
      [irqs(36, 2, 0, 1), [other.fd, other.fd]],
      [irqs(36, 2, 0, 1), [memoryFile(4096).fd]],
      [irqs(36, 2, 4, 1), [other.fd]],
      [irqs(36, 2, 0xffff_ffff, 1), [other.fd]],
      [irqs(36, 2, 0, 0xffff_ffff), []],
      [irqs(36, 5, 0, 1), [other.fd]],
      [irqs(36, 2, 0, 0), [other.fd]],
      [irqs(12, 0, 0, 1), [other.fd]],
      [irqs(9, 2, 0, 1), [other.fd]],
    ];
    for (const [payload, files] of refused) {
      expect(await peer.errno(Command.DEVICE_SET_IRQS, payload, files)).toBe(EINVAL);
    }
    expect(openFdCount()).toBe(fds + 1); // the memory file, which is this test's
    device.interrupts.raise(2, 0);
    expect([readEventFd(kept.fd), readEventFd(other.fd)]).toEqual([1n, 0n]);
  });

  test('takes no more descriptors with a message than the server does', async () => {
    await serve(path('y'), { maxMessageFds: 2 });
    const peer = await greeted(path('y'), '{"capabilities":{"max_msg_fds":16}}');
    const files = [eventfd(), eventfd(), eventfd()].map(file => file.fd);
    const fds = openFdCount();
    expect(files.every(isEventFd)).toBe(true);
    expect(await peer.errno(Command.DEVICE_SET_IRQS, irqs(36, 2, 0, 3), files)).toBe(EINVAL);
    expect(openFdCount()).toBe(fds);
  });
});

describe('DEVICE_FEATURE and the migration data', () => {
  test('a report is bounded by what one message holds, whatever the caller would take', async () => {
    await serve(path('z'), { maxDataTransfer: 4096 });
    const peer = await greeted(path('z'));
    expect(await peer.errno(Command.DEVICE_FEATURE, words(24, 0x20006, 4096n, 0, 0))).toBe(0);
    const report = (pages: bigint) => words(0xffff_ffff, 0x10008, 0n, pages * 4096n, 4096n);
    const fits = await peer.request(Command.DEVICE_FEATURE, report(64n * 508n));
    expect(fits.payload.length).toBe(8 + 24 + 8 * 508);
    expect(viewOf(fits.payload).getUint32(0, true)).toBe(fits.payload.length);
    expect(await peer.errno(Command.DEVICE_FEATURE, report(64n * 508n + 1n))).toBe(EINVAL);
    expect(await peer.errno(Command.DEVICE_FEATURE, report(2n ** 40n))).toBe(EINVAL);
  });

  test('a reply to SET and PROBE is its request', async () => {
    await serve(path('A'));
    const peer = await greeted(path('A'));
    for (const request of [
      words(0xffff_fff0, 0x50008),
      words(24, 0x20006, 4096n, 0, 0),
      words(8, 0x20007),
      words(16, 0x20002, 1, 0xffff_ffff),
    ]) {
      expect((await peer.request(Command.DEVICE_FEATURE, request)).payload).toEqual(request);
    }
  });

  test('a device that does not migrate says ENOTTY', async () => {
    await serve(path('B'), {}, new StampDevice({ migrationFlags: 0 }));
    const peer = await greeted(path('B'));
    expect(await peer.errno(Command.MIG_DATA_READ, words(16, 8))).toBe(ENOTTY);
    expect(await peer.errno(Command.MIG_DATA_WRITE, words(8, 0))).toBe(ENOTTY);
    expect(await peer.errno(Command.DEVICE_FEATURE, words(16, 0x10002, 0, 0))).toBe(ENOTTY);
  });

  test('migration data out of its state is EINVAL', async () => {
    await serve(path('C'));
    const peer = await greeted(path('C'));
    expect(await peer.errno(Command.MIG_DATA_READ, words(16, 8))).toBe(EINVAL);
    expect(await peer.errno(Command.MIG_DATA_WRITE, words(12, 4, 0))).toBe(EINVAL);
  });
});

describe('a client that does not wait for its replies', () => {
  test('may have several large commands under way', async () => {
    const { device } = await serve(path('large'), { maxDataTransfer: 40 * 2 ** 20 });
    const peer = await greeted(path('large'));
    await peer.send(message(Command.REGION_WRITE, write(Stamp.SLOW, words(1)), { id: 1 }));
    const size = 40 * 2 ** 20;
    const large = message(Command.REGION_WRITE, Buffer.concat([words(0n, 1, size), new Uint8Array(size)]), { id: 2 });
    let turns = 0;
    const sending = peer.send(Buffer.concat([large, large, large]));
    // Long enough for two of them to be read, if they were.
    await until(() => ++turns === 1000);
    device.release();
    for (const id of [1, 2, 2, 2]) expect((await peer.reply()).id).toBe(id);
    await sending;
  });

  test('may have several commands with many descriptors under way', async () => {
    const { device } = await serve(path('many-fds'), { maxMessageFds: 200 });
    const peer = await greeted(path('many-fds'));
    const fds = new Array<number>(200).fill(memoryFile(4096).fd);
    await peer.send(message(Command.REGION_WRITE, write(Stamp.SLOW, words(1)), { id: 0 }));
    await until(() => device.held === 1);
    for (let id = 1; id < 5; id++) {
      await peer.send(message(Command.DEVICE_GET_INFO, words(16, 0, 0, 0), { id }), fds);
      await turn();
    }
    device.release();
    for (let id = 0; id < 5; id++) expect((await peer.reply()).id).toBe(id);
  });
});

test('commands that are done at once leave the event loop its turns too', async () => {
  let turns = 0;
  const seen: number[] = [];
  class Slow extends StampDevice {
    protected override writeRegister(): void {
      const end = performance.now() + 1;
      while (performance.now() < end);
      seen.push(turns);
    }
  }
  await serve(path('sync'), {}, new Slow());
  const peer = await greeted(path('sync'));
  const counting = setInterval(() => turns++, 1);
  for (const length of [4, 12]) {
    const one = message(Command.REGION_WRITE, write(0x40, new Uint8Array(length)), { flags: NO_REPLY });
    await peer.send(Buffer.concat(new Array(200).fill(one)));
    expect(await peer.errno(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).toBe(0);
    expect(seen.splice(0).length).toBe(200);
  }
  clearInterval(counting);
  expect(turns).toBeGreaterThan(10);
});

test('thousands of requests in one piece leave the event loop its turns', async () => {
  const { device } = await serve(path('turns'));
  const peer = await greeted(path('turns'), '{"capabilities":{"max_data_xfer_size":16777216}}');
  device.dma.log.start(4096n, [{ iova: 0n, length: 1n << 38n }]);
  const report = message(Command.DEVICE_FEATURE, featureReport(1n << 38n), { flags: NO_REPLY });
  let sent = 0;
  while (peer.trySend(report)) sent++;
  expect(sent).toBeGreaterThan(100);
  let turns = 0;
  const counting = setInterval(() => turns++, 1);
  await peer.send(message(Command.REGION_READ, words(0n, 0, 4)));
  await peer.reply();
  clearInterval(counting);
  expect(turns).toBeGreaterThan(1);
  peer.close();
});

describe('a client that leaves', () => {
  test('takes its memory and interrupts along; the device keeps its registers, its log and its state', async () => {
    const left: (VfioError | undefined)[] = [];
    const { device, server } = await serve(path('D'), { onDisconnect: reason => left.push(reason) });
    const fds = openFdCount();
    const maps = mappedFiles();
    const peer = Peer.connect(path('D'));
    await peer.greet();
    expect(server.connected).toBe(true);
    const file = memoryFile(65536);
    expect(await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x10000n), [file.fd])).toBe(0);
    expect(await peer.errno(Command.DEVICE_SET_IRQS, words(20, 36, 2, 0, 1), [eventfd().fd])).toBe(0);
    expect(await peer.errno(Command.REGION_WRITE, enableBusMaster)).toBe(0);
    expect(await peer.errno(Command.DEVICE_FEATURE, words(24, 0x20006, 4096n, 0, 0))).toBe(0);
    expect(await peer.errno(Command.REGION_WRITE, regionWrite(0, stampSettings(0x5000n, 8, 1)))).toBe(0);
    expect(await peer.errno(Command.REGION_WRITE, regionWrite(Stamp.DOORBELL, words(1)))).toBe(0);
    peer.close();
    await until(() => left.length === 1);
    expect(left).toEqual([undefined]);
    expect(server.connected).toBe(false);
    expect(mappedFiles()).toBe(maps);
    expect(openFdCount()).toBe(fds + 2); // the file and the eventfd, which are this test's
    expect(() => device.dma.read(0, new Uint8Array(1))).toThrow('EFAULT');

    const next = await greeted(path('D'));
    const count = await next.request(Command.REGION_READ, words(BigInt(Stamp.COUNT), 0, 4));
    expect(count.payload).toEqual(words(BigInt(Stamp.COUNT), 0, 4, 1));
    const report = await next.request(Command.DEVICE_FEATURE, words(40, 0x10008, 0n, 0x10000n, 4096n));
    expect(report.payload.subarray(32)).toEqual(words(1n << 5n));
  });

  test('in the middle of a message leaves nothing behind', async () => {
    const { device } = await serve(path('E'));
    const fds = openFdCount();
    const whole = message(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x1000n));
    const file = memoryFile(4096);
    for (let size = 1; size < whole.length; size++) {
      const peer = Peer.connect(path('E'));
      await peer.greet();
      await peer.send(whole.subarray(0, size), [file.fd]);
      peer.close();
      await until(() => device.events.length === size);
    }
    expect(openFdCount()).toBe(fds + 1);
    expect(device.dma.map.statistics.regions).toBe(0);
  });

  test('in spite of many more descriptors than it may send leaves none of them', async () => {
    const { device } = await serve(path('P'));
    const peer = Peer.connect(path('P'));
    await peer.greet();
    const file = memoryFile(4096);
    const fds = openFdCount();
    for (const byte of message(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x1000n)).subarray(0, 30)) {
      await peer.send(Uint8Array.of(byte), new Array<number>(100).fill(file.fd));
      await turn();
      expect(openFdCount()).toBeLessThanOrEqual(fds + 16);
    }
    peer.close();
    await until(() => device.events.length === 1);
    expect(openFdCount()).toBe(fds - 2); // both ends of the connection
  });

  test('from a device that fails to let go does not keep others out', async () => {
    const errors: unknown[] = [];
    const device = new StampDevice();
    device.disconnect = () => {
      throw new TypeError('the author made a mistake');
    };
    await serve(path('Q'), { onError: error => errors.push(error) }, device);
    const first = Peer.connect(path('Q'));
    await first.greet();
    first.close();
    expect(await (await greeted(path('Q'))).errno(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).toBe(0);
    expect(errors).toMatchObject([{ message: 'the author made a mistake' }]);
  });

  test('before VERSION was there is no client: the device is not told', async () => {
    const { device } = await serve(path('F'));
    for (const bytes of [new Uint8Array(0), new Uint8Array(3), message(1, versionPayload('{')), message(9)]) {
      const peer = Peer.connect(path('F'));
      if (bytes.length > 0) await peer.send(bytes);
      await turn();
      peer.close();
    }
    await greeted(path('F'));
    expect(device.events).toEqual([]);
  });

  test('is let go when the request under way is done, and what it had sent whole is served first', async () => {
    const { device } = await serve(path('G'));
    const peer = Peer.connect(path('G'));
    await peer.greet();
    await peer.send(message(Command.REGION_WRITE, regionWrite(Stamp.SLOW, words(1))));
    await peer.send(message(Command.REGION_WRITE, regionWrite(0x100, words(77))));
    await until(() => device.held === 1);
    peer.close();
    const next = Peer.connect(path('G'));
    await next.send(message(Command.VERSION, versionPayload()));
    for (let round = 0; round < 20; round++) await turn();
    expect(device.events).toEqual(['slow begins']);
    device.release();
    expect((await next.reply()).flags).toBe(REPLY);
    expect(device.events).toEqual(['slow begins', 'slow ends', 'disconnect']);
    expect(device.registers[0x100]).toBe(77);
    next.close();
  });
});

describe('a client that does not read', () => {
  test('holds up itself, in bounded memory, and is served when it reads', async () => {
    const { server } = await serve(path('H'));
    const peer = await greeted(path('H'), '{"capabilities":{"max_data_xfer_size":1048576}}');
    const request = message(Command.REGION_READ, words(0n, 0, 4096));
    let sent = 0;
    for (let idle = 0; idle < 50; ) {
      if (peer.trySend(request)) {
        sent++;
        idle = 0;
      } else {
        await turn();
        idle++;
      }
    }
    // What the two socket buffers and the server's bounded queue hold: without a bound this would not have ended.
    expect(sent).toBeGreaterThan(16);
    expect(sent).toBeLessThan(100_000);
    for (let reply = 0; reply < sent; reply++) expect((await peer.reply()).payload.length).toBe(16 + 4096);
    expect(server.connected).toBe(true);
  });

  test('and leaves is let go', async () => {
    const { device } = await serve(path('I'));
    const peer = Peer.connect(path('I'));
    await peer.greet();
    const request = message(Command.REGION_READ, words(0n, 0, 4096));
    for (let idle = 0; idle < 20; ) {
      if (peer.trySend(request)) continue;
      await turn();
      idle++;
    }
    peer.close();
    await until(() => device.events.includes('disconnect'));
  });
});

describe('one client at a time', () => {
  test('a second one waits until the first has left', async () => {
    await serve(path('J'));
    const first = Peer.connect(path('J'));
    await first.greet();
    const second = Peer.connect(path('J'));
    await second.send(message(Command.VERSION, versionPayload()));
    expect(await first.errno(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).toBe(0);
    first.close();
    expect((await second.reply()).flags).toBe(REPLY);
    second.close();
  });

  test('a thousand that come and go one after the other leave nothing', async () => {
    const { device } = await serve(path('K'));
    const fds = openFdCount();
    const file = memoryFile(4096);
    for (let round = 0; round < 1000; round++) {
      const peer = Peer.connect(path('K'));
      await peer.greet();
      expect(await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x1000n), [file.fd])).toBe(0);
      peer.close();
    }
    await until(() => device.events.length === 1000);
    expect(openFdCount()).toBe(fds + 1);
    expect(device.dma.map.statistics.regions).toBe(0);
  });
});

describe('a server that is closed', () => {
  test('ends its connection, lets the device go, and can be closed again', async () => {
    const reasons: (string | undefined)[] = [];
    const { device, server } = await serve(path('L'), { onDisconnect: reason => reasons.push(reason?.errno) });
    const peer = await greeted(path('L'));
    await Promise.all([server.close(), server.close()]);
    await server.close();
    expect(await peer.closed()).toBe(true);
    expect(device.events).toEqual(['disconnect']);
    expect(reasons).toEqual(['ECONNABORTED']);
    expect(() => Peer.connect(path('L'))).toThrow('ENOENT');
  });

  test('waits for the request under way, and drops the others', async () => {
    const { device, server } = await serve(path('M'));
    const peer = await greeted(path('M'));
    await peer.send(message(Command.REGION_WRITE, regionWrite(Stamp.SLOW, words(1))));
    await peer.send(message(Command.REGION_WRITE, regionWrite(0x100, words(77))));
    await until(() => device.held === 1);
    let done = false;
    const closing = server.close().then(() => {
      done = true;
    });
    for (let round = 0; round < 20; round++) await turn();
    expect(done).toBe(false);
    device.release();
    await closing;
    expect(device.events).toEqual(['slow begins', 'slow ends', 'disconnect']);
    expect(device.registers[0x100]).toBe(0);
  });

  test('by the device in the middle of a request is over when that is', async () => {
    const device = new StampDevice();
    const { server } = await serve(path('N'), {}, device);
    const order: string[] = [];
    device.interrupts.setTriggers(2, 0, [
      {
        signal: () => {
          void server.close();
          order.push(`closing, ${device.events.length} events`);
        },
        close: () => order.push('trigger closed'),
      },
    ]);
    const peer = await greeted(path('N'));
    await peer.send(message(Command.DEVICE_SET_IRQS, words(20, 33, 2, 0, 1)));
    expect(await peer.closed()).toBe(true);
    await server.close();
    expect(order).toEqual(['closing, 0 events', 'trigger closed']);
  });
});

describe('a server that is out of descriptors', () => {
  test('says so to a message whose descriptors it cannot take, and goes on', async () => {
    const { device } = await serve(path('R'));
    const peer = await greeted(path('R'));
    const file = memoryFile(4096);
    const map = words(32, 3, 0n, 0n, 0x1000n);
    const giveBack = takeAllFds();
    try {
      expect(await peer.errno(Command.DMA_MAP, map, [file.fd])).toBe(ERRNO.EMFILE);
    } finally {
      giveBack();
    }
    expect(device.dma.map.statistics.regions).toBe(0);
    expect(await peer.errno(Command.DMA_MAP, map, [file.fd])).toBe(0);
  });

  test('accepts a client later', async () => {
    const errors: unknown[] = [];
    await serve(path('S'), { onError: error => errors.push(error) });
    const peer = Peer.connect(path('S'));
    const giveBack = takeAllFds();
    try {
      await until(() => errors.length > 0, 'the server finds out');
    } finally {
      giveBack();
    }
    expect(errors).toMatchObject([{ errno: 'EMFILE', operation: 'accept' }]);
    expect((await peer.greet()).flags).toBe(REPLY);
    peer.close();
  });
});

test('a mapping takes no more rights than its descriptor has', async () => {
  const { openSync, closeSync } = await import('node:fs');
  const { device } = await serve(path('O'));
  const peer = await greeted(path('O'));
  const file = memoryFile(4096);
  const readOnly = openSync(`/proc/self/fd/${file.fd}`, 'r');
  onTestFinished(() => closeSync(readOnly));
  const map = (flags: number) => words(32, flags, 0n, 0n, 0x1000n);
  expect(await peer.errno(Command.DMA_MAP, map(3), [readOnly])).toBe(EACCES);
  expect(await peer.errno(Command.DMA_MAP, map(1), [readOnly])).toBe(0);
  expect(await peer.errno(Command.REGION_WRITE, enableBusMaster)).toBe(0);
  expect(() => device.dma.write(0, new Uint8Array(1))).toThrow('EFAULT');
});
