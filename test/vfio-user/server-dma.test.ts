import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { openFdCount } from '../../src/native/index.js';
import { ERRNO, type VfioError, viewOf } from '../../src/uapi/index.js';
import { Command, type ServerOptions } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, pattern, sameBytes, temporaryFolder } from '../native/helpers.js';
import { ERROR_REPLY, message, Peer, REPLY, type ReceivedMessage, turn, until, versionPayload, words } from './peer.js';
import { greeted, memoryFile, rejection, serve } from './served.js';
import { Stamp, StampDevice, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

/** A device that may do DMA, and its client, which has mapped 64 KiB at 0x10000 without a file. */
async function connected(
  name: string,
  options: Partial<ServerOptions> = {},
  json?: string,
): Promise<{ device: StampDevice; peer: Peer }> {
  const { device } = await serve(path(name), options, new StampDevice({ busMaster: 'ignored' }));
  const peer = await greeted(path(name), json);
  expect(await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n))).toBe(0);
  return { device, peer };
}

/** Answers one DMA_READ or DMA_WRITE out of `memory`, which begins at 0x10000. */
async function answer(peer: Peer, memory: Uint8Array): Promise<ReceivedMessage> {
  const request = await peer.reply();
  const start = Number(viewOf(request.payload).getBigUint64(0, true)) - 0x10000;
  const count = viewOf(request.payload).getUint32(8, true);
  const head = request.payload.subarray(0, 16);
  if (request.command === Command.DMA_WRITE) memory.set(request.payload.subarray(16), start);
  const data = request.command === Command.DMA_READ ? memory.subarray(start, start + count) : new Uint8Array(0);
  await peer.send(message(request.command, Buffer.concat([head, data]), { id: request.id, flags: REPLY }));
  return request;
}

function replyTo(
  { id, command }: ReceivedMessage,
  payload: Uint8Array = new Uint8Array(0),
  flags = REPLY,
  errno = 0,
): Uint8Array {
  return message(command, payload, { id, flags, errno });
}

function write(offset: number, data: Uint8Array): Uint8Array {
  return Uint8Array.from([...words(BigInt(offset), 0, data.length), ...data]);
}

function dirtyPages(device: StampDevice): number {
  const bitmap = new Uint32Array(2);
  device.dma.log.report(0x10000n, 0x10000n, 4096n, bitmap);
  return bitmap[0]!;
}

