import { describe, expect, onTestFinished, test } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { createEventFd, listen, openFdCount, socketPair } from '../../src/native/index.js';
import { ERRNO, VfioError } from '../../src/uapi/index.js';
import { type ByteAccess, type ClientOptions, Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, pattern, sameBytes, temporaryFolder } from '../native/helpers.js';
import { takeAllFds } from './all-fds.js';
import { ERROR_REPLY, message, NO_REPLY, Peer, REPLY, turn, until, versionPayload, words } from './peer.js';
import { answer, rawServer, rawTwinServer, refuse } from './raw-server.js';
import { rejection } from './served.js';

expectNoFdLeak();
const path = temporaryFolder();

const both = { readable: true, writable: true };

function guestMemory(size: number): GuestMemory {
  const memory = GuestMemory.create(size);
  onTestFinished(() => memory.close());
  return memory;
}

/** Maps a region by messages, and has the server agree. */
async function lend(
  client: VfioUserClient,
  server: Peer,
  iova: bigint,
  length: bigint,
  bytes: ByteAccess,
  rights = both,
  offset = 0,
): Promise<void> {
  const mapping = client.dmaMap({ iova, length, ...rights }, undefined, { bytes, offset });
  await answer(server);
  await mapping;
}

const read = (iova: bigint, count: number) => message(Command.DMA_READ, words(iova, BigInt(count)), { id: 0x700 });
const write = (iova: bigint, data: Uint8Array) =>
  message(Command.DMA_WRITE, Uint8Array.from([...words(iova, BigInt(data.length)), ...data]), { id: 0x701 });

