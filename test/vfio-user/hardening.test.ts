import { ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { listen, OwnedFd, openFdCount } from '../../src/native/index.js';
import { MigrationState } from '../../src/uapi/index.js';
import { Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { message, Peer, QEMU_PROPOSAL, turn, until, versionPayload, words } from './peer.js';
import { greeted, mappedFiles, memoryFile, rejection, serve } from './served.js';
import { Stamp, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();
const GIGABYTE = 2 ** 30;

/** A file that its owner may shrink, gone after the test. */
function shrinkableFile(size: number): OwnedFd {
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-shrink-'));
  const file = new OwnedFd(openSync(join(folder, 'memory'), 'w+'));
  ftruncateSync(file.fd, size);
  onTestFinished(() => {
    file.close();
    rmSync(folder, { recursive: true });
  });
  return file;
}

describe('a client that shrinks its memory file', () => {
  test('fails the reads of the lost part, and harms nothing else', async () => {
    const { device } = await serve(path('shrink'));
    const client = await VfioUserClient.connect(path('shrink'));
    onTestFinished(() => client.close());
    const file = shrinkableFile(0x4000);
    await client.dmaMap({ iova: 0n, length: 0x4000n, readable: true, writable: true }, { fd: file.fd });
    await client.regionWrite(7, 4, Uint8Array.of(6, 0));
    await client.features.startLogging(4096n, [{ iova: 0n, length: 0x4000n }]);
    ftruncateSync(file.fd, 0x1000);
    expect(await rejection(Promise.resolve().then(() => device.dma.read(0x1000, new Uint8Array(8))))).toBe('EIO');
    await device.dma.read(0, new Uint8Array(0x1000));
    await device.dma.write(0xff0, new Uint8Array(16));
    const bitmap = new Uint32Array(2);
    await client.features.report({ iova: 0n, length: 0x4000n, pageSize: 4096n }, bitmap);
    expect(bitmap[0]).toBe(1);
  });

  test('before it is mapped is refused, and nothing of it is kept', async () => {
    await serve(path('short'));
    const client = await VfioUserClient.connect(path('short'));
    onTestFinished(() => client.close());
    const file = shrinkableFile(0x4000);
    ftruncateSync(file.fd, 0x3fff);
    const fds = openFdCount();
    const region = { iova: 0n, length: 0x4000n, readable: true, writable: true };
    expect(await rejection(client.dmaMap(region, { fd: file.fd }))).toBe('EINVAL');
    expect(openFdCount()).toBe(fds);
  });
});

describe('a header that announces a gigabyte', () => {
  test('is EINVAL and the end to a client, and takes no memory', async () => {
    const { server } = await serve(path('giga'));
    const peer = await greeted(path('giga'), QEMU_PROPOSAL);
    const before = process.memoryUsage().rss;
    await peer.send(message(Command.REGION_WRITE, words(0n, 0, 4, 1), { size: GIGABYTE }));
    expect(await peer.reply()).toMatchObject({ command: Command.REGION_WRITE, errno: 22 });
    expect(await peer.closed()).toBe(true);
    await until(() => !server.connected);
    expect(process.memoryUsage().rss - before).toBeLessThan(GIGABYTE / 4);
  });

  test('from a server is EPROTO and the end, and takes no memory', async () => {
    const listener = listen(path('giga-server'));
    onTestFinished(() => listener.close());
    const connecting = VfioUserClient.connect(path('giga-server'));
    const peer = await Peer.accept(listener);
    onTestFinished(() => peer.close());
    const proposal = await peer.reply();
    await peer.send(message(Command.VERSION, versionPayload(QEMU_PROPOSAL), { id: proposal.id, flags: 1 }));
    const client = await connecting;
    const ended = new Promise(resolve => client.onClose(resolve));
    const reading = rejection(client.regionRead(0, 0, 8));
    const request = await peer.reply();
    const before = process.memoryUsage().rss;
    await peer.send(message(Command.REGION_READ, words(0n, 0, 8), { id: request.id, flags: 1, size: GIGABYTE }));
    expect(await reading).toBe('ECONNRESET');
    expect(await ended).toMatchObject({ errno: 'EPROTO' });
    expect(process.memoryUsage().rss - before).toBeLessThan(GIGABYTE / 4);
  });
});

/** Brings a connection to a state, in which its client then vanishes. */
const states: Readonly<Record<string, (peer: Peer, memory: OwnedFd) => Promise<void>>> = {
  'connected, not a byte sent': async () => {},
  'half a header sent': peer => peer.send(message(Command.VERSION).subarray(0, 7)),
  'a header of VERSION sent, nothing behind it': peer =>
    peer.send(message(Command.VERSION, versionPayload('{}')).subarray(0, 16)),
  'VERSION sent, its reply not read': peer => peer.send(message(Command.VERSION, versionPayload(QEMU_PROPOSAL))),
  'a version agreed on': peer => peer.greet(QEMU_PROPOSAL).then(() => {}),
  'half of DMA_MAP sent, with its descriptor': async (peer, memory) => {
    await peer.greet(QEMU_PROPOSAL);
    await peer.send(message(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x10000n)).subarray(0, 20), [memory.fd]);
  },
  'memory mapped and pages logged': useDevice,
  'a reply of 896 KiB not read': async (peer, memory) => {
    await useDevice(peer, memory);
    // Of addresses that nobody has written: what a report gives, it clears.
    await peer.send(message(Command.DEVICE_FEATURE, words(0x100000, 0x10008, 0x10000n, 0x700000n, 1n)));
  },
  'a request under way in the device': async (peer, memory) => {
    await useDevice(peer, memory);
    await peer.send(message(Command.REGION_WRITE, words(BigInt(Stamp.SLOW), 0, 4, 1)));
  },
  'requests waiting behind one that is under way': async (peer, memory) => {
    await useDevice(peer, memory);
    await peer.send(message(Command.REGION_WRITE, words(BigInt(Stamp.SLOW), 0, 4, 1)));
    for (let index = 0; index < 100; index++) await peer.send(message(Command.REGION_READ, words(0n, 0, 8)));
  },
  ...Object.fromEntries(
    (['STOP', 'STOP_COPY', 'RESUMING', 'RUNNING_P2P', 'PRE_COPY', 'PRE_COPY_P2P'] as const).map(name => [
      `migration state ${name}`,
      async (peer: Peer, memory: OwnedFd) => {
        await useDevice(peer, memory);
        const set = words(16, 0x20002, MigrationState[name], 0xffff_ffff);
        expect(await peer.errno(Command.DEVICE_FEATURE, set)).toBe(0);
        if (name === 'STOP_COPY') await peer.request(Command.MIG_DATA_READ, words(64, 8));
        if (name === 'RESUMING') await peer.request(Command.MIG_DATA_WRITE, words(12, 4, 0));
      },
    ]),
  ),
};

/** Maps memory, starts logging and has the device write pages 3 and 4. */
async function useDevice(peer: Peer, memory: OwnedFd): Promise<void> {
  await peer.greet(QEMU_PROPOSAL);
  expect(await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x10000n), [memory.fd])).toBe(0);
  expect(await peer.errno(Command.REGION_WRITE, words(4n, 7, 4, 6))).toBe(0);
  expect(await peer.errno(Command.DEVICE_FEATURE, words(40, 0x20006, 4096n, 1, 0, 0n, 0x10000n))).toBe(0);
  const settings = new Uint32Array(stampSettings(0x3ff0n, 0x20, 7).slice().buffer);
  expect(await peer.errno(Command.REGION_WRITE, words(BigInt(Stamp.IOVA), 0, 16, ...settings))).toBe(0);
  expect(await peer.errno(Command.REGION_WRITE, words(BigInt(Stamp.DOORBELL), 0, 4, 1))).toBe(0);
}

