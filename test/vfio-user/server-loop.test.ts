import { expect, test } from 'vitest';
import { openFdCount, signalEventFd } from '../../src/native/index.js';
import { Command } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { message, Peer, REPLY, until, versionPayload, words } from './peer.js';
import { greeted, memoryFile, serve } from './served.js';
import { Stamp, StampDevice, stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

function write(offset: number, data: Uint8Array): Uint8Array {
  return Uint8Array.from([...words(BigInt(offset), 0, data.length), ...data]);
}

test('a session with a thread for itself serves as any other, leaves its device promises their turn, and ends when its client does', async () => {
  const { device, server } = await serve(path('a'), { loop: 'dedicated' }, new StampDevice({ busMaster: 'ignored' }));
  const fds = openFdCount();
  const peer = Peer.connect(path('a'));
  await peer.greet();
  await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x10000n), [memoryFile(0x10000).fd]);
  await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n));
  await peer.errno(Command.REGION_WRITE, write(0, stampSettings(0x10000n, 8, 5)));
  // By message, in the middle of a request.
  await peer.send(message(Command.REGION_WRITE, write(Stamp.DOORBELL, words(1)), { id: 1 }));
  const request = await peer.reply();
  await peer.send(message(request.command, new Uint8Array(0), { id: request.id, flags: REPLY }));
  expect(await peer.reply()).toMatchObject({ id: 1, flags: REPLY });
  // A request that waits for a timer.
  setTimeout(() => device.release(), 20);
  expect(await peer.errno(Command.REGION_WRITE, write(Stamp.SLOW, words(1)))).toBe(0);
  peer.close();
  await until(() => !server.connected);
  expect(openFdCount()).toBe(fds + 1); // the memory file
});

test('it accepts others, and serves a tracker beside its client', async () => {
  await serve(path('b'), { loop: 'dedicated' });
  const vmm = await greeted(path('b'));
  const tracker = await greeted(path('b'), '{"capabilities":{"dmalog":{"version":1,"role":"tracker"}}}');
  for (let round = 0; round < 20; round++) {
    expect(await vmm.errno(Command.REGION_READ, words(0n, 0, 8))).toBe(0);
    expect(await tracker.errno(Command.DEVICE_GET_INFO, words(16, 0, 0, 0))).toBe(0);
  }
});

test('it sees to doorbells that ring on eventfds', async () => {
  const rung: number[] = [];
  class Doorbell extends StampDevice {
    protected override onIoEvent(index: number): void {
      rung.push(index);
    }
  }
  await serve(path('c'), { loop: 'dedicated' }, new Doorbell({ ioEventFds: [{ bar: 0, offset: 64, size: 4 }] }));
  const peer = Peer.connect(path('c'));
  peer.keepFds = true;
  await peer.request(Command.VERSION, versionPayload('{"capabilities":{"max_msg_fds":1}}'));
  await peer.request(Command.DEVICE_GET_REGION_IO_FDS, words(64, 0, 0, 0));
  signalEventFd(peer.fds[0]!.fd);
  await until(() => rung.length === 1);
  peer.close();
});

test('it ends when its server is closed', async () => {
  const { server, device } = await serve(path('d'), { loop: 'dedicated' });
  const peer = await greeted(path('d'));
  await peer.send(message(Command.REGION_READ, words(0n, 0, 8)));
  await server.close();
  expect(device.events).toEqual(['disconnect']);
  await peer.reply().catch(() => {});
});

test('messages that never stop coming leave timers their turn', async () => {
  await serve(path('e'), { loop: 'dedicated' });
  const peer = await greeted(path('e'));
  const request = message(Command.REGION_WRITE, write(0x100, words(1)), { flags: 0x10 });
  let turns = 0;
  const counting = setInterval(() => turns++, 1);
  while (turns < 20) await peer.send(request);
  clearInterval(counting);
  expect((await peer.request(Command.REGION_READ, words(0x100n, 0, 4))).payload.subarray(16)).toEqual(words(1));
});
