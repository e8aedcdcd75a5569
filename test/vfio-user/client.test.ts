import { describe, expect, onTestFinished, test } from 'vitest';
import { createEventFd, listen, type OwnedFd, openFdCount, readEventFd } from '../../src/native/index.js';
import { ERRNO, type VfioError } from '../../src/uapi/index.js';
import { type ClientOptions, Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { encodeReply } from '../../src/vfio-user/wire/header.js';
import { MessageStream } from '../../src/vfio-user/wire/message-stream.js';
import { expectNoFdLeak, pattern, temporaryFolder } from '../native/helpers.js';
import { ERROR_REPLY, message, Peer, REPLY, turn, until, versionPayload, words } from './peer.js';
import { rawServer } from './raw-server.js';
import { memoryFile, rejection, serve } from './served.js';
import { Stamp } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

const connected = (name: string, options: ClientOptions = {}, json = '{}') => rawServer(path(name), options, json);

/** A client of a real server. */
async function clientOf(name: string, options: ClientOptions = {}) {
  const served = await serve(path(name));
  const client = await VfioUserClient.connect(path(name), options);
  onTestFinished(() => client.close());
  return { ...served, client };
}

describe('connecting', () => {
  test('to nobody is ENOENT', async () => {
    expect(await rejection(VfioUserClient.connect(path('none')))).toBe('ENOENT');
  });

  test.each([
    [
      'an error',
      message(Command.VERSION, new Uint8Array(0), { id: 0, flags: ERROR_REPLY, errno: ERRNO.EINVAL }),
      'EINVAL',
    ],
    ['another major', message(1, versionPayload('{}', 1), { id: 0, flags: REPLY }), 'EPROTO'],
    ['a minor that was not proposed', message(1, versionPayload('{}', 0, 9), { id: 0, flags: REPLY }), 'EPROTO'],
    ['JSON that is none', message(1, versionPayload('{'), { id: 0, flags: REPLY }), 'EPROTO'],
    [
      'that it takes no data at all',
      message(1, versionPayload('{"capabilities":{"max_data_xfer_size":0}}'), { id: 0, flags: REPLY }),
      'EPROTO',
    ],
    ['a short answer', message(1, words(), { id: 0, flags: REPLY }), 'EPROTO'],
    ['another command', message(2, versionPayload('{}'), { id: 0, flags: REPLY }), 'ECONNRESET'],
    ['another message', message(1, versionPayload('{}'), { id: 1, flags: REPLY }), 'ECONNRESET'],
    ['a type that does not exist', message(1, versionPayload('{}'), { id: 0, flags: 3 }), 'ECONNRESET'],
    ['a size below 16', message(1, versionPayload('{}'), { id: 0, flags: REPLY, size: 3 }), 'ECONNRESET'],
    [
      'a size beyond all limits',
      message(1, new Uint8Array(0), { id: 0, flags: REPLY, size: 2 ** 32 - 1 }),
      'ECONNRESET',
    ],
  ])('to a server that answers %s fails, and leaves nothing', async (_name, answer, errno) => {
    const listener = listen(path('a'));
    const fds = openFdCount();
    const connecting = rejection(VfioUserClient.connect(path('a')));
    const server = await Peer.accept(listener);
    await server.reply();
    await server.send(answer);
    expect(await connecting).toBe(errno);
    expect(await server.closed()).toBe(true);
    server.close();
    expect(openFdCount()).toBe(fds);
    listener.close();
  });

  test('to a server that keeps silent is ETIMEDOUT', async () => {
    const listener = listen(path('b'));
    expect(await rejection(VfioUserClient.connect(path('b'), { timeoutMs: 20 }))).toBe('ETIMEDOUT');
    listener.close();
  });
});

describe('requests', () => {
  test('may be made without waiting, and get their own replies in whatever order those come', async () => {
    const { client, server } = await connected('c');
    const reads = Array.from({ length: 200 }, (_, index) => client.regionRead(0, index, 4));
    const received = [];
    for (let index = 0; index < reads.length; index++) received.push(await server.reply());
    for (const { id, payload } of received.reverse()) {
      const bytes = Uint8Array.from([...payload, ...payload.subarray(0, 4)]);
      await server.send(message(Command.REGION_READ, bytes, { id, flags: REPLY }));
    }
    for (const [index, read] of reads.entries()) expect(await read).toEqual(words(index));
  });

  test('never share a message id, however many have been made', async () => {
    const { client } = await clientOf('d');
    const all = await Promise.allSettled(Array.from({ length: 65_540 }, () => client.regionRead(0, 0, 4)));
    const refused = all.filter(result => result.status === 'rejected');
    expect(refused.map(({ reason }) => (reason as VfioError).errno)).toEqual(Array(4).fill('ENOBUFS'));
    await Promise.all(Array.from({ length: 1000 }, () => client.regionRead(0, 0, 4)));
    expect(client.closed).toBe(false);
  });

  test('take no message id that still waits, also after all have been used', async () => {
    const listener = listen(path('A'));
    const connecting = VfioUserClient.connect(path('A'));
    let socket: OwnedFd | 'again' = 'again';
    while (socket === 'again') socket = listener.accept();
    const used = new Set<number>();
    const server = new MessageStream(socket, 4096, 1, {
      frame: ({ header, payload }) => {
        if (header.command === Command.VERSION) server.send(encodeReply(header, versionPayload('{}')));
        else if (header.command === Command.DEVICE_RESET) used.add(header.id);
        else {
          expect(used.has(header.id)).toBe(false);
          server.send(encodeReply(header, Uint8Array.from([...payload, ...words(header.id)])));
        }
      },
      broken: () => {},
      drained: () => {},
      closed: () => {},
    });
    const client = await connecting;
    const waiting = rejection(client.reset());
    for (let round = 0; round < 66; round++) {
      await Promise.all(Array.from({ length: 1000 }, () => client.regionRead(0, 0, 4)));
    }
    expect(used.size).toBe(1);
    await client.close();
    expect(await waiting).toBe('ECONNABORTED');
    server.destroy(undefined);
    listener.close();
  });

  test('that the device refuses throw its errno and name the operation', async () => {
    const { client } = await clientOf('e');
    await expect(client.regionRead(6, 0, 4)).rejects.toMatchObject({ errno: 'EINVAL', operation: 'REGION_READ' });
    await expect(client.features.stopLogging()).rejects.toMatchObject({
      errno: 'EINVAL',
      operation: 'DMA_LOGGING_STOP',
    });
    expect(client.closed).toBe(false);
  });

  test.each([
    [ERRNO.ENOTTY, 'ENOTTY', new Uint8Array(0)],
    [0, 'EIO', new Uint8Array(0)],
    [9999, 'EIO', new Uint8Array(0)],
    [ERRNO.EINVAL, 'EINVAL', pattern(64)],
  ])('answered with error %i throw %s, whatever payload comes along', async (errno, name, payload) => {
    const { client, server } = await connected('f');
    const calling = rejection(client.info());
    const { id, command } = await server.reply();
    await server.send(message(command, payload, { id, flags: ERROR_REPLY, errno }));
    expect(await calling).toBe(name);
    expect(client.closed).toBe(false);
  });

  test.each([
    ['info', (client: VfioUserClient) => client.info(), words(16, 3, 9)],
    ['getRegionInfo', (client: VfioUserClient) => client.getRegionInfo(0), words(32, 3, 0, 0, 2n ** 63n, 0n)],
    ['regionRead', (client: VfioUserClient) => client.regionRead(0, 0, 8), words(0n, 0, 4, 0)],
    ['regionRead', (client: VfioUserClient) => client.regionRead(0, 0, 8), words(0n, 0, 8, 0)],
    ['readMigrationData', (client: VfioUserClient) => client.readMigrationData(4), words(16, 8, 0, 0)],
    [
      'report',
      (client: VfioUserClient) =>
        client.features.report({ iova: 0n, length: 4096n, pageSize: 4096n }, new Uint32Array(2)),
      words(32, 0x10008, 0n, 4096n, 4096n),
    ],
  ])('%s with a reply that makes no sense is EPROTO', async (_name, call, payload) => {
    const { client, server } = await connected('g');
    const calling = rejection(call(client));
    const { id, command } = await server.reply();
    await server.send(message(command, payload, { id, flags: REPLY }));
    expect(await calling).toBe('EPROTO');
  });

  test('that wait too long are ETIMEDOUT, and the connection is given up', async () => {
    const { client, server } = await connected('h', { timeoutMs: 40 });
    const reasons: (VfioError | undefined)[] = [];
    client.onClose(reason => reasons.push(reason));
    const first = rejection(client.info());
    const second = rejection(client.info());
    expect(await first).toBe('ETIMEDOUT');
    expect(await second).toBe('ECONNRESET');
    expect(await rejection(client.info())).toBe('ECONNRESET');
    expect(reasons).toMatchObject([{ errno: 'ETIMEDOUT', operation: 'DEVICE_GET_INFO' }]);
    await server.reply();
    await server.reply();
    expect(await server.closed()).toBe(true);
  });

  test('that are answered in time are not late because of others', async () => {
    const { client, server } = await connected('i', { timeoutMs: 200 });
    for (let round = 0; round < 5; round++) {
      const calling = client.info();
      const { id, command } = await server.reply();
      await new Promise(resolve => setTimeout(resolve, 60));
      await server.send(message(command, words(16, 0, 0, 0), { id, flags: REPLY }));
      await calling;
    }
    expect(client.closed).toBe(false);
  });
});

test.each([Number.NaN, -1])('a timeout of %d is EINVAL', async timeoutMs => {
  expect(await rejection(VfioUserClient.connect(path('timeout'), { timeoutMs }))).toBe('EINVAL');
});

describe('the end of a connection', () => {
  test('by the server is ECONNRESET for every request, with its operation', async () => {
    const { client, server } = await connected('j');
    const reasons: (VfioError | undefined)[] = [];
    client.onClose(reason => reasons.push(reason));
    const calls = [client.info(), client.regionRead(0, 0, 4), client.features.stopLogging()];
    const results = Promise.allSettled(calls);
    server.close();
    const errors = (await results).map(result => (result as PromiseRejectedResult).reason as VfioError);
    expect(errors.map(error => error.errno)).toEqual(Array(3).fill('ECONNRESET'));
    expect(errors.map(error => error.operation)).toEqual(['DEVICE_GET_INFO', 'REGION_READ', 'DMA_LOGGING_STOP']);
    expect(client.closed).toBe(true);
    expect(await rejection(client.reset())).toBe('ECONNRESET');
    expect(reasons).toMatchObject([{ errno: 'ECONNRESET' }]);
  });

  test('by close() is ECONNABORTED, and tells no reason; a second close does nothing', async () => {
    const { client } = await connected('k');
    const reasons: (VfioError | undefined)[] = [];
    client.onClose(reason => reasons.push(reason));
    const calling = rejection(client.info());
    await client.close();
    await client.close();
    expect(await calling).toBe('ECONNABORTED');
    expect(await rejection(client.info())).toBe('ECONNABORTED');
    client.onClose(reason => reasons.push(reason));
    await turn();
    expect(reasons).toEqual([undefined, undefined]);
  });

  test('in the middle of a reply is ECONNRESET', async () => {
    const { client, server } = await connected('l');
    const calling = rejection(client.info());
    const { id, command } = await server.reply();
    await server.send(message(command, words(16, 3, 9, 5), { id, flags: REPLY }).subarray(0, 20));
    server.close();
    expect(await calling).toBe('ECONNRESET');
  });

  test('after the last reply does not lose that reply', async () => {
    const { client, server } = await connected('m');
    const calling = client.info();
    const { id, command } = await server.reply();
    await server.send(message(command, words(16, 3, 9, 5), { id, flags: REPLY }));
    server.close();
    expect(await calling).toEqual({ flags: 3, regions: 9, irqs: 5 });
  });
});

describe('descriptors', () => {
  test('stay the caller’s: they may be closed as soon as the call has returned its promise', async () => {
    const { client, device } = await clientOf('o');
    const memory = memoryFile(4096);
    const copy = memory.duplicate();
    const mapping = client.dmaMap({ iova: 0n, length: 4096n, readable: true, writable: true }, { fd: copy.fd });
    copy.close();
    await mapping;
    expect(device.dma.map.regions).toMatchObject([{ backing: { kind: 'mapped' } }]);
  });

  test('also when the socket is full and the message has to wait', async () => {
    const { client, server } = await connected('p');
    const fds = openFdCount();
    const writes = Array.from({ length: 40 }, () => rejection(client.regionWrite(0, 0, pattern(32 * 1024))));
    const memory = memoryFile(4096);
    const copy = memory.duplicate();
    const mapping = rejection(
      client.dmaMap({ iova: 0n, length: 4096n, readable: true, writable: true }, { fd: copy.fd }),
    );
    copy.close();
    // This test's file, and the duplicate that waits with its message.
    expect(openFdCount()).toBe(fds + 2);
    for (let index = 0; index < writes.length; index++) await server.reply();
    expect(await server.reply()).toMatchObject({ command: Command.DMA_MAP });
    await until(() => openFdCount() === fds + 1);
    await client.close();
    await Promise.all([...writes, mapping]);
  });

  test('that wait when the connection ends are closed', async () => {
    const { client } = await connected('q');
    const memory = memoryFile(4096);
    const fds = openFdCount();
    const writes = Array.from({ length: 40 }, () => rejection(client.regionWrite(0, 0, pattern(32 * 1024))));
    writes.push(
      rejection(client.dmaMap({ iova: 0n, length: 4096n, readable: true, writable: true }, { fd: memory.fd })),
    );
    await client.close();
    expect(await Promise.all(writes)).toEqual(Array(41).fill('ECONNABORTED'));
    expect(openFdCount()).toBe(fds - 1); // the client's socket
  });

  test('that are not open are EBADF, and the connection goes on', async () => {
    const { client } = await clientOf('r');
    expect(
      await rejection(client.dmaMap({ iova: 0n, length: 4096n, readable: true, writable: true }, { fd: 99_999 })),
    ).toBe('EBADF');
    expect((await client.info()).regions).toBe(9);
  });

  test('for more vectors than a message holds go in several', async () => {
    const listener = listen(path('s'));
    onTestFinished(() => listener.close());
    const { client, server } = await connected('t', {}, '{"capabilities":{"max_msg_fds":2}}');
    const files: OwnedFd[] = Array.from({ length: 5 }, () => createEventFd());
    const [a, b, c, d, e] = files.map(file => file.fd);
    const calling = client.setIrqTriggers(2, 10, [a, b, c, undefined, undefined, undefined, d, e]);
    const expected = [
      words(20, 36, 2, 10, 2),
      words(20, 36, 2, 12, 1),
      words(20, 36, 2, 13, 3),
      words(20, 36, 2, 16, 2),
    ];
    for (const payload of expected) {
      const { id, command, payload: sent } = await server.reply();
      expect(sent).toEqual(payload);
      await server.send(message(command, new Uint8Array(0), { id, flags: REPLY }));
    }
    await calling;
    for (const file of files) file.close();
  });
});

test('a reply’s bytes cannot be taken away with what shares their buffer: the next messages arrive', async () => {
  const { client, device } = await clientOf('A');
  device.registers.set(pattern(8));
  const bytes = await client.regionRead(0, 0, 8);
  try {
    structuredClone(bytes, { transfer: [bytes.buffer as ArrayBuffer] });
  } catch {
    // Newer versions of Node refuse; older ones copy.
  }
  expect(await client.regionRead(0, 0, 8)).toEqual(pattern(8));
  expect(bytes).toEqual(pattern(8));
});

describe('data beyond what one message holds', () => {
  test('is of a size that a message can name, or EINVAL', async () => {
    const { client } = await clientOf('B');
    for (const count of [Number.NaN, -1, 1.5, 2 ** 32, Number.POSITIVE_INFINITY]) {
      expect(await rejection(client.regionRead(0, 0, count))).toBe('EINVAL');
    }
  });

  test('is read and written in pieces', async () => {
    const { client, device } = await clientOf('u', { maxDataTransfer: 4096 });
    expect(client.limits.maxDataTransfer).toBe(4096);
    const bytes = pattern(4096 - 0x20);
    await client.regionWrite(0, 0x20, bytes);
    expect(device.registers.subarray(0x20)).toEqual(bytes);
    expect(await client.regionRead(0, 0x20, bytes.length)).toEqual(bytes);
    const { client: other, server } = await connected('v', { maxDataTransfer: 4096 });
    const reading = other.regionRead(3, 100, 10_000);
    for (const [offset, count] of [
      [100n, 4096],
      [4196n, 4096],
      [8292n, 1808],
    ] as const) {
      const { id, command, payload } = await server.reply();
      expect(payload).toEqual(words(offset, 3, count));
      const reply = Uint8Array.from([...payload, ...pattern(count, Number(offset))]);
      await server.send(message(command, reply, { id, flags: REPLY }));
    }
    expect(await reading).toEqual(pattern(10_000, 100));
  });

  test('a report of many pages is asked for piece by piece, and loses none', async () => {
    const { client, device } = await clientOf('w', { maxDataTransfer: 4096 });
    await client.features.startLogging(4096n, []);
    const pages = [0, 1, 32511, 32512, 32513, 99_999];
    for (const page of pages) device.dma.log.record(page * 4096, 1);
    const bitmap = new Uint32Array(2 * Math.ceil(100_000 / 64));
    await client.features.report({ iova: 0n, length: 100_000n * 4096n, pageSize: 4096n }, bitmap);
    const found = Array.from({ length: 100_000 }, (_, page) => page).filter(
      page => ((bitmap[page >>> 5]! >>> (page & 31)) & 1) === 1,
    );
    expect(found).toEqual(pages);
  });

  test('START with more ranges than a message holds is E2BIG', async () => {
    const { client } = await clientOf('x', { maxDataTransfer: 4096 });
    const ranges = Array.from({ length: 600 }, (_, index) => ({ iova: BigInt(index) << 20n, length: 4096n }));
    expect(await rejection(client.features.startLogging(4096n, ranges))).toBe('E2BIG');
    expect((await client.info()).irqs).toBe(5);
  });
});

test('interrupts are masked, unmasked, triggered and switched off by type', async () => {
  const { client, device } = await clientOf('y');
  const file = createEventFd();
  onTestFinished(() => file.close());
  await client.setIrqTriggers(0, 0, [file.fd]);
  await client.maskIrqs(0, 0, 1);
  device.interrupts.setIntxLevel(true);
  expect(readEventFd(file.fd)).toBe(0n);
  await client.unmaskIrqs(0, 0, 1);
  expect(readEventFd(file.fd)).toBe(1n);
  await client.triggerIrqs(0, 0, 1);
  expect(readEventFd(file.fd)).toBe(1n);
  await client.disableIrqs(0);
  await client.triggerIrqs(0, 0, 1);
  expect(readEventFd(file.fd)).toBe(0n);
  expect(await rejection(client.maskIrqs(2, 0, 1))).toBe('EINVAL');
});

test('a slow request holds up what was asked after it, and nothing is lost', async () => {
  const { client, device } = await clientOf('z');
  const slow = client.regionWrite(0, Stamp.SLOW, words(1));
  const after = Array.from({ length: 500 }, (_, index) => client.regionWrite(0, 0x100, words(index)));
  await until(() => device.held === 1);
  device.release();
  await Promise.all([slow, ...after]);
  expect(device.registers.subarray(0x100, 0x104)).toEqual(words(499));
});
