import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { createMemoryFile, listen, openFdCount, readAt } from '../../src/native/index.js';
import { ERRNO, viewOf } from '../../src/uapi/index.js';
import { Command, VfioUserClient, VfioUserServer } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, pattern, temporaryFolder } from '../native/helpers.js';
import { NO_REPLY, Peer, REPLY, until, words } from './peer.js';
import { answer, rawServer, refuse } from './raw-server.js';
import { mappedFiles, memoryFile, rejection, serve } from './served.js';
import { StampDevice } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

const both = { readable: true, writable: true };
const WRITE_MULTIPLE = '{"capabilities":{"write_multiple":true}}';
const DMALOG = '{"capabilities":{"dmalog":{"version":1}}}';

async function clientOf(name: string, device = new StampDevice({ busMaster: 'ignored' })) {
  const { server } = await serve(path(name), {}, device);
  const client = await VfioUserClient.connect(path(name));
  onTestFinished(() => client.close());
  return { device, client, server };
}

describe('several writes', () => {
  const writes = Array.from({ length: 250 }, (_, index) => ({ region: 0, offset: 8 * index, data: words(index) }));

  test('go in one message for every 200', async () => {
    const { client, server } = await rawServer(path('a'), {}, WRITE_MULTIPLE);
    const writing = client.regionWriteMulti(writes);
    for (const count of [200n, 50n]) {
      const { command, payload } = await answer(server, words(count));
      expect(command).toBe(Command.REGION_WRITE_MULTI);
      expect(viewOf(payload).getBigUint64(0, true)).toBe(count);
    }
    expect(await writing).toBe(250);
  });

  test('stop where the device refuses', async () => {
    const { client, server } = await rawServer(path('b'), {}, WRITE_MULTIPLE);
    const writing = client.regionWriteMulti(writes);
    await answer(server, words(7n));
    expect(await writing).toBe(7);
  });

  test('of which more are said to be done than were asked for are EPROTO', async () => {
    const { client, server } = await rawServer(path('c'), {}, WRITE_MULTIPLE);
    const writing = rejection(client.regionWriteMulti(writes.slice(0, 3)));
    await answer(server, words(4n));
    expect(await writing).toBe('EPROTO');
  });

  test('go one by one to a server that takes no others, and stop where that refuses', async () => {
    const { client, server } = await rawServer(path('d'));
    const writing = client.regionWriteMulti(writes.slice(0, 4));
    for (const offset of [0n, 8n]) {
      const { command } = await answer(server, words(offset, 0, 4));
      expect(command).toBe(Command.REGION_WRITE);
    }
    await refuse(server, ERRNO.EINVAL);
    expect(await writing).toBe(2);
  });

  test('of more than 8 bytes are EINVAL, whatever the server takes', async () => {
    for (const [name, json] of [
      ['e1', WRITE_MULTIPLE],
      ['e2', '{}'],
    ] as const) {
      const { client } = await rawServer(path(name), {}, json);
      expect(await rejection(client.regionWriteMulti([{ region: 0, offset: 0, data: new Uint8Array(9) }]))).toBe(
        'EINVAL',
      );
    }
  });

  test('reach a device of ours in their order', async () => {
    const { client, device } = await clientOf('f');
    const seen = writes.map(({ offset, data }) => ({ region: 0, offset: 0x100 + (offset % 64), data }));
    expect(await client.regionWriteMulti(seen)).toBe(250);
    expect(device.registers.subarray(0x108, 0x10c)).toEqual(words(249));
    const beyond = { region: 0, offset: 4096, data: words(1) };
    expect(await client.regionWriteMulti([seen[0]!, beyond, seen[1]!])).toBe(1);
  });
});