describe('DMA to a region without a file', () => {
  test('asks the client, and logs a write when the client has answered', async () => {
    const { device, peer } = await connected('a');
    device.dma.log.start(4096n, 'everything');
    const writing = device.dma.write(0x12345, pattern(100));
    const request = await peer.reply();
    expect(request).toMatchObject({ command: Command.DMA_WRITE, flags: 0 });
    expect(request.payload).toEqual(Uint8Array.from([...words(0x12345n, 100n), ...pattern(100)]));
    expect(dirtyPages(device)).toBe(0);
    await peer.send(replyTo(request, request.payload.subarray(0, 16)));
    await writing;
    expect(dirtyPages(device)).toBe(1 << 2);

    const into = new Uint8Array(100);
    const reading = device.dma.read(0x12345n, into);
    await answer(peer, pattern(0x10000));
    await reading;
    expect(into).toEqual(pattern(0x10000).subarray(0x2345, 0x2345 + 100));
    expect(device.dma.statistics).toEqual({ reads: 1, writes: 1, bytesRead: 100, bytesWritten: 100, refused: 0 });
  });

  test('is asked for too where the server is told to, although a file came along, which is closed', async () => {
    const { device } = await serve(
      path('told'),
      { reachByMessage: ({ iova }) => iova === 0x10000n },
      new StampDevice({ busMaster: 'ignored' }),
    );
    const peer = await greeted(path('told'));
    using file = memoryFile(0x20000);
    const before = openFdCount();
    expect(await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n), [file.fd])).toBe(0);
    expect(await peer.errno(Command.DMA_MAP, words(32, 3, 0x10000n, 0x20000n, 0x10000n), [file.fd])).toBe(0);
    expect(device.dma.map.regions.map(region => region.backing.kind)).toEqual(['message', 'mapped']);
    expect(openFdCount()).toBe(before);
    const writing = device.dma.write(0x10000, pattern(8));
    expect((await answer(peer, new Uint8Array(0x10000))).command).toBe(Command.DMA_WRITE);
    await writing;
    expect(device.dma.write(0x20000, pattern(8))).toBeUndefined();
  });

  test('takes replies to DMA_WRITE of 0, 4, 12 and 16 bytes, and no others', async () => {
    const { device, peer } = await connected('b');
    for (const size of [0, 4, 12, 16, 1, 8, 17]) {
      const writing = rejection(Promise.resolve(device.dma.write(0x10000, new Uint8Array(8))));
      const request = await peer.reply();
      const payload = Uint8Array.from([...request.payload.subarray(0, 16), 0]).subarray(0, size);
      await peer.send(replyTo(request, payload));
      expect(await writing).toBe([0, 4, 12, 16].includes(size) ? undefined : 'EIO');
    }
  });

  test('fails with EIO for a short reply, and with what the client says, and leaves the connection as it is', async () => {
    const { device, peer } = await connected('c');
    device.dma.log.start(4096n, 'everything');
    const into = new Uint8Array(8);
    const short = rejection(Promise.resolve(device.dma.read(0x10000, into)));
    const request = await peer.reply();
    await peer.send(replyTo(request, words(0x10000n, 4n, 7)));
    expect(await short).toBe('EIO');
    expect(into).toEqual(new Uint8Array(8));

    const refused = rejection(Promise.resolve(device.dma.write(0x11000, into)));
    await peer.send(replyTo(await peer.reply(), new Uint8Array(0), ERROR_REPLY, ERRNO.EACCES));
    expect(await refused).toBe('EACCES');
    // It may have been written in part.
    expect(dirtyPages(device)).toBe(1 << 1);
    expect(await peer.errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
  });

  test('is cut to what the client takes in a message', async () => {
    const { device, peer } = await connected('d', {}, '{"capabilities":{"max_data_xfer_size":1024}}');
    // What the client itself asks for, it has room for.
    const read = await peer.request(Command.REGION_READ, words(0n, 0, 4096));
    expect(read.payload.length).toBe(16 + 4096);
    const memory = new Uint8Array(0x10000);
    const writing = device.dma.write(0x10000, pattern(2500));
    const sizes: number[] = [];
    for (let piece = 0; piece < 3; piece++) sizes.push((await answer(peer, memory)).payload.length - 16);
    await writing;
    expect(sizes).toEqual([1024, 1024, 452]);
    expect(memory.subarray(0, 2500)).toEqual(pattern(2500));
    const into = new Uint8Array(2500);
    const reading = device.dma.read(0x10000, into);
    for (let piece = 0; piece < 3; piece++) await answer(peer, memory);
    await reading;
    expect(into).toEqual(pattern(2500));
  });

  test('any DMAs at once, answered in any order, move the bytes that a plain memory would have', async () => {
    const { device, peer } = await connected('e');
    const memory = new Uint8Array(0x10000);
    const expected = new Uint8Array(0x10000);
    const dmas = fc.array(fc.tuple(fc.boolean(), fc.nat(255), fc.integer({ min: 1, max: 200 }), fc.nat(7)), {
      minLength: 1,
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(dmas, fc.array(fc.nat(11)), async (list, order) => {
        // Each in a place of its own, so that their order does not matter.
        const pending = list.map(([writes, seed, length, late], index) => {
          const offset = index * 512 + late;
          const bytes = writes ? pattern(length, seed) : new Uint8Array(length);
          if (writes) expected.set(bytes, offset);
          return { done: device.dma[writes ? 'write' : 'read'](0x10000 + offset, bytes), writes, offset, bytes };
        });
        const requests: ReceivedMessage[] = [];
        for (const _ of list) requests.push(await peer.reply());
        for (const pick of [...order, ...list.map(() => 0)]) {
          const [request] = requests.splice(Math.min(pick, requests.length - 1), 1);
          if (request === undefined) break;
          const view = viewOf(request.payload);
          const start = Number(view.getBigUint64(0, true)) - 0x10000;
          const isWrite = request.command === Command.DMA_WRITE;
          if (isWrite) memory.set(request.payload.subarray(16), start);
          const data = isWrite ? [] : memory.subarray(start, start + view.getUint32(8, true));
          await peer.send(replyTo(request, Uint8Array.from([...request.payload.subarray(0, 16), ...data])));
        }
        for (const { done, writes, offset, bytes } of pending) {
          await done;
          if (!writes) expect(sameBytes(bytes, memory.subarray(offset, offset + bytes.length))).toBe(true);
        }
        expect(sameBytes(memory, expected)).toBe(true);
      }),
      { numRuns: 100 },
    );
  });

  test("has a time, after which it fails and its late reply is nobody else's", async () => {
    const { device, peer } = await connected('f', { dmaTimeoutMs: 30 });
    const into = new Uint8Array(4);
    const overdue = device.dma.read(0x10000, into);
    const first = await peer.reply();
    await expect(overdue).rejects.toMatchObject({ errno: 'ETIMEDOUT' });
    await peer.send(replyTo(first, words(0x10000n, 4n, 0xffff_ffff)));
    expect(await peer.errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
    expect(into).toEqual(new Uint8Array(4));
    const second = device.dma.read(0x10000, into);
    const request = await peer.reply();
    expect(request.id).not.toBe(first.id);
    await peer.send(replyTo(request, words(0x10000n, 4n, 5)));
    await second;
    expect(into).toEqual(words(5));
  });

  test('asks for nothing of a region any more once it is unmapped, also where pieces were still to come', async () => {
    const { device, peer } = await connected('unmapped', {}, '{"capabilities":{"max_data_xfer_size":4096}}');
    await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0x20000n, 0x10000n));
    device.dma.log.start(4096n, [{ iova: 0n, length: 0x100000n }]);
    await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0x30000n, 0x10000n));
    // What is still to come lies in the same region, then in the next one.
    for (const [start, unmapped] of [
      [0x1e000n, 0x10000n],
      [0x2f000n, 0x30000n],
    ] as const) {
      const dma = rejection(Promise.resolve(device.dma.write(start, new Uint8Array(0x2000))));
      const request = await peer.reply();
      const unmap = message(Command.DMA_UNMAP, words(24, 0, unmapped, 0x10000n), { id: 50 });
      await peer.send(Buffer.concat([replyTo(request, request.payload.slice(0, 16)), unmap]));
      expect(await peer.reply()).toMatchObject({ id: 50, flags: REPLY });
      expect((await peer.request(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).flags).toBe(REPLY);
      expect(await dma).toBe('ECANCELED');
    }
    // A part was written: all of it is logged.
    const bitmap = new Uint32Array(2);
    device.dma.log.report(0n, 0x40000n, 4096n, bitmap);
    expect(bitmap).toEqual(Uint32Array.of(0b11 << 30, 0b11 << 15));
  });

  test('fails when its region is unmapped, when the client leaves, and when the server is closed', async () => {
    const { device } = await serve(path('g'), {}, new StampDevice({ busMaster: 'ignored' }));
    device.dma.log.start(4096n, 'everything');
    const map = words(32, 3, 0n, 0x10000n, 0x10000n);
    const peer = Peer.connect(path('g'));
    await peer.greet();
    await peer.errno(Command.DMA_MAP, map);
    const unmapped = rejection(Promise.resolve(device.dma.write(0x10000, pattern(8))));
    const late = await peer.reply();
    await peer.request(Command.DMA_UNMAP, words(24, 2, 0n, 0n));
    expect(await unmapped).toBe('ECANCELED');
    expect(dirtyPages(device)).toBe(1);
    await peer.send(replyTo(late));

    await peer.errno(Command.DMA_MAP, map);
    const left = rejection(Promise.resolve(device.dma.read(0x10000, new Uint8Array(8))));
    await peer.reply();
    peer.close();
    expect(await left).toBe('ECONNRESET');
    expect(device.dma.busy).toBe(false);
  });

  test('of a device that waits for it while it serves a request ends with the client, and so does the session', async () => {
    const { device, server } = await serve(path('h'), {}, new StampDevice({ busMaster: 'ignored' }));
    const peer = Peer.connect(path('h'));
    await peer.greet();
    await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n));
    await peer.errno(Command.REGION_WRITE, write(0, stampSettings(0x10000n, 8, 1)));
    await peer.send(message(Command.REGION_WRITE, write(Stamp.DOORBELL, words(1))));
    await until(() => device.dma.busy);
    peer.close();
    await until(() => !server.connected);
    expect(device.events).toEqual(['disconnect']);
  });
});