test.each(Object.entries(states))(
  'a client that vanishes (%s) leaves nothing, and costs no page',
  async (name, bring) => {
    const socket = path(`vanish-${Object.keys(states).indexOf(name)}`);
    const { device, server } = await serve(socket);
    const file = memoryFile(0x10000);
    const fds = openFdCount();
    const maps = mappedFiles();
    const peer = Peer.connect(socket);
    await bring(peer, file);
    await turn();
    peer.close();
    await turn();
    device.release();
    await until(() => !server.connected && openFdCount() === fds, 'the client is let go');
    expect(device.dma.map.statistics.regions).toBe(0);
    expect(mappedFiles()).toBe(maps);

    const next = await VfioUserClient.connect(socket);
    const memory = GuestMemory.create(0x10000);
    onTestFinished(async () => {
      await next.close();
      memory.close();
    });
    if (device.dma.log.active) {
      const bitmap = new Uint32Array(2);
      await next.features.report({ iova: 0n, length: 0x10000n, pageSize: 4096n }, bitmap);
      expect(bitmap[0]).toBe(0b11000);
    }
    await next.reset();
    await next.regionWrite(7, 4, Uint8Array.of(6, 0));
    await next.dmaMap({ iova: 0n, length: 0x10000n, readable: true, writable: true }, { fd: memory.fd });
    await device.dma.write(0, Uint8Array.of(1));
  },
);