describe('a write without a reply', () => {
  test('says so, and waits for none', async () => {
    const { client, server } = await rawServer(path('g'));
    await client.regionPost(1, 16, words(5));
    const calling = client.reset();
    expect(await server.reply()).toMatchObject({
      command: Command.REGION_WRITE,
      flags: NO_REPLY,
      payload: words(16n, 1, 4, 5),
    });
    await answer(server);
    await calling;
  });

  test('comes before what is asked after it', async () => {
    const { client } = await clientOf('h');
    for (let index = 0; index < 1000; index++) await client.regionPost(0, 0x100, words(index));
    expect(await client.regionRead(0, 0x100, 4)).toEqual(words(999));
  });

  test('is sent also when the connection is closed right after it', async () => {
    const { client, server } = await rawServer(path('i'));
    await client.regionPost(1, 16, words(5));
    await client.close();
    expect(await server.reply()).toMatchObject({ command: Command.REGION_WRITE });
    expect(await server.closed()).toBe(true);
  });

  test('holds its sender up when the server takes no more, and no longer when the connection is over', async () => {
    const { client, server } = await rawServer(path('j'));
    let sent = 0;
    const sending = (async () => {
      for (; sent < 1000; sent++) await client.regionPost(0, 0, pattern(32 * 1024));
    })();
    await until(() => sent > 32);
    const before = sent;
    for (let index = 0; index < 4; index++) await server.reply();
    expect(sent).toBeLessThan(200);
    for (let index = 4; index < before; index++) await server.reply();
    await until(() => sent > before);
    await client.close();
    expect(await rejection(sending)).toBe('ECONNABORTED');
  });
});

test('requests of one turn leave in few pieces, in the order in which they were made, also around large ones', async () => {
  const { client, server } = await rawServer(path('k'));
  const memory = memoryFile(4096);
  const calls = [
    client.regionWrite(0, 0, pattern(20_000)),
    client.regionWrite(0, 1, pattern(20_000)),
    client.regionWrite(0, 2, pattern(32 * 1024)),
    client.dmaMap({ iova: 0n, length: 4096n, ...both }, { fd: memory.fd }),
    client.regionRead(0, 4, 4),
  ];
  const commands: number[] = [];
  for (let index = 0; index < calls.length; index++) {
    const { command, payload } = await answer(server, Uint8Array.from([...words(0n, 0, 4), ...pattern(4)]));
    commands.push(command);
    if (command === Command.REGION_WRITE) expect(viewOf(payload).getUint32(0, true)).toBe(index);
  }
  await Promise.all(calls);
  expect(commands).toEqual([10, 10, 10, 2, 9]);
});

describe('unmapping with the dirty bitmap', () => {
  const asked = { iova: 0x10000n, length: 0x10000n, pageSize: 4096n };

  async function unmap(client: VfioUserClient, bitmap: Uint32Array): Promise<void> {
    await client.dmaUnmapDirty(asked.iova, asked.length, asked.pageSize, bitmap);
  }

  test('asks for it, and ORs it in together with what arrived by messages', async () => {
    const { client, server } = await rawServer(path('l'));
    const bytes = { read: () => {}, write: () => {} };
    const mapping = client.dmaMap({ iova: 0x10000n, length: 0x10000n, ...both }, undefined, { bytes });
    await answer(server);
    await mapping;
    const starting = client.features.startLogging(4096n, []);
    await answer(server, words(24, 0x20006, 4096n, 0, 0));
    await starting;
    const bitmap = Uint32Array.of(1, 0);
    const unmapping = unmap(client, bitmap);
    const request = await server.reply();
    expect(request.payload).toEqual(words(48, 1, 0x10000n, 0x10000n, 4096n, 8n));
    await server.send(dmaWrite(0x13000n));
    await server.reply();
    await server.send(replyTo(request, words(48, 1, 0x10000n, 0x10000n, 4096n, 8n, 0x10n)));
    await unmapping;
    expect(bitmap).toEqual(Uint32Array.of(0x19, 0));
    await server.send(dmaWrite(0x13000n));
    expect(await server.reply()).toMatchObject({ errno: ERRNO.EFAULT });
  });

  test.each([
    ['is short', words(48, 1, 0x10000n, 0x10000n, 4096n, 8n)],
    ['has none', words(24, 1, 0x10000n, 0x10000n)],
    ['has one of other pages', words(48, 1, 0x10000n, 0x10000n, 8192n, 8n, 1n)],
  ])('with a reply that %s is EPROTO', async (_name, payload) => {
    const { client, server } = await rawServer(path('m'));
    const unmapping = rejection(unmap(client, new Uint32Array(2)));
    await answer(server, payload);
    expect(await unmapping).toBe('EPROTO');
  });

  test('into a bitmap that is too small is EINVAL, one too large for a message E2BIG', async () => {
    const { client } = await rawServer(path('n'), { maxDataTransfer: 4096 });
    expect(await rejection(unmap(client, new Uint32Array(1)))).toBe('EINVAL');
    const large = client.dmaUnmapDirty(0n, 2n ** 28n, 4096n, new Uint32Array(2048));
    expect(await rejection(large)).toBe('E2BIG');
  });

  test('at a device of ours gives what it wrote, and takes the memory away', async () => {
    const { client, device } = await clientOf('o');
    const memory = memoryFile(0x10000);
    await client.dmaMap({ iova: 0x10000n, length: 0x10000n, ...both }, { fd: memory.fd });
    const bitmap = new Uint32Array(2);
    expect(await rejection(unmap(client, bitmap))).toBe('EINVAL');
    expect(device.dma.map.statistics.regions).toBe(1);
    await client.features.startLogging(4096n, []);
    await device.dma.write(0x12000, pattern(8));
    await unmap(client, bitmap);
    expect(bitmap).toEqual(Uint32Array.of(4, 0));
    expect(device.dma.map.statistics.regions).toBe(0);
  });
});

