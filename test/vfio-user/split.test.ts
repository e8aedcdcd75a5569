import { describe, expect, onTestFinished, test } from 'vitest';
import { createEventFd, listen, openFdCount, readEventFd, socketPair } from '../../src/native/index.js';
import { ERRNO } from '../../src/uapi/index.js';
import { Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { encodeRegionInfo } from '../../src/vfio-user/wire/device-messages.js';
import { encodeRegionIoFds } from '../../src/vfio-user/wire/region-io-fds-messages.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { message, Peer, QEMU_PROPOSAL, REPLY, until, versionPayload, words } from './peer.js';
import { answer, rawServer } from './raw-server.js';
import { memoryFile, serve } from './served.js';
import { Stamp, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

function write(region: number, offset: number, data: Uint8Array): Uint8Array {
  return Uint8Array.from([...words(BigInt(offset), region, data.length), ...data]);
}

test('every message to a server may be split at every offset, its descriptors with the first byte', async () => {
  const { device, server } = await serve(path('a'));
  const memory = memoryFile(0x10000);
  const interrupt = createEventFd();
  onTestFinished(() => interrupt.close());
  const fds = openFdCount();
  const conversation: [number, Uint8Array, number[]?][] = [
    [Command.VERSION, versionPayload(QEMU_PROPOSAL)],
    [Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n), [memory.fd]],
    [Command.DEVICE_GET_INFO, words(16, 0, 0, 0)],
    [Command.DEVICE_GET_REGION_INFO, words(32, 0, 0, 0, 0n, 0n)],
    [Command.DEVICE_GET_IRQ_INFO, words(16, 0, 2, 0)],
    [Command.DEVICE_SET_IRQS, words(20, 36, 2, 0, 2), [interrupt.fd, interrupt.fd]],
    [Command.REGION_WRITE, write(7, 4, Uint8Array.of(6, 0))],
    [Command.DEVICE_FEATURE, words(40, 0x20006, 4096n, 1, 0, 0x10000n, 0x10000n)],
    [Command.REGION_WRITE, write(0, 0, stampSettings(0x13000n, 4096, 7))],
    [Command.REGION_WRITE, write(0, Stamp.DOORBELL, words(1))],
    [Command.DEVICE_FEATURE, words(40, 0x10008, 0x10000n, 0x10000n, 4096n)],
    [Command.DEVICE_FEATURE, words(8, 0x20007)],
    [Command.REGION_READ, words(0n, 0, 24)],
    [Command.DEVICE_FEATURE, words(16, 0x20002, 3, 0xffff_ffff)],
    [Command.MIG_DATA_READ, words(4104, 4096)],
    [Command.DEVICE_FEATURE, words(16, 0x20002, 1, 0xffff_ffff)],
    [Command.DEVICE_FEATURE, words(16, 0x20002, 4, 0xffff_ffff)],
    [Command.MIG_DATA_WRITE, words(12, 4, 0)],
    [Command.DEVICE_RESET, new Uint8Array(0)],
    [Command.DMA_UNMAP, words(24, 0, 0x10000n, 0x10000n)],
  ];
  const longest = Math.max(...conversation.map(([, payload]) => 16 + payload.length));
  for (let at = 1; at < longest; at++) {
    const peer = Peer.connect(path('a'));
    for (const [index, [command, payload, files]] of conversation.entries()) {
      await peer.sendSplit(message(command, payload, { id: index }), at, files);
      const reply = await peer.reply();
      expect(reply).toMatchObject({ id: index, command, flags: REPLY, errno: 0 });
      if (index === 10) expect(reply.payload.subarray(32)).toEqual(words(1n << 3n));
    }
    expect(readEventFd(interrupt.fd)).toBe(1n);
    peer.close();
    await until(() => !server.connected);
  }
  expect(device.dma.map.statistics.regions).toBe(0);
  expect(openFdCount()).toBe(fds);
});

describe('every reply to a client may be split at every offset', () => {
  const report = words(40, 0x10008, 0n, 0x40000n, 4096n, 5n);
  const calls: [string, Uint8Array, (client: VfioUserClient) => Promise<unknown>, unknown][] = [
    ['info', words(16, 3, 9, 5), client => client.info(), { flags: 3, regions: 9, irqs: 5 }],
    ['getRegionInfo', words(32, 3, 0, 0, 4096n, 0n), client => client.getRegionInfo(0), { flags: 3, size: 4096 }],
    ['getIrqInfo', words(16, 9, 2, 4), client => client.getIrqInfo(2), { flags: 9, count: 4 }],
    ['regionRead', words(8n, 0, 8, 1, 2), client => client.regionRead(0, 8, 8), words(1, 2)],
    ['regionWrite', words(8n, 0, 4), client => client.regionWrite(0, 8, words(1)), undefined],
    ['dmaUnmap', words(24, 0, 0n, 4096n), client => client.dmaUnmap(0n, 4096n), undefined],
    ['reset', new Uint8Array(0), client => client.reset(), undefined],
    ['readMigrationData', words(12, 4, 77), client => client.readMigrationData(100), words(77)],
    [
      'report',
      report,
      async client => {
        const bitmap = new Uint32Array(2);
        await client.features.report({ iova: 0n, length: 0x40000n, pageSize: 4096n }, bitmap);
        return bitmap;
      },
      Uint32Array.of(5, 0),
    ],
  ];

  const agreed = '{"capabilities":{"write_multiple":true,"dmalog":{"version":1}}}';
  const statistics =
    '{"dmaMap":{"regions":0,"refused":0},"log":{"active":false,"pageSize":0,"dirtyPages":0,"ranges":0},' +
    '"dma":{"reads":0,"writes":0,"bytesRead":0,"bytesWritten":0,"refused":0},"connections":1}';
  calls.push(
    [
      'regionWriteMulti',
      words(2n),
      client => client.regionWriteMulti([1, 2, 3].map(offset => ({ region: 0, offset, data: words(1) }))),
      2,
    ],
    [
      'dmaUnmapDirty',
      words(48, 1, 0n, 0x10000n, 4096n, 8n, 9n),
      async client => {
        const bitmap = new Uint32Array(2);
        await client.dmaUnmapDirty(0n, 0x10000n, 4096n, bitmap);
        return bitmap;
      },
      Uint32Array.of(9, 0),
    ],
    ['statistics', new TextEncoder().encode(statistics), client => client.statistics(), JSON.parse(statistics)],
  );

  test.each(calls)('%s', async (_name, payload, call, result) => {
    const listener = listen(path('b'));
    onTestFinished(() => listener.close());
    const connecting = VfioUserClient.connect(path('b'));
    const server = await Peer.accept(listener);
    const hello = await server.reply();
    await server.sendSplit(message(Command.VERSION, versionPayload(agreed), { id: hello.id, flags: REPLY }), 9);
    const client = await connecting;
    for (let at = 1; at < 16 + payload.length; at++) {
      const calling = call(client);
      const { id, command } = await server.reply();
      await server.sendSplit(message(command, payload, { id, flags: REPLY }), at);
      expect(await calling).toEqual(result);
    }
    await client.close();
    server.close();
  });

  test('VERSION', async () => {
    const listener = listen(path('c'));
    onTestFinished(() => listener.close());
    const payload = versionPayload('{"capabilities":{"max_msg_fds":3}}');
    for (let at = 1; at < 16 + payload.length; at++) {
      const connecting = VfioUserClient.connect(path('c'));
      const server = await Peer.accept(listener);
      const { id } = await server.reply();
      await server.sendSplit(message(Command.VERSION, payload, { id, flags: REPLY }), at);
      const client = await connecting;
      expect(client.limits.maxMessageFds).toBe(3);
      await client.close();
      server.close();
    }
  });

  test('with descriptors: those of a region’s areas, and of its accesses', async () => {
    const { client, server } = await rawServer(path('d'));
    const memory = memoryFile(0x8000);
    const event = createEventFd();
    onTestFinished(() => event.close());
    const layout = { offset: 0, areas: [{ offset: 0x1000, size: 0x1000 }] };
    const info = encodeRegionInfo(0, { flags: 3, size: 0x8000 }, layout, 4096).payload;
    const entry = { offset: 0, size: 4, fdIndex: 0, type: 0, flags: 0, match: 0n };
    const accesses = encodeRegionIoFds(0, [entry], 4096).payload;
    const fds = openFdCount();
    for (let at = 1; at < 16 + info.length; at++) {
      const mapping = client.mapRegion(0);
      const { id, command } = await server.reply();
      await server.sendSplit(message(command, info, { id, flags: REPLY }), at, [memory.fd]);
      const [area] = await mapping;
      area!.close();
    }
    for (let at = 1; at < 16 + accesses.length; at++) {
      const asking = client.getRegionIoFds(0);
      await answer(server, words(32, 3, 0, 0, 4096n, 0n));
      const { id, command } = await server.reply();
      await server.sendSplit(message(command, accesses, { id, flags: REPLY }), at, [event.fd]);
      const [found] = await asking;
      found!.file.close();
    }
    expect(openFdCount()).toBe(fds);
  });

  test('VERSION with a twin socket', async () => {
    const payload = versionPayload('{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}');
    for (let at = 1; at < 16 + payload.length; at++) {
      const listener = listen(path('e'));
      const connecting = VfioUserClient.connect(path('e'));
      const server = await Peer.accept(listener);
      const { id } = await server.reply();
      const [mine, theirs] = socketPair();
      const twin = new Peer(mine);
      await server.sendSplit(message(Command.VERSION, payload, { id, flags: REPLY }), at, [theirs.fd]);
      theirs.close();
      const client = await connecting;
      await twin.send(message(Command.DMA_READ, words(0n, 8n)));
      expect((await twin.reply()).errno).toBe(ERRNO.EFAULT);
      await client.close();
      for (const end of [twin, server, listener]) end.close();
    }
  });
});