describe('a server’s DMA', () => {
  test('reads and writes memory that was lent, and is told 16 bytes and the data', async () => {
    const { client, server } = await rawServer(path('a'));
    const memory = guestMemory(0x4000);
    memory.write(0x1ffc, pattern(16));
    await lend(client, server, 0x10_0000n, 0x2000n, memory, both, 0x1000);
    await server.send(read(0x10_0ffcn, 8));
    expect(await server.reply()).toEqual({
      id: 0x700,
      command: Command.DMA_READ,
      flags: REPLY,
      errno: 0,
      payload: Uint8Array.from([...words(0x10_0ffcn, 8n), ...pattern(8)]),
    });
    await server.send(write(0x10_1000n, pattern(100, 7)));
    expect(await server.reply()).toEqual({
      id: 0x701,
      command: Command.DMA_WRITE,
      flags: REPLY,
      errno: 0,
      payload: words(0x10_1000n, 100n),
    });
    const written = new Uint8Array(100);
    memory.read(0x2000, written);
    expect(written).toEqual(pattern(100, 7));
  });

  test('is served while the client waits for its own reply', async () => {
    const { client, server } = await rawServer(path('b'));
    const memory = guestMemory(0x1000);
    await lend(client, server, 0n, 0x1000n, memory);
    const writing = client.regionWrite(0, 0, words(1));
    const { id, command, payload } = await server.reply();
    for (let at = 0n; at < 32n; at += 8n) {
      await server.send(write(at, pattern(8, Number(at))));
      expect(await server.reply()).toMatchObject({ command: Command.DMA_WRITE, flags: REPLY });
    }
    await server.send(read(0n, 32));
    expect((await server.reply()).payload.subarray(16)).toEqual(pattern(32));
    await server.send(message(command, payload.subarray(0, 16), { id, flags: REPLY }));
    await writing;
  });

  test('may span regions that lie side by side, and is checked whole before a byte moves', async () => {
    const { client, server } = await rawServer(path('c'));
    const memory = guestMemory(0x3000);
    await lend(client, server, 0x1000n, 0x1000n, memory, both, 0x2000);
    await lend(client, server, 0x2000n, 0x1000n, memory, both, 0);
    await server.send(write(0x1ff0n, pattern(32)));
    expect((await server.reply()).flags).toBe(REPLY);
    await server.send(read(0x1ff0n, 32));
    expect((await server.reply()).payload.subarray(16)).toEqual(pattern(32));
    await server.send(write(0x2ff0n, pattern(32, 9)));
    expect(await server.reply()).toMatchObject({ flags: ERROR_REPLY, errno: ERRNO.EFAULT });
    await server.send(read(0x2ff0n, 16));
    expect((await server.reply()).payload.subarray(16)).toEqual(new Uint8Array(16));
  });

  test.each([
    ['memory that is not mapped is EFAULT', read(0x8000n, 8), ERRNO.EFAULT],
    ['memory of a file alone is EFAULT', read(0x4000n, 8), ERRNO.EFAULT],
    ['reading without the right is EFAULT', read(0x2000n, 8), ERRNO.EFAULT],
    ['writing without the right is EFAULT', write(0x1000n, pattern(8)), ERRNO.EFAULT],
    ['the end of all addresses is EFAULT', write(2n ** 64n - 8n, pattern(8)), ERRNO.EFAULT],
    ['beyond the end of all addresses is EFAULT', write(2n ** 64n - 8n, pattern(16)), ERRNO.EFAULT],
    ['more than is taken at once is EINVAL', read(0x1000n, 4097), ERRNO.EINVAL],
    ['a count beyond all numbers is EINVAL', message(Command.DMA_READ, words(0n, 2n ** 64n - 1n)), ERRNO.EINVAL],
    ['a short message is EINVAL', message(Command.DMA_READ, words(0n, 0)), ERRNO.EINVAL],
    ['data of another length is EINVAL', message(Command.DMA_WRITE, words(0x2000n, 8n, 0)), ERRNO.EINVAL],
    ['memory that fails is told as it fails', read(0x3000n, 8), ERRNO.ENXIO],
    ['memory that breaks is EIO', write(0x3000n, pattern(8)), ERRNO.EIO],
    ['what is no command of a server is EOPNOTSUPP', message(Command.DEVICE_RESET), ERRNO.EOPNOTSUPP],
    ['what does not exist is EOPNOTSUPP', message(999), ERRNO.EOPNOTSUPP],
  ])('%s', async (_name, command, errno) => {
    const { client, server } = await rawServer(path('d'), { maxDataTransfer: 4096 });
    const memory = guestMemory(0x1000);
    const broken: ByteAccess = {
      read: () => Promise.reject(new VfioError('ENXIO', { operation: 'test' })),
      write: () => {
        throw new TypeError('a mistake');
      },
    };
    await lend(client, server, 0x1000n, 0x1000n, memory, { readable: true, writable: false });
    await lend(client, server, 0x2000n, 0x1000n, memory, { readable: false, writable: true });
    await lend(client, server, 0x3000n, 0x1000n, broken);
    const mapping = client.dmaMap({ iova: 0x4000n, length: 0x1000n, ...both }, { fd: memory.fd });
    await answer(server);
    await mapping;
    await server.send(command);
    expect(await server.reply()).toMatchObject({ flags: ERROR_REPLY, errno, payload: new Uint8Array(0) });
    await server.send(read(0x1000n, 4096));
    expect((await server.reply()).flags).toBe(REPLY);
  });

  test('without a reply gets none, not even an error; descriptors that come along are closed', async () => {
    const { client, server } = await rawServer(path('e'));
    const memory = guestMemory(0x1000);
    await lend(client, server, 0n, 0x1000n, memory);
    const extra = createEventFd();
    onTestFinished(() => extra.close());
    const fds = openFdCount();
    const payload = Uint8Array.from([...words(0n, 8n), ...pattern(8)]);
    await server.send(message(Command.DMA_WRITE, payload, { flags: NO_REPLY }), [extra.fd]);
    await server.send(message(Command.DMA_READ, words(0x5000n, 8n), { flags: NO_REPLY }), [extra.fd]);
    await server.send(read(0n, 8), [extra.fd]);
    expect((await server.reply()).payload.subarray(16)).toEqual(pattern(8));
    expect(openFdCount()).toBe(fds);
  });

  test('to memory that takes its time is done in order', async () => {
    const { client, server } = await rawServer(path('f'));
    const bytes = new Uint8Array(64);
    const waiting: (() => void)[] = [];
    const slow: ByteAccess = {
      read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
      write: async (offset, from) => {
        await new Promise<void>(resolve => waiting.push(resolve));
        bytes.set(from, offset);
      },
    };
    await lend(client, server, 0n, 0x1000n, slow);
    await server.send(write(0n, pattern(8)));
    await server.send(read(0n, 8));
    await until(() => waiting.length === 1);
    for (const resolve of waiting) resolve();
    expect((await server.reply()).command).toBe(Command.DMA_WRITE);
    expect((await server.reply()).payload.subarray(16)).toEqual(pattern(8));
  });

  test('may arrive split at every offset', async () => {
    const { client, server } = await rawServer(path('g'));
    await lend(client, server, 0n, 0x1000n, guestMemory(0x1000));
    for (const command of [write(0x10n, pattern(24)), read(0x10n, 24)]) {
      for (let at = 1; at < command.length; at++) {
        await server.sendSplit(command, at);
        expect((await server.reply()).flags).toBe(REPLY);
      }
    }
  });
});