function dmaWrite(iova: bigint): Uint8Array {
  const bytes = new Uint8Array(16 + 17);
  const view = viewOf(bytes);
  view.setUint16(2, Command.DMA_WRITE, true);
  view.setUint32(4, bytes.length, true);
  view.setBigUint64(16, iova, true);
  view.setBigUint64(24, 1n, true);
  return bytes;
}

function replyTo({ id, command }: { id: number; command: number }, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16 + payload.length);
  const view = viewOf(bytes);
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, bytes.length, true);
  view.setUint32(8, 1, true);
  bytes.set(payload, 16);
  return bytes;
}

describe('a shared bitmap', () => {
  const page = 4096n;

  test('gets the bits of several devices', async () => {
    const file = memoryFile(8192);
    const reported = wordsOf(file.fd);
    const sides = await Promise.all(['p1', 'p2'].map(name => clientOf(name)));
    for (const [index, { client, device }] of sides.entries()) {
      await client.features.startLogging(page, []);
      device.dma.log.record(4096 * (3 + index), 1);
      const bitmap = await client.attachBitmap(file.fd, { offset: 4096n, size: 4096n });
      await client.reportShared(bitmap, { offset: 8n, iova: 0n, length: 64n * page, pageSize: page });
      await client.reportShared(bitmap, { offset: 8n, iova: 0n, length: 64n * page, pageSize: page });
      await client.detachBitmap(bitmap);
    }
    expect(reported(4096 + 8)).toBe(0b11000);
    expect(reported(4096)).toBe(0);
  });

  test('gets what arrived by messages, too', async () => {
    const { client, device } = await clientOf('q');
    const bytes = { read: () => {}, write: () => {} };
    await client.dmaMap({ iova: 0n, length: 0x10000n, ...both }, undefined, { bytes });
    await client.features.startLogging(page, []);
    // Past the device's own log, as with a server that does not log what goes by messages.
    await device.dma.map.write(0x5000, pattern(8));
    const file = memoryFile(4096);
    const bitmap = await client.attachBitmap(file.fd, { size: 4096n });
    await client.reportShared(bitmap, { iova: 0n, length: 0x10000n, pageSize: page });
    expect(wordsOf(file.fd)(0)).toBe(0b100000);
    const bits = new Uint32Array(2);
    await client.features.report({ iova: 0n, length: 0x10000n, pageSize: page }, bits);
    expect(bits[0]).toBe(0);
    await client.detachBitmap(bitmap);
  });

  test('is let go of on both sides when it is detached, or refused, or the client leaves', async () => {
    const { client, server } = await clientOf('r');
    const file = memoryFile(4096);
    const fds = openFdCount();
    const maps = mappedFiles();
    const first = await client.attachBitmap(file.fd, { size: 4096n });
    expect(mappedFiles()).toBe(maps + 2);
    await client.detachBitmap(first);
    expect(mappedFiles()).toBe(maps);
    expect(await rejection(client.attachBitmap(file.fd, { size: 4100n }))).toBe('EINVAL');
    expect(await rejection(client.attachBitmap(file.fd, { size: 12n }))).toBe('EINVAL');
    expect(mappedFiles()).toBe(maps);
    const second = await client.attachBitmap(file.fd, { size: 4096n });
    const gone = { iova: 0n, length: page, pageSize: page };
    expect(await rejection(client.reportShared(first, gone))).toBe('EBADF');
    await client.close();
    await until(() => !server.connected);
    second.close();
    expect(mappedFiles()).toBe(maps);
    expect(openFdCount()).toBe(fds - 4); // both ends of both sockets
  });

  test.each([
    ['beyond its end', { offset: 4096n, iova: 0n, length: page, pageSize: page }],
    ['that is larger', { iova: 0n, length: 32_769n * page, pageSize: page }],
    ['at no multiple of 8', { offset: 4n, iova: 0n, length: page, pageSize: page }],
    ['of no pages', { iova: 0n, length: page, pageSize: 0n }],
  ])('takes no report %s', async (_name, report) => {
    const { client } = await clientOf('s');
    await client.features.startLogging(page, []);
    const bitmap = await client.attachBitmap(memoryFile(4096).fd, { size: 4096n });
    expect(await rejection(client.reportShared(bitmap, report))).toBe('EINVAL');
    await client.detachBitmap(bitmap);
  });

  test('that is detached while a report is on its way loses no page', async () => {
    const { client, server } = await rawServer(path('x'), {}, DMALOG);
    const bytes = { read: () => {}, write: () => {} };
    const calls = [
      client.dmaMap({ iova: 0n, length: 0x10000n, ...both }, undefined, { bytes }),
      client.features.startLogging(page, []),
    ];
    await answer(server);
    await answer(server, words(24, 0x20006, page, 0, 0));
    await Promise.all(calls);
    const attaching = client.attachBitmap(memoryFile(4096).fd, { size: 4096n });
    await answer(server, words(1));
    const bitmap = await attaching;
    expect((await server.request(Command.DMA_WRITE, Uint8Array.from([...words(0x1000n, 1n), 7]))).flags).toBe(REPLY);
    const asked = { iova: 0n, length: 0x10000n, pageSize: page };
    const reporting = rejection(client.reportShared(bitmap, asked));
    const detaching = client.detachBitmap(bitmap);
    await answer(server);
    await answer(server);
    expect([await reporting, await detaching]).toEqual(['EBADF', undefined]);
    const bits = new Uint32Array(2);
    const again = client.features.report(asked, bits);
    await answer(server, words(40, 0x10008, 0n, 0x10000n, page, 0n));
    await again;
    expect(bits[0]).toBe(0b10);
  });

  test('of another client is EINVAL: the same handle there names another', async () => {
    const [here, there] = [await clientOf('y'), await clientOf('z')];
    const bitmap = await there.client.attachBitmap(memoryFile(4096).fd, { size: 4096n });
    const report = { iova: 0n, length: page, pageSize: page };
    expect(await rejection(here.client.reportShared(bitmap, report))).toBe('EINVAL');
    await there.client.detachBitmap(bitmap);
  });

  test('of a file that may shrink is EINVAL, before the server is asked', async () => {
    const { client } = await clientOf('t');
    const fd = openSync(path('file'), 'w+');
    ftruncateSync(fd, 4096);
    expect(await rejection(client.attachBitmap(fd, { size: 4096n }))).toBe('EINVAL');
    closeSync(fd);
  });

  test('and statistics are EOPNOTSUPP at a server of another project, which is not asked', async () => {
    const { client } = await rawServer(path('u'));
    const file = createMemoryFile('test', 4096);
    expect(await rejection(client.attachBitmap(file.fd, { size: 4096n }))).toBe('EOPNOTSUPP');
    expect(await rejection(client.statistics())).toBe('EOPNOTSUPP');
    file.close();
  });

  test('with a handle that makes no sense is EPROTO, and let go of', async () => {
    const { client, server } = await rawServer(path('v'), {}, DMALOG);
    const file = memoryFile(4096);
    const maps = mappedFiles();
    const attaching = rejection(client.attachBitmap(file.fd, { size: 4096n }));
    await answer(server, words(1, 2));
    expect(await attaching).toBe('EPROTO');
    expect(mappedFiles()).toBe(maps);
  });
});