describe('a reply to a DMA', () => {
  test('is taken while a command is served and hundreds wait in front of it, which are served after in order', async () => {
    const { device, peer } = await connected('i');
    const memory = new Uint8Array(0x10000);
    await peer.errno(Command.REGION_WRITE, write(0, stampSettings(0x10000n, 8, 9)));
    await peer.send(message(Command.REGION_WRITE, write(Stamp.DOORBELL, words(1)), { id: 1 }));
    for (let id = 2; id < 600; id++) {
      await peer.send(message(Command.REGION_WRITE, write(0x100, words(id)), { id }));
    }
    await until(() => device.dma.busy);
    await turn();
    await answer(peer, memory);
    for (let id = 1; id < 600; id++) expect(await peer.reply()).toMatchObject({ id, flags: REPLY });
    expect(memory.subarray(0, 9)).toEqual(Uint8Array.of(9, 9, 9, 9, 9, 9, 9, 9, 0));
    expect(viewOf(device.registers).getUint32(0x100, true)).toBe(599);
  });

  test('in front of which more waits than anybody may have waiting is the end of the connection, and of what came with it', async () => {
    const reasons: (VfioError | undefined)[] = [];
    const { device, peer } = await connected('j', { onDisconnect: reason => reasons.push(reason) });
    const fds = openFdCount();
    const file = memoryFile(4096);
    const dma = rejection(Promise.resolve(device.dma.read(0x10000, new Uint8Array(8))));
    await peer.send(message(Command.REGION_WRITE, write(Stamp.SLOW, words(1))));
    await until(() => device.held === 1);
    for (let count = 0; count < 260 && reasons.length === 0; count++) {
      await peer.send(message(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x1000n)), [file.fd]).catch(() => {});
      await turn();
      if (await Promise.race([dma, undefined])) break;
    }
    expect(await dma).toBe('ECONNRESET');
    device.release();
    await until(() => reasons.length === 1);
    expect(reasons).toMatchObject([{ errno: 'ENOBUFS' }]);
    expect(openFdCount()).toBe(fds); // one connection less, the memory file more
  });

  test('that answers nothing is the end of the connection, when what came before it is served', async () => {
    const { device, peer } = await connected('k');
    await peer.send(message(Command.REGION_WRITE, write(0x100, words(3)), { id: 5 }));
    await peer.send(message(Command.DMA_READ, words(0x10000n, 8n), { id: 99, flags: REPLY }));
    expect(await peer.reply()).toMatchObject({ id: 5, flags: REPLY });
    expect(await peer.closed()).toBe(true);
    expect(device.registers[0x100]).toBe(3);
  });

  test('of the wrong command answers nothing', async () => {
    const { device, peer } = await connected('l');
    const dma = rejection(Promise.resolve(device.dma.read(0x10000, new Uint8Array(8))));
    const request = await peer.reply();
    await peer.send(message(Command.DMA_WRITE, words(0x10000n, 8n), { id: request.id, flags: REPLY }));
    expect(await peer.closed()).toBe(true);
    expect(await dma).toBe('ECONNRESET');
  });

  test('may be split at every offset', async () => {
    const { device, peer } = await connected('m');
    for (let at = 1; at < 16 + 16 + 24; at++) {
      const into = new Uint8Array(24);
      const reading = device.dma.read(0x10100, into);
      const request = await peer.reply();
      await peer.sendSplit(replyTo(request, Uint8Array.from([...words(0x10100n, 24n), ...pattern(24, at)])), at);
      await reading;
      expect(into).toEqual(pattern(24, at));
    }
  });
});

