import { describe, expect, onTestFinished, test } from 'vitest';
import { Mapping, openFdCount } from '../../src/native/index.js';
import { ERRNO, type VfioError, viewOf } from '../../src/uapi/index.js';
import { Command, VfioUserServer } from '../../src/vfio-user/index.js';
import { errnoOf, expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { ERROR_REPLY, message, Peer, REPLY, turn, until, versionPayload, words } from './peer.js';
import { greeted, mappedFiles, memoryFile, serve } from './served.js';
import { Stamp, StampDevice, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();
const { EPERM, EINVAL, EBUSY, ENOSPC, EOVERFLOW, ENOTTY } = ERRNO;

const TRACKER = '{"capabilities":{"max_msg_fds":16,"dmalog":{"version":1,"role":"tracker"}}}';
const VMM = '{"capabilities":{"max_msg_fds":16,"dmalog":{"version":1}}}';
const Own = { ATTACH: 0xd001, DETACH: 0xd002, REPORT: 0xd003, STATISTICS: 0xd004 } as const;

const start = words(24, 0x20006, 4096n, 0, 0);
const report = words(40, 0x10008, 0x10000n, 0x10000n, 4096n);
const setState = (state: number) => words(16, 0x20002, state, 0xffff_ffff);
const map = words(32, 3, 0n, 0x10000n, 0x10000n);

function write(offset: number, data: Uint8Array): Uint8Array {
  return Uint8Array.from([...words(BigInt(offset), 0, data.length), ...data]);
}

async function statistics(peer: Peer): Promise<Record<string, unknown>> {
  return JSON.parse(new TextDecoder().decode((await peer.request(Own.STATISTICS)).payload));
}

function freeDevice(): StampDevice {
  return new StampDevice({ busMaster: 'ignored' });
}

describe('a tracker', () => {
  test('is served beside the VMM, before it and after it', async () => {
    const { device, server } = await serve(path('a'), {}, freeDevice());
    const tracker = await greeted(path('a'), TRACKER);
    expect(server.connected).toBe(false);
    expect(await tracker.errno(Command.DEVICE_FEATURE, start)).toBe(0);
    const vmm = await greeted(path('a'), VMM);
    expect(server.connected).toBe(true);
    await vmm.errno(Command.DMA_MAP, map, [memoryFile(0x10000).fd]);
    await vmm.errno(Command.REGION_WRITE, write(0, stampSettings(0x12000n, 8, 1)));
    await vmm.errno(Command.REGION_WRITE, write(Stamp.DOORBELL, words(1)));
    expect((await tracker.request(Command.DEVICE_FEATURE, report)).payload.subarray(32)).toEqual(words(4n));
    vmm.close();
    await until(() => !server.connected);
    expect(device.events).toEqual(['disconnect']);
    expect((await tracker.request(Command.DEVICE_FEATURE, report)).payload.subarray(32)).toEqual(words(0n));
  });

  test('that leaves takes nothing of the VMM along, and what it logs goes on', async () => {
    const left: (string | undefined)[] = [];
    const { device } = await serve(path('b'), { onDisconnect: (_reason, role) => left.push(role) }, freeDevice());
    const vmm = await greeted(path('b'), VMM);
    await vmm.errno(Command.DMA_MAP, map, [memoryFile(0x10000).fd]);
    const tracker = Peer.connect(path('b'));
    await tracker.greet(TRACKER);
    await tracker.errno(Command.DEVICE_FEATURE, start);
    tracker.close();
    await until(() => left.length === 1);
    expect(left).toEqual(['tracker']);
    expect(device.events).toEqual([]);
    expect(device.dma.map.statistics.regions).toBe(1);
    device.dma.write(0x10000, new Uint8Array(1));
    expect((await vmm.request(Command.DEVICE_FEATURE, report)).payload.subarray(32)).toEqual(words(1n));
  });

  test('may look on, and touches neither memory map, nor interrupts, nor registers', async () => {
    const { device } = await serve(path('c'));
    const tracker = await greeted(path('c'), TRACKER);
    for (const [command, payload] of [
      [Command.DEVICE_GET_INFO, words(16, 0, 0, 0)],
      [Command.DEVICE_GET_REGION_INFO, words(32, 0, 0, 0, 0n, 0n)],
      [Command.DEVICE_GET_IRQ_INFO, words(16, 0, 2, 0)],
      [Command.DEVICE_FEATURE, words(16, 0x10001, 0n)],
      [Command.DEVICE_FEATURE, setState(3)],
      [Command.MIG_DATA_READ, words(108, 100)],
      [Command.DEVICE_FEATURE, setState(1)],
      [Command.DEVICE_FEATURE, setState(4)],
      [Command.MIG_DATA_WRITE, words(12, 4, 0)],
      [Own.STATISTICS, new Uint8Array(0)],
    ] as const) {
      expect(await tracker.errno(command, payload)).toBe(0);
    }
    for (const [command, payload] of [
      [Command.DMA_MAP, map],
      [Command.DMA_UNMAP, words(24, 2, 0n, 0n)],
      [Command.DEVICE_SET_IRQS, words(20, 33, 2, 0, 1)],
      [Command.REGION_READ, words(0n, 0, 8)],
      [Command.REGION_WRITE, write(0x100, words(1))],
      [Command.REGION_WRITE_MULTI, words(0n)],
      [Command.DEVICE_RESET, new Uint8Array(0)],
      [Command.DEVICE_GET_REGION_IO_FDS, words(64, 0, 0, 0)],
    ] as const) {
      expect(await tracker.errno(command, payload, [memoryFile(4096).fd])).toBe(EPERM);
    }
    expect(await tracker.errno(99)).toBe(EINVAL);
    expect(device.registers[0x100]).toBe(0);
  });

  test('gets no file of a region', async () => {
    const bars = [{ index: 0, size: 4096, mappable: [{ offset: 0, size: 4096 }] }];
    const device = new StampDevice({ bars });
    onTestFinished(() => device.close());
    await serve(path('d'), {}, device);
    const tracker = await greeted(path('d'), TRACKER);
    const info = await tracker.request(Command.DEVICE_GET_REGION_INFO, words(32, 0, 0, 0, 0n, 0n));
    expect(info.payload).toEqual(words(32, 3, 0, 0, 4096n, 0n));
  });

  test('is served while a command of the VMM takes its time', async () => {
    const { device } = await serve(path('e'));
    const vmm = await greeted(path('e'));
    const tracker = await greeted(path('e'), TRACKER);
    await vmm.send(message(Command.REGION_WRITE, write(Stamp.SLOW, words(1))));
    await until(() => device.held === 1);
    expect(await tracker.errno(Command.DEVICE_FEATURE, start)).toBe(0);
    device.release();
    expect((await vmm.reply()).flags).toBe(REPLY);
  });

  test("waits with its feature request for the VMM's, which takes its time", async () => {
    const device = freeDevice();
    await serve(path('f'), {}, device);
    const vmm = await greeted(path('f'));
    const tracker = await greeted(path('f'), TRACKER);
    await vmm.errno(Command.DMA_MAP, map);
    await tracker.errno(Command.DEVICE_FEATURE, start);
    void Promise.resolve(device.dma.write(0x11000, new Uint8Array(1)));
    const dma = await vmm.reply();
    await vmm.send(message(Command.DEVICE_FEATURE, setState(3), { id: 1 }));
    await tracker.send(message(Command.DEVICE_FEATURE, report, { id: 2 }));
    await turn();
    expect(device.migration?.state).toBe(2);
    await vmm.send(message(dma.command, new Uint8Array(0), { id: dma.id, flags: REPLY }));
    expect(await vmm.reply()).toMatchObject({ id: 1, flags: REPLY });
    // Served after the change of state, hence with the page of the DMA that it waited for.
    expect((await tracker.reply()).payload.subarray(32)).toEqual(words(2n));
  });

  test('too many is EBUSY; the VMM still finds its place', async () => {
    await serve(path('g'));
    for (let count = 0; count < 8; count++) await greeted(path('g'), TRACKER);
    const ninth = Peer.connect(path('g'));
    expect(await ninth.greet(TRACKER)).toMatchObject({ flags: ERROR_REPLY, errno: EBUSY });
    expect(await ninth.closed()).toBe(true);
    ninth.close();
    expect(await (await greeted(path('g'), VMM)).errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
  });
});

describe('a second VMM', () => {
  test('waits with its VERSION unanswered; one that gives up frees nothing but its place in the line', async () => {
    const { server } = await serve(path('h'), { versionTimeoutMs: 100 });
    const fds = openFdCount();
    const first = Peer.connect(path('h'));
    await first.greet();
    const second = Peer.connect(path('h'));
    await second.send(message(Command.VERSION, versionPayload()));
    const third = Peer.connect(path('h'));
    await third.send(message(Command.VERSION, versionPayload()));
    // Longer than a silent client may wait.
    await new Promise(resolve => setTimeout(resolve, 200));
    second.close();
    await until(() => openFdCount() === fds + 4, 'the second one is let go');
    expect(await first.errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
    first.close();
    expect((await third.reply()).flags).toBe(REPLY);
    third.close();
    await until(() => !server.connected);
    expect(openFdCount()).toBe(fds);
  });

  test('that says more while it waits, and leaves, never takes the place', async () => {
    const { server } = await serve(path('queue'));
    const vmm = await greeted(path('queue'), VMM);
    for (const more of [1, 2, 3]) {
      const waiting = Peer.connect(path('queue'));
      for (let count = 0; count <= more; count++) await waiting.send(message(Command.VERSION, versionPayload(VMM)));
      for (let wait = 0; wait < 5; wait++) await turn();
      waiting.close();
    }
    for (let wait = 0; wait < 5; wait++) await turn();
    vmm.close();
    await until(() => !server.connected);
    const next = await greeted(path('queue'), VMM);
    expect(await next.errno(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).toBe(0);
    next.close();
    await server.close();
  });

  test('that waits when the server is closed is sent away', async () => {
    const { server } = await serve(path('i'));
    await greeted(path('i'));
    const second = Peer.connect(path('i'));
    onTestFinished(() => second.close());
    await second.send(message(Command.VERSION, versionPayload()));
    await turn();
    await server.close();
    expect(await second.closed()).toBe(true);
  });

  test('one of many: eight connections wait at the server, the others in front of it, and each has its turn', async () => {
    const { device } = await serve(path('j'));
    const fds = openFdCount();
    const peers = Array.from({ length: 16 }, () => Peer.connect(path('j')));
    for (const peer of peers) await peer.send(message(Command.VERSION, versionPayload()));
    for (let round = 0; round < 20; round++) await turn();
    expect(openFdCount()).toBeLessThanOrEqual(fds + 16 + 9);
    for (const [index, peer] of peers.entries()) {
      expect((await peer.reply()).flags).toBe(REPLY);
      peer.close();
      await until(() => device.events.length === index + 1);
    }
    expect(openFdCount()).toBe(fds);
  });

  test('silent ones before VERSION keep nobody out for longer than their time', async () => {
    await serve(path('k'), { versionTimeoutMs: 50 });
    const silent = Array.from({ length: 12 }, () => Peer.connect(path('k')));
    const vmm = await greeted(path('k'));
    expect(await vmm.errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
    for (const peer of silent) peer.close();
  });
});

describe("this project's own commands", () => {
  test('do not exist for a client that has not named them', async () => {
    await serve(path('l'));
    const peer = await greeted(path('l'));
    const fds = openFdCount();
    for (const command of Object.values(Own)) {
      expect(await peer.errno(command, words(24, 0, 0n, 4096n), [memoryFile(4096).fd])).toBe(EINVAL);
    }
    expect(openFdCount()).toBe(fds + 4);
  });

  test('STATISTICS tells of map, log, DMA and connections, as the server does in its process', async () => {
    const { device, server } = await serve(path('m'), {}, freeDevice());
    const vmm = await greeted(path('m'), VMM);
    const tracker = await greeted(path('m'), TRACKER);
    await vmm.errno(Command.DMA_MAP, map, [memoryFile(0x10000).fd]);
    await tracker.errno(Command.DEVICE_FEATURE, start);
    device.dma.write(0x10fff, new Uint8Array(2));
    device.dma.read(0x10000, new Uint8Array(100));
    expect(errnoOf(() => device.dma.read(0, new Uint8Array(1)))).toBe('EFAULT');
    const expected = {
      dmaMap: { regions: 1, refused: 1 },
      log: { active: true, pageSize: 4096, dirtyPages: 2, ranges: 1 },
      dma: { reads: 1, writes: 1, bytesRead: 100, bytesWritten: 2, refused: 0 },
      connections: 2,
    };
    expect(await statistics(tracker)).toEqual(expected);
    expect(server.statistics).toEqual(expected);
    expect(await tracker.errno(Own.STATISTICS, words(0))).toBe(EINVAL);
  });

  /** A bitmap of 8 KiB at byte 4096 of a file, attached as handle 1. */
  async function attached(name: string): Promise<{ device: StampDevice; peer: Peer; bitmap: Mapping }> {
    const { device } = await serve(path(name), {}, freeDevice());
    const peer = await greeted(path(name), TRACKER);
    const file = memoryFile(3 * 4096);
    expect((await peer.request(Own.ATTACH, words(24, 0, 4096n, 8192n), [file.fd])).payload).toEqual(words(1));
    const bitmap = Mapping.map(file.fd, 4096, 8192, { read: true, write: true });
    onTestFinished(() => bitmap.close());
    return { device, peer, bitmap };
  }

  test('REPORT_SHARED reads and clears the log into the file, and adds to what is there', async () => {
    const { device, peer, bitmap } = await attached('n');
    device.dma.log.start(4096n, [{ iova: 0n, length: 1n << 40n }]);
    device.dma.log.record(0x1_2345_6000, 1);
    bitmap.write(8, Uint8Array.of(0x80));
    const into = words(1, 0, 8n, 0x1_2345_0000n, 0x40000n, 4096n);
    expect(await peer.errno(Own.REPORT, into)).toBe(0);
    const bytes = new Uint8Array(24);
    bitmap.read(0, bytes);
    expect(bytes).toEqual(words(0n, 0xc0n, 0n));
    bitmap.fill(0, 8192, 0);
    expect(await peer.errno(Own.REPORT, into)).toBe(0);
    bitmap.read(0, bytes);
    expect(bytes).toEqual(new Uint8Array(24));
  });

  test('a bitmap is shared by several devices, whose bits become one union', async () => {
    const file = memoryFile(4096);
    const devices = [freeDevice(), freeDevice(), freeDevice()];
    for (const [index, device] of devices.entries()) {
      const server = await VfioUserServer.listen(device, { path: path(`o${index}`) });
      onTestFinished(() => server.close());
      const peer = await greeted(path(`o${index}`), TRACKER);
      await peer.request(Own.ATTACH, words(24, 0, 0n, 4096n), [file.fd]);
      device.dma.log.start(4096n, [{ iova: 0n, length: 1n << 30n }]);
      device.dma.log.record(index * 4096, 1);
      device.dma.log.record(20 * 4096, 1);
      expect(await peer.errno(Own.REPORT, words(1, 0, 0n, 0n, 32n * 4096n, 4096n))).toBe(0);
    }
    const bytes = new Uint8Array(8);
    const mapping = Mapping.map(file.fd, 0, 4096, { read: true, write: true });
    mapping.read(0, bytes);
    mapping.close();
    expect(bytes).toEqual(words(BigInt((1 << 20) | 0b111)));
  });

  test('REPORT_SHARED that is refused costs the log nothing', async () => {
    const { device, peer, bitmap } = await attached('p');
    const good = words(1, 0, 0n, 0n, 64n * 4096n, 4096n);
    expect(await peer.errno(Own.REPORT, good)).toBe(EINVAL); // not started
    device.dma.log.start(4096n, [{ iova: 0n, length: 1n << 40n }]);
    device.dma.log.record(0, 1);
    for (const [request, errno] of [
      [words(2, 0, 0n, 0n, 4096n, 4096n), EINVAL],
      [words(1, 1, 0n, 0n, 4096n, 4096n), EINVAL],
      [words(1, 0, 4n, 0n, 4096n, 4096n), EINVAL],
      [words(1, 0, 8192n, 0n, 4096n, 4096n), EINVAL],
      [words(1, 0, 2n ** 64n - 8n, 0n, 4096n, 4096n), EINVAL],
      [words(1, 0, 0n, 0n, 65537n * 4096n, 4096n), EINVAL],
      [words(1, 0, 8n, 0n, 65536n * 4096n, 4096n), EINVAL],
      [words(1, 0, 0n, 0n, 4096n, 0n), EINVAL],
      [words(1, 0, 0n, 0n, 4096n, 4097n), EINVAL],
      [words(1, 0, 0n, 2n ** 64n - 4096n, 4096n, 4096n), EOVERFLOW],
    ] as const) {
      expect(await peer.errno(Own.REPORT, request)).toBe(errno);
    }
    expect(await peer.errno(Own.REPORT, good)).toBe(0);
    const first = new Uint8Array(1);
    bitmap.read(0, first);
    expect(first[0]).toBe(1);
  });

  test('a device without a log is ENOTTY', async () => {
    await serve(path('q'), {}, new StampDevice({ log: false }));
    const peer = await greeted(path('q'), TRACKER);
    expect(await peer.errno(Own.REPORT, words(1, 0, 0n, 0n, 4096n, 4096n))).toBe(ENOTTY);
  });

  test('BITMAP_ATTACH takes a sealed file of the right size, with what it says of it, and not too many', async () => {
    await serve(path('r'));
    const peer = await greeted(path('r'), VMM);
    const file = memoryFile(8192);
    const fds = openFdCount();
    const maps = mappedFiles();
    const shrinking = (await import('node:fs')).openSync('/proc/self/exe', 'r');
    for (const [payload, files] of [
      [words(24, 0, 0n, 4096n), []],
      [words(24, 0, 0n, 0n), [file.fd]],
      [words(24, 0, 0n, 4095n), [file.fd]],
      [words(24, 0, 0n, 16384n), [file.fd]],
      [words(24, 0, 8192n, 8n), [file.fd]],
      [words(24, 0, 100n, 8n), [file.fd]],
      [words(24, 0, 0n, 2n ** 63n), [file.fd]],
      [words(24, 1, 0n, 4096n), [file.fd]],
      [words(23, 0, 0n, 4096n), [file.fd]],
      [words(24, 0, 0n, 8n), [shrinking]],
    ] as const) {
      expect(await peer.errno(Own.ATTACH, payload, [...files])).toBe(EINVAL);
    }
    (await import('node:fs')).closeSync(shrinking);
    expect(mappedFiles()).toBe(maps);
    for (let handle = 1; handle <= 16; handle++) {
      expect((await peer.request(Own.ATTACH, words(24, 0, 4096n, 8n), [file.fd])).payload).toEqual(words(handle));
    }
    expect(await peer.errno(Own.ATTACH, words(24, 0, 0n, 8n), [file.fd])).toBe(ENOSPC);
    expect(await peer.errno(Own.DETACH, words(16))).toBe(0);
    expect(await peer.errno(Own.DETACH, words(16))).toBe(EINVAL);
    // A handle is never given twice.
    expect((await peer.request(Own.ATTACH, words(24, 0, 0n, 8n), [file.fd])).payload).toEqual(words(17));
    expect(openFdCount()).toBe(fds);
  });

  test('bitmaps go with the connection that attached them', async () => {
    const reasons: (VfioError | undefined)[] = [];
    await serve(path('s'), { onDisconnect: reason => reasons.push(reason) });
    const maps = mappedFiles();
    const peer = Peer.connect(path('s'));
    await peer.greet(TRACKER);
    const file = memoryFile(4096);
    await peer.errno(Own.ATTACH, words(24, 0, 0n, 4096n), [file.fd]);
    expect(mappedFiles()).toBe(maps + 1);
    peer.close();
    await until(() => reasons.length === 1);
    expect(mappedFiles()).toBe(maps);
  });

  test('a report of 256 GiB in which nothing is dirty leaves the bitmap as it is', async () => {
    const { device } = await serve(path('t'), {}, freeDevice());
    const peer = await greeted(path('t'), TRACKER);
    const file = memoryFile(8 << 20);
    await peer.errno(Own.ATTACH, words(24, 0, 0n, BigInt(8 << 20)), [file.fd]);
    device.dma.log.start(4096n, [{ iova: 0n, length: 1n << 38n }]);
    expect(await peer.errno(Own.REPORT, words(1, 0, 0n, 0n, 1n << 38n, 4096n))).toBe(0);
    device.dma.log.record(2 ** 38 - 1, 1);
    expect(await peer.errno(Own.REPORT, words(1, 0, 0n, 0n, 1n << 38n, 4096n))).toBe(0);
    const mapping = Mapping.map(file.fd, 0, 8 << 20, { read: true, write: true });
    const last = new Uint8Array(8 << 20);
    mapping.read(0, last);
    mapping.close();
    expect(viewOf(last).getUint8(last.length - 1)).toBe(0x80);
    expect(last.subarray(0, -1).every(byte => byte === 0)).toBe(true);
  });
});