/** Reads words of a memory file. */
function wordsOf(fd: number): (offset: number) => number {
  return offset => {
    const bytes = new Uint8Array(4);
    readAt(fd, offset, bytes);
    return viewOf(bytes).getUint32(0, true);
  };
}

describe('statistics', () => {
  test('tell what the device did', async () => {
    const { client, device } = await clientOf('w');
    await client.dmaMap({ iova: 0n, length: 4096n, ...both }, { fd: memoryFile(4096).fd });
    await client.features.startLogging(4096n, []);
    await device.dma.write(0, pattern(100));
    expect(() => device.dma.write(0x10000, pattern(1))).toThrow();
    expect(await client.statistics()).toEqual({
      dmaMap: { regions: 1, refused: 1 },
      log: { active: true, pageSize: 4096, dirtyPages: 1, ranges: 1 },
      dma: { reads: 0, writes: 1, bytesRead: 0, bytesWritten: 100, refused: 0 },
      connections: 1,
    });
  });

  test('that make no sense are EPROTO', async () => {
    const { client, server } = await rawServer(path('x'), {}, DMALOG);
    const asking = rejection(client.statistics());
    await answer(server, words(1, 2));
    expect(await asking).toBe('EPROTO');
  });
});

describe('a tracker', () => {
  test('says so in its first message', async () => {
    const listener = listen(path('y'));
    const connecting = rejection(VfioUserClient.connect(path('y'), { role: 'tracker' }));
    const server = await Peer.accept(listener);
    const { payload } = await answer(server, words(0));
    expect(Buffer.from(payload).toString()).toContain('"dmalog":{"version":1,"role":"tracker"}');
    expect(await connecting).toBe('EOPNOTSUPP');
    expect(await server.closed()).toBe(true);
    server.close();
    listener.close();
  });

  test('looks on beside the VMM', async () => {
    const { client, device } = await clientOf('z');
    const tracker = await VfioUserClient.connect(path('z'), { role: 'tracker' });
    onTestFinished(() => tracker.close());
    await client.dmaMap({ iova: 0n, length: 4096n, ...both }, { fd: memoryFile(4096).fd });
    await tracker.features.startLogging(4096n, []);
    await device.dma.write(0, pattern(8));
    const bitmap = new Uint32Array(2);
    await tracker.features.report({ iova: 0n, length: 4096n, pageSize: 4096n }, bitmap);
    expect(bitmap[0]).toBe(1);
    expect((await tracker.statistics()).connections).toBe(2);
    expect(await rejection(tracker.dmaUnmapAll())).toBe('EPERM');
  });
});

test('an abstract name is refused unless it is asked for', async () => {
  const name = `@dmalog-test-${process.pid}`;
  expect(await rejection(VfioUserClient.connect(name))).toBe('EINVAL');
  expect(await rejection(VfioUserClient.connect(name, { abstract: true }))).toBe('ECONNREFUSED');
  const server = await VfioUserServer.listen(new StampDevice(), { path: name, abstract: true });
  const client = await VfioUserClient.connect(name, { abstract: true });
  expect((await client.info()).regions).toBe(9);
  await client.close();
  await server.close();
});