describe('memory is lent', () => {
  const region = { iova: 0x1000n, length: 0x1000n, ...both };

  test('before the server has agreed: its first DMA may be quicker than its reply', async () => {
    const { client, server } = await rawServer(path('h'));
    const mapping = client.dmaMap(region, undefined, { bytes: guestMemory(0x1000) });
    const { id, command } = await server.reply();
    await server.send(read(0x1000n, 8));
    expect((await server.reply()).flags).toBe(REPLY);
    await server.send(message(command, new Uint8Array(0), { id, flags: REPLY }));
    await mapping;
  });

  test('no longer when the server has refused', async () => {
    const { client, server } = await rawServer(path('i'));
    const mapping = rejection(client.dmaMap(region, undefined, { bytes: guestMemory(0x1000) }));
    await refuse(server, ERRNO.ENOSPC);
    expect(await mapping).toBe('ENOSPC');
    await server.send(read(0x1000n, 8));
    expect(await server.reply()).toMatchObject({ errno: ERRNO.EFAULT });
  });

  test('until the server has let go of it', async () => {
    const { client, server } = await rawServer(path('j'));
    await lend(client, server, 0x1000n, 0x1000n, guestMemory(0x1000));
    const unmapping = client.dmaUnmap(0x1000n, 0x1000n);
    const { id, command, payload } = await server.reply();
    await server.send(write(0x1000n, pattern(8)));
    expect((await server.reply()).flags).toBe(REPLY);
    await server.send(message(command, payload, { id, flags: REPLY }));
    await unmapping;
    await server.send(write(0x1000n, pattern(8)));
    expect(await server.reply()).toMatchObject({ errno: ERRNO.EFAULT });
  });

  test('on when the server keeps it', async () => {
    const { client, server } = await rawServer(path('k'));
    await lend(client, server, 0x1000n, 0x1000n, guestMemory(0x1000));
    const unmapping = rejection(client.dmaUnmap(0x1000n, 0x1000n));
    await refuse(server, ERRNO.EINVAL);
    expect(await unmapping).toBe('EINVAL');
    await server.send(read(0x1000n, 8));
    expect((await server.reply()).flags).toBe(REPLY);
  });

  test('anew without waiting for the unmap before', async () => {
    const { client, server } = await rawServer(path('l'));
    const second = guestMemory(0x1000);
    second.write(0, pattern(8));
    await lend(client, server, 0x1000n, 0x1000n, guestMemory(0x1000));
    const unmapping = client.dmaUnmap(0x1000n, 0x1000n);
    const mapping = client.dmaMap(region, undefined, { bytes: second });
    await answer(server, words(24, 0, 0x1000n, 0x1000n));
    await answer(server);
    await Promise.all([unmapping, mapping]);
    await server.send(read(0x1000n, 8));
    expect((await server.reply()).payload.subarray(16)).toEqual(pattern(8));
  });

  test('never to anything that is no memory: its owner is told, and the server is not asked', async () => {
    const { client, server } = await rawServer(path('x'));
    const bytes = { read: () => {}, write: () => {} };
    const wrong = [
      client.dmaMap(region, undefined, bytes as never),
      client.dmaMap(region, undefined, {} as never),
      client.dmaMap(region, undefined, { bytes, offset: -1 }),
      client.dmaMap(region, bytes as never),
      client.dmaMap(region, 3 as never),
      client.dmaMap({ ...region, iova: 0x1000 as never }),
      client.dmaUnmapDirty(0n, 0x1000n, 0n, new Uint32Array(2)),
    ];
    expect(await Promise.all(wrong.map(rejection))).toEqual(wrong.map(() => 'EINVAL'));
    await lend(client, server, 0x1000n, 0x1000n, guestMemory(0x1000));
  });

  test('in no two ways at one address', async () => {
    const { client, server } = await rawServer(path('m'));
    await lend(client, server, 0x1000n, 0x1000n, guestMemory(0x1000));
    expect(await rejection(client.dmaMap(region, undefined, { bytes: guestMemory(0x1000) }))).toBe('EEXIST');
  });

  test('no longer when everything is unmapped', async () => {
    const { client, server } = await rawServer(path('n'));
    await lend(client, server, 0x1000n, 0x1000n, guestMemory(0x1000));
    const unmapping = client.dmaUnmapAll();
    await answer(server, words(24, 2, 0n, 0n));
    await unmapping;
    await server.send(read(0x1000n, 8));
    expect(await server.reply()).toMatchObject({ errno: ERRNO.EFAULT });
  });
});

