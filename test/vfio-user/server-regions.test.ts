import { describe, expect, onTestFinished, test } from 'vitest';
import { PeerMapping } from '../../src/memory/index.js';
import { openFdCount, signalEventFd } from '../../src/native/index.js';
import { ERRNO, viewOf } from '../../src/uapi/index.js';
import { Command } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, pattern, temporaryFolder } from '../native/helpers.js';
import { message, NO_REPLY, Peer, REPLY, until, versionPayload, words } from './peer.js';
import { greeted, memoryFile, serve } from './served.js';
import { Stamp, StampDevice, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();
const { EINVAL, EIO, E2BIG, EOVERFLOW } = ERRNO;
const FDS = '{"capabilities":{"max_msg_fds":16}}';

/** A device with a BAR of 32 KiB of which two areas may be mapped, one that may be mapped whole, and doorbells. */
class MappableDevice extends StampDevice {
  readonly rung: number[] = [];

  constructor() {
    super({
      bars: [
        { index: 0, size: 4096 },
        {
          index: 2,
          size: 0x8000,
          mappable: [
            { offset: 0x1000, size: 0x1000 },
            { offset: 0x4000, size: 0x2000 },
          ],
        },
        { index: 3, size: 0x2000, mappable: [{ offset: 0, size: 0x2000 }] },
      ],
      ioEventFds: [
        { bar: 0, offset: 0x40, size: 4 },
        { bar: 0, offset: 0x44, size: 4, match: 5n },
      ],
    });
    onTestFinished(() => this.close());
  }

  protected override onIoEvent(index: number): void {
    this.rung.push(index);
  }
}

/** A peer that keeps the descriptors that come. */
async function keeper(name: string, json = FDS): Promise<Peer> {
  const peer = Peer.connect(path(name));
  onTestFinished(() => peer.close());
  peer.keepFds = true;
  await peer.request(Command.VERSION, versionPayload(json));
  return peer;
}

function regionInfo(argsz: number, region: number): Uint8Array {
  return words(argsz, 0, region, 0, 0n, 0n);
}

describe('DEVICE_GET_REGION_INFO', () => {
  test('of a region that may be mapped whole has its file and no capabilities', async () => {
    await serve(path('a'), {}, new MappableDevice());
    const peer = await keeper('a');
    const { payload } = await peer.request(Command.DEVICE_GET_REGION_INFO, regionInfo(32, 3));
    expect(payload).toEqual(words(32, 7, 3, 0, 0x2000n, 0n));
    expect(peer.fds.length).toBe(1);
    const mapping = new PeerMapping(peer.fds.splice(0)[0]!, 0n, 0x2000n, { read: true, write: true });
    mapping.mapping.write(0x100, pattern(8));
    const read = await peer.request(Command.REGION_READ, words(0x100n, 3, 8));
    expect(read.payload.subarray(16)).toEqual(pattern(8));
    mapping.close();
  });

  test('of one with areas has them as a capability; where that has no room, the size it needs and no file', async () => {
    await serve(path('b'), {}, new MappableDevice());
    const peer = await keeper('b');
    const short = await peer.request(Command.DEVICE_GET_REGION_INFO, regionInfo(32, 2));
    expect(short.payload).toEqual(words(32 + 16 + 32, 7, 2, 0, 0x8000n, 0n));
    expect(peer.fds.length).toBe(0);
    const whole = await peer.request(Command.DEVICE_GET_REGION_INFO, regionInfo(80, 2));
    expect(whole.payload.subarray(0, 32)).toEqual(words(80, 15, 2, 32, 0x8000n, 0n));
    // The head of the capability (id 1, version 1, no next), the number of areas, and the areas.
    expect(whole.payload.subarray(32)).toEqual(words(0x1_0001, 0, 2, 0, 0x1000n, 0x1000n, 0x4000n, 0x2000n));
    expect(peer.fds.length).toBe(1);
  });

  test('takes a request that is as long as the reply may be, and none that is longer', async () => {
    await serve(path('long'), {}, new MappableDevice());
    const peer = await keeper('long');
    const request = (bytes: number) => {
      const payload = new Uint8Array(bytes);
      payload.set(regionInfo(80, 2));
      return payload;
    };
    expect((await peer.request(Command.DEVICE_GET_REGION_INFO, request(80))).payload.length).toBe(80);
    expect(await peer.errno(Command.DEVICE_GET_REGION_INFO, request(81))).toBe(EINVAL);
  });

  test('is without a file for a client that takes no descriptors', async () => {
    await serve(path('c'), {}, new MappableDevice());
    const peer = await keeper('c', '{"capabilities":{"max_msg_fds":0}}');
    const { payload } = await peer.request(Command.DEVICE_GET_REGION_INFO, regionInfo(80, 3));
    expect(payload).toEqual(words(32, 3, 3, 0, 0x2000n, 0n));
    expect(peer.fds.length).toBe(0);
  });
});

describe('DEVICE_GET_REGION_IO_FDS', () => {
  const ask = (argsz: number, region = 0) => words(argsz, 0, region, 0);

  test('gives eventfds that ring; where its argsz has no room, the size it needs and none', async () => {
    const device = new MappableDevice();
    await serve(path('d'), {}, device);
    const peer = await keeper('d');
    const short = await peer.request(Command.DEVICE_GET_REGION_IO_FDS, ask(16 + 95));
    expect(short.payload).toEqual(words(16 + 96, 0, 0, 2));
    expect(peer.fds.length).toBe(0);
    const whole = await peer.request(Command.DEVICE_GET_REGION_IO_FDS, ask(16 + 96));
    expect(whole.payload).toEqual(
      Uint8Array.from([
        ...words(16 + 96, 0, 0, 2),
        ...words(0x40n, 4n, 0, 0, 0, 0, 0n, 0n),
        ...words(0x44n, 4n, 1, 0, 1, 0, 0n, 5n),
      ]),
    );
    expect(peer.fds.length).toBe(2);
    signalEventFd(peer.fds[1]!.fd);
    await until(() => device.rung.length === 1);
    expect(device.rung).toEqual([1]);
  });

  test('has none for a region without, and none for one that does not exist', async () => {
    await serve(path('e'), {}, new MappableDevice());
    const peer = await keeper('e');
    expect((await peer.request(Command.DEVICE_GET_REGION_IO_FDS, ask(64, 3))).payload).toEqual(words(16, 0, 3, 0));
    expect(await peer.errno(Command.DEVICE_GET_REGION_IO_FDS, ask(64, 9))).toBe(EINVAL);
    expect(await peer.errno(Command.DEVICE_GET_REGION_IO_FDS, ask(15))).toBe(EINVAL);
  });

  test('of more eventfds than the client takes is E2BIG', async () => {
    await serve(path('f'), {}, new MappableDevice());
    const peer = await keeper('f', '{}');
    expect(await peer.errno(Command.DEVICE_GET_REGION_IO_FDS, ask(4096))).toBe(E2BIG);
  });

  test('leaves no descriptor when the client has gone', async () => {
    const { server } = await serve(path('g'), {}, new MappableDevice());
    const fds = openFdCount();
    const peer = Peer.connect(path('g'));
    await peer.request(Command.VERSION, versionPayload(FDS));
    await peer.request(Command.DEVICE_GET_REGION_IO_FDS, ask(4096));
    expect(openFdCount()).toBe(fds + 4);
    peer.close();
    await until(() => !server.connected);
    expect(openFdCount()).toBe(fds);
  });
});

describe('REGION_WRITE_MULTI', () => {
  function multi(...writes: [offset: number, region: number, data: Uint8Array][]): Uint8Array {
    const entries = writes.map(([offset, region, data]) => {
      const padded = new Uint8Array(8);
      padded.set(data);
      return [...words(BigInt(offset), region, data.length), ...padded];
    });
    return Uint8Array.from([...words(BigInt(writes.length)), ...entries.flat()]);
  }

  test('writes in order, and counts', async () => {
    const { device } = await serve(path('h'));
    const peer = await greeted(path('h'), '{"capabilities":{"write_multiple":true}}');
    const writes = multi([0x100, 0, pattern(8)], [0x104, 0, Uint8Array.of(0)], [0x200, 0, pattern(2)]);
    expect((await peer.request(Command.REGION_WRITE_MULTI, writes)).payload).toEqual(words(3n));
    expect([...device.registers.subarray(0x100, 0x108)]).toEqual([1, 2, 3, 4, 0, 6, 7, 8]);
    expect((await peer.request(Command.REGION_WRITE_MULTI, multi())).payload).toEqual(words(0n));
    await peer.send(message(Command.REGION_WRITE_MULTI, multi([0x300, 0, pattern(1)]), { flags: NO_REPLY }));
    expect((await peer.request(Command.REGION_READ, words(0x300n, 0, 1))).payload.subarray(16)).toEqual(pattern(1));
  });

  test('stops at the first write that fails, and tells how many were done; when that is none, why', async () => {
    const { device } = await serve(path('i'), { onError: () => {} });
    const peer = await greeted(path('i'));
    const beyond = multi([0x100, 0, pattern(1)], [4093, 0, pattern(4)], [0x101, 0, pattern(1)]);
    expect((await peer.request(Command.REGION_WRITE_MULTI, beyond)).payload).toEqual(words(1n));
    expect([...device.registers.subarray(0x100, 0x102)]).toEqual([1, 0]);
    expect(await peer.errno(Command.REGION_WRITE_MULTI, multi([4093, 0, pattern(4)]))).toBe(EINVAL);
    const mistake = multi([0x100, 0, pattern(1)], [Stamp.BROKEN, 0, words(0)]);
    expect(await peer.errno(Command.REGION_WRITE_MULTI, mistake)).toBe(EIO);
  });

  test('that is not whole writes nothing', async () => {
    const { device } = await serve(path('j'));
    const peer = await greeted(path('j'));
    const whole = multi([0x100, 0, pattern(8)], [0x108, 0, pattern(8)]);
    for (let size = 0; size < whole.length; size++) {
      expect(await peer.errno(Command.REGION_WRITE_MULTI, whole.subarray(0, size))).toBe(EINVAL);
    }
    expect(device.registers[0x100]).toBe(0);
  });
});

describe('DMA_UNMAP that wants the dirty bitmap', () => {
  const map = (iova: bigint, length: bigint) => words(32, 3, 0n, iova, length);
  const unmap = (iova: bigint, length: bigint, pageSize = 4096n, bytes = 8n, argsz = 40 + Number(bytes), flags = 1) =>
    words(argsz, flags, iova, length, pageSize, bytes);

  test('gives the bits of the region that goes, and takes them out of the log', async () => {
    const { device } = await serve(path('k'), {}, new StampDevice({ busMaster: 'ignored' }));
    const peer = await greeted(path('k'));
    device.dma.log.start(4096n, 'everything');
    await peer.errno(Command.DMA_MAP, map(0x10000n, 0x10000n), [memoryFile(0x10000).fd]);
    await peer.errno(Command.DMA_MAP, map(0x20000n, 0x10000n), [memoryFile(0x10000).fd]);
    device.dma.write(0x13fff, new Uint8Array(2));
    device.dma.write(0x20000, new Uint8Array(1));
    const reply = await peer.request(Command.DMA_UNMAP, unmap(0x10000n, 0x10000n));
    expect(reply.payload).toEqual(Uint8Array.from([...unmap(0x10000n, 0x10000n), ...words(0b11000n)]));
    expect(device.dma.map.regions.map(region => region.iova)).toEqual([0x20000n]);
    const rest = new Uint32Array(2);
    device.dma.log.report(0x10000n, 0x20000n, 4096n, rest);
    expect([...rest]).toEqual([1 << 16, 0]);
  });

  test('waits for DMA that is in flight there, and has its bits', async () => {
    const { device } = await serve(path('l'), {}, new StampDevice({ busMaster: 'ignored' }));
    const peer = await greeted(path('l'));
    device.dma.log.start(4096n, 'everything');
    await peer.errno(Command.DMA_MAP, map(0x10000n, 0x1000n));
    await peer.errno(Command.DMA_MAP, map(0x11000n, 0x1000n));
    // One DMA over both regions: it has come to the second one when the first goes.
    const writing = device.dma.write(0x10ff0, new Uint8Array(32));
    const first = await peer.reply();
    await peer.send(message(first.command, new Uint8Array(0), { id: first.id, flags: REPLY }));
    const second = await peer.reply();
    await peer.send(message(Command.DMA_UNMAP, unmap(0x10000n, 0x1000n), { id: 77 }));
    await peer.send(message(second.command, new Uint8Array(0), { id: second.id, flags: REPLY }));
    const reply = await peer.reply();
    expect(reply).toMatchObject({ id: 77, flags: REPLY });
    expect(reply.payload.subarray(40)).toEqual(words(1n));
    await writing;
  });

  test('that is refused unmaps nothing', async () => {
    const { device } = await serve(path('m'), { maxDataTransfer: 4096 }, new StampDevice({ busMaster: 'ignored' }));
    const peer = await greeted(path('m'));
    await peer.errno(Command.DMA_MAP, map(0x10000n, 0x10000n), [memoryFile(0x10000).fd]);
    await peer.errno(Command.DMA_MAP, map(2n ** 64n - 0x1000n, 0x1000n));
    expect(await peer.errno(Command.DMA_UNMAP, unmap(0x10000n, 0x10000n))).toBe(EINVAL); // nothing is logged
    device.dma.log.start(4096n, 'everything');
    device.dma.write(0x10000, new Uint8Array(1));
    for (const [request, errno] of [
      [unmap(0x10000n, 0x10000n, 3n), EINVAL],
      [unmap(0x10000n, 0x10000n, 0n), EINVAL],
      [unmap(0x10000n, 0x10000n, 4096n, 0n), EINVAL],
      [unmap(0x10000n, 0x10000n, 4096n, 8n, 47), EINVAL],
      [unmap(0x10000n, 0x10000n, 4096n, 8192n), EINVAL],
      [unmap(0x10000n, 0x10000n, 4096n, 2n ** 63n, 0xffff_ffff), EINVAL],
      [unmap(0x10000n, 0x8000n), EINVAL],
      [unmap(0x40000n, 0x1000n), EINVAL],
      [unmap(0n, 0n, 4096n, 8n, 48, 3), EINVAL],
      [unmap(2n ** 64n - 0x1000n, 0x1000n), EOVERFLOW],
    ] as const) {
      expect(await peer.errno(Command.DMA_UNMAP, request)).toBe(errno);
    }
    expect(device.dma.map.statistics.regions).toBe(2);
    expect((await peer.request(Command.DMA_UNMAP, unmap(0x10000n, 0x10000n))).payload.subarray(40)).toEqual(words(1n));
  });
});

test('MIG_DATA_READ is padded to what was asked for, and its size tells what is data', async () => {
  await serve(path('n'));
  const peer = await greeted(path('n'));
  await peer.errno(Command.DEVICE_FEATURE, words(16, 0x20002, 3, 0xffff_ffff));
  const [first, second, end] = [
    await peer.request(Command.MIG_DATA_READ, words(8 + 100_000, 100_000)),
    await peer.request(Command.MIG_DATA_READ, words(8 + 100_000, 100_000)),
    await peer.request(Command.MIG_DATA_READ, words(8 + 100, 100)),
  ];
  expect([first, second].map(reply => reply!.payload.length)).toEqual([100_008, 100_008]);
  expect(viewOf(first!.payload).getUint32(4, true)).toBe(16);
  expect(viewOf(second!.payload).getUint32(4, true)).toBeGreaterThan(4000);
  expect(viewOf(second!.payload).getUint32(4, true)).toBeLessThan(100_000);
  expect(end!.payload).toEqual(Uint8Array.from([...words(108, 0), ...new Uint8Array(100)]));
});

test('every new message may be split at every offset', async () => {
  const device = new MappableDevice();
  device.dma.busMaster = true;
  const { server } = await serve(path('o'), {}, device);
  const file = memoryFile(0x10000);
  const conversation: [number, Uint8Array, number[]?][] = [
    [Command.VERSION, versionPayload('{"capabilities":{"max_msg_fds":16,"dmalog":{"version":1}}}')],
    [Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n), [file.fd]],
    [Command.DEVICE_FEATURE, words(24, 0x20006, 4096n, 0, 0)],
    [Command.DEVICE_GET_REGION_INFO, regionInfo(80, 2)],
    [Command.DEVICE_GET_REGION_IO_FDS, words(4096, 0, 0, 0)],
    [Command.REGION_WRITE, Uint8Array.from([...words(4n, 7, 2), 6, 0])],
    [Command.REGION_WRITE, Uint8Array.from([...words(0n, 0, 16), ...stampSettings(0x13000n, 64, 7)])],
    [Command.REGION_WRITE_MULTI, words(2n, 0x100n, 0, 4, 1n, BigInt(Stamp.DOORBELL), 0, 4, 1n)],
    [0xd001, words(24, 0, 0n, 4096n), [file.fd]],
    [0xd003, words(1, 0, 8n, 0x10000n, 0x10000n, 4096n)],
    [0xd004, new Uint8Array(0)],
    [0xd002, words(1)],
    [Command.REGION_WRITE, Uint8Array.from([...words(BigInt(Stamp.DOORBELL), 0, 4), 1, 0, 0, 0])],
    [Command.DMA_UNMAP, words(48, 1, 0x10000n, 0x10000n, 4096n, 8n)],
    [Command.DEVICE_FEATURE, words(8, 0x20007)],
  ];
  const longest = Math.max(...conversation.map(([, payload]) => 16 + payload.length));
  const fds = openFdCount();
  for (let at = 1; at < longest; at++) {
    const peer = Peer.connect(path('o'));
    for (const [index, [command, payload, files]] of conversation.entries()) {
      await peer.sendSplit(message(command, payload, { id: index }), at, files);
      const reply = await peer.reply();
      expect(reply).toMatchObject({ id: index, command, flags: REPLY, errno: 0 });
      if (command === Command.DMA_UNMAP) expect(reply.payload.subarray(40)).toEqual(words(1n << 3n));
    }
    peer.close();
    await until(() => !server.connected);
  }
  expect(openFdCount()).toBe(fds);
});