test('a device that goes to STOP_COPY waits for its DMA, which is in the last report', async () => {
  const { device, peer } = await connected('n');
  device.dma.log.start(4096n, 'everything');
  const writing = device.dma.write(0x1f000, pattern(8));
  const request = await peer.reply();
  await peer.send(message(Command.DEVICE_FEATURE, words(16, 0x20002, 3, 0xffff_ffff), { id: 50 }));
  await turn();
  expect(device.migration?.state).toBe(2);
  await peer.send(replyTo(request));
  expect(await peer.reply()).toMatchObject({ id: 50, flags: REPLY });
  await writing;
  expect(device.migration?.state).toBe(3);
  expect(dirtyPages(device)).toBe(1 << 15);
  expect(() => device.dma.write(0x10000, pattern(8))).toThrow('EPERM');
  expect(device.dma.statistics.refused).toBe(1);
});

describe('a twin socket', () => {
  const TWIN = '{"capabilities":{"max_msg_fds":16,"twin_socket":{"supported":true}}}';

  async function withTwin(name: string): Promise<{ device: StampDevice; peer: Peer; twin: Peer }> {
    const { device } = await serve(path(name), {}, new StampDevice({ busMaster: 'ignored' }));
    const peer = Peer.connect(path(name));
    onTestFinished(() => peer.close());
    peer.keepFds = true;
    const greeting = await peer.request(Command.VERSION, versionPayload(TWIN));
    expect(new TextDecoder().decode(greeting.payload)).toContain('"twin_socket":{"supported":true,"fd_index":0}');
    const twin = new Peer(peer.fds.splice(0, 1)[0]!);
    onTestFinished(() => twin.close());
    await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n));
    return { device, peer, twin };
  }

  test('is where the DMA of a client goes that has proposed it', async () => {
    const { device, peer, twin } = await withTwin('o');
    const memory = new Uint8Array(0x10000);
    await peer.errno(Command.REGION_WRITE, write(0, stampSettings(0x10000n, 8, 4)));
    await peer.send(message(Command.REGION_WRITE, write(Stamp.DOORBELL, words(1))));
    expect((await answer(twin, memory)).command).toBe(Command.DMA_WRITE);
    expect(await peer.reply()).toMatchObject({ command: Command.REGION_WRITE, flags: REPLY });
    expect(memory[7]).toBe(4);
    expect(device.dma.busy).toBe(false);
  });

  test('that ends is the end of the client, of whom all is served that came whole', async () => {
    const { device, peer, twin } = await withTwin('p');
    const dma = rejection(Promise.resolve(device.dma.read(0x10000, new Uint8Array(8))));
    await twin.reply();
    for (let id = 0; id < 100; id++) await peer.send(message(Command.REGION_WRITE, write(0x100, words(id)), { id }));
    twin.close();
    expect(await dma).toBe('ECONNRESET');
    await until(() => device.events.includes('disconnect'));
    expect(device.registers[0x100]).toBe(99);
  });

  test('on which anything but a reply comes is the end of both, and so is a reply on the first socket', async () => {
    for (const strange of [
      message(Command.REGION_READ, words(0n, 0, 8)),
      message(11, words(0n, 8n), { flags: REPLY }),
    ]) {
      const { peer, twin } = await withTwin(`q${strange[2]}`);
      await twin.send(strange);
      expect(await peer.closed()).toBe(true);
      expect(await twin.closed()).toBe(true);
      peer.close();
      twin.close();
    }
    const { device, peer, twin } = await withTwin('r');
    void rejection(Promise.resolve(device.dma.read(0x10000, new Uint8Array(8))));
    await peer.send(replyTo(await twin.reply(), words(0x10000n, 8n, 0n)));
    expect(await peer.closed()).toBe(true);
    expect(await twin.closed()).toBe(true);
  });

  test('leaves no descriptor behind, whenever the client goes', async () => {
    await serve(path('s'), {}, new StampDevice());
    const fds = openFdCount();
    const greeting = message(Command.VERSION, versionPayload(TWIN));
    for (let at = 1; at <= greeting.length; at += 7) {
      const peer = Peer.connect(path('s'));
      await peer.send(greeting.subarray(0, at));
      await turn();
      peer.close();
      await until(() => openFdCount() === fds, 'the session is over');
    }
  });
});