describe('a twin socket', () => {
  test('brings the server’s commands and takes the replies, while the first one is busy', async () => {
    const { client, server, twin } = await rawTwinServer(path('o'));
    await lend(client, server, 0n, 0x1000n, guestMemory(0x1000));
    const writing = client.regionWrite(0, 0, words(1));
    const { id, command, payload } = await server.reply();
    await twin.send(write(8n, pattern(8)));
    expect(await twin.reply()).toMatchObject({ id: 0x701, flags: REPLY, payload: words(8n, 8n) });
    await twin.send(read(8n, 8));
    expect((await twin.reply()).payload.subarray(16)).toEqual(pattern(8));
    await server.send(message(command, payload.subarray(0, 16), { id, flags: REPLY }));
    await writing;
  });

  test('that ends is the end of the connection', async () => {
    const { client, server, twin } = await rawTwinServer(path('p'));
    const calling = rejection(client.info());
    twin.close();
    expect(await calling).toBe('ECONNRESET');
    await server.reply();
    expect(await server.closed()).toBe(true);
  });

  test('ends with the connection', async () => {
    const { client, twin } = await rawTwinServer(path('q'));
    await client.close();
    expect(await twin.closed()).toBe(true);
  });

  test.each([
    ['a reply', message(Command.DMA_READ, words(), { flags: REPLY })],
    ['a size below 16', message(Command.DMA_READ, words(), { size: 3 })],
    ['a size beyond all limits', message(Command.DMA_READ, words(), { size: 2 ** 31 })],
  ])('that brings %s is the end of the connection', async (_name, bytes) => {
    const { client, twin } = await rawTwinServer(path('r'));
    const reasons: (string | undefined)[] = [];
    client.onClose(reason => reasons.push(reason?.errno));
    await twin.send(bytes);
    expect(await twin.closed()).toBe(true);
    await until(() => reasons.length > 0);
    expect(reasons).toEqual(['EPROTO']);
  });

  test('whose replies are not read is not read either, and loses nothing', async () => {
    const { client, server, twin } = await rawTwinServer(path('s'));
    const memory = guestMemory(0x10000);
    memory.write(0, pattern(0x10000));
    await lend(client, server, 0n, 0x10000n, memory);
    const command = read(0n, 0x10000);
    let sent = 0;
    while (sent < 100_000 && twin.trySend(command)) {
      sent++;
      await turn();
    }
    expect(sent).toBeLessThan(100_000);
    expect(client.closed).toBe(false);
    for (let count = 0; count < sent; count++) {
      const reply = await twin.reply();
      if (!sameBytes(reply.payload.subarray(16), pattern(0x10000))) throw new Error(`reply ${count} differs`);
    }
    const calling = client.reset();
    await answer(server);
    await calling;
  });

  test.each([
    ['without its descriptor', '{"capabilities":{"twin_socket":{"supported":true}}}', true],
    ['with a descriptor that did not come', '{"capabilities":{"twin_socket":{"supported":true,"fd_index":1}}}', true],
    ['that nobody asked for', '{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}', false],
  ])('%s is EPROTO, and leaves nothing', async (_name, json, twinSocket) => {
    const [mine, theirs] = socketPair();
    onTestFinished(() => mine.close());
    expect(await rejection(rawServer(path('t'), { twinSocket }, json, [theirs]))).toBe('EPROTO');
  });

  test('for whose descriptor this process has no room is EMFILE', async () => {
    const json = '{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}';
    const twin = socketPair();
    const listener = listen(path('y'));
    const connecting = rejection(VfioUserClient.connect(path('y')));
    const server = await Peer.accept(listener);
    const { id } = await server.reply();
    const giveBack = takeAllFds();
    try {
      await server.send(message(Command.VERSION, versionPayload(json), { id, flags: REPLY }), [twin[1].fd]);
      expect(await connecting).toBe('EMFILE');
    } finally {
      giveBack();
      for (const end of [server, listener, ...twin]) end.close();
    }
  });

  test('that is no socket is refused, and leaves nothing', async () => {
    const json = '{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}';
    const memory = guestMemory(4096);
    expect(await rejection(rawServer(path('u'), {}, json, [memory.duplicateFd()]))).toBe('EPERM');
  });

  test('is not asked for by a tracker, nor where it is not wanted', async () => {
    for (const options of [{ role: 'tracker' as const }, { twinSocket: false }]) {
      const { server, client } = await greeting(path('v'), options);
      expect(server).not.toContain('twin_socket');
      await client;
    }
  });
});

/** What a client says first. */
async function greeting(name: string, options: ClientOptions): Promise<{ server: string; client: Promise<unknown> }> {
  const listener = listen(name);
  const client = rejection(VfioUserClient.connect(name, options));
  const server = await Peer.accept(listener);
  const { payload } = await server.reply();
  server.close();
  listener.close();
  return { server: Buffer.from(payload).toString(), client };
}

test('a server that asks without end and reads no answer is given up, before its answers fill the memory', async () => {
  const { client, server } = await rawServer(path('w'));
  const reasons: (string | undefined)[] = [];
  client.onClose(reason => reasons.push(reason?.errno));
  const command = message(Command.DMA_READ, words(0n, 8n));
  for (let sent = 0; reasons.length === 0 && sent < 1_000_000; sent++) {
    if (!server.trySend(command)) await turn();
  }
  expect(reasons).toEqual(['EPROTO']);
});
