import { describe, expect, onTestFinished, test } from 'vitest';
import { connect, receive } from '../../src/native/index.js';
import { viewOf } from '../../src/uapi/index.js';
import { Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { message, Peer, REPLY, turn, until, words } from './peer.js';
import { rawServer } from './raw-server.js';
import { greeted, rejection, serve } from './served.js';
import { StampDevice } from './stamp-device.js';

/* Reports whose replies are larger than a socket holds: 64 GiB at 4 KiB pages, a bitmap of 2 MiB. */

expectNoFdLeak();
const path = temporaryFolder();

const TRACKER = '{"capabilities":{"max_msg_fds":16,"dmalog":{"version":1,"role":"tracker"}}}';
const GENEROUS = '{"capabilities":{"max_data_xfer_size":16777216}}';
const PAGES = 2 ** 24;
const BYTES = PAGES / 8;
const LENGTH = BigInt(PAGES) * 4096n;
const REPORT = 0x10008;
const report = words(32 + BYTES, REPORT, 0n, LENGTH, 4096n);
const asked = { iova: 0n, length: LENGTH, pageSize: 4096n };

/** A server whose device logs, and has nothing dirty. */
async function logging(name: string): Promise<StampDevice> {
  const { device } = await serve(path(name), {}, new StampDevice({ busMaster: 'ignored' }));
  device.dma.log.start(4096n, [{ iova: 0n, length: LENGTH }]);
  return device;
}

function write(device: StampDevice, ...pages: readonly number[]): void {
  for (const page of pages) device.dma.log.record(page * 4096, 1);
}

/** The pages that a reply's bitmap names. */
function pagesOf(payload: Uint8Array): number[] {
  expect(payload.length).toBe(32 + BYTES);
  return dirtyPages(payload.subarray(32));
}

function dirtyPages(bitmap: Uint8Array): number[] {
  const pages: number[] = [];
  for (let page = 0; page < bitmap.length * 8; page++) {
    if (bitmap[page >> 3] === 0) page |= 7;
    else if ((bitmap[page >> 3]! >> (page & 7)) & 1) pages.push(page);
  }
  return pages;
}

/** Whether the log's own memory is free to be lent. */
function isFree(device: StampDevice): boolean {
  const lent = device.dma.log.lendReportBitmap(64);
  lent?.giveBack();
  return lent !== undefined;
}

describe('a server', () => {
  test('answers reports one after the other out of the same memory, each with its own pages alone', async () => {
    const device = await logging('a');
    const peer = await greeted(path('a'), TRACKER);
    for (const pages of [[0, 5, PAGES - 1], [], [5], [], [0, 1_000_000]]) {
      write(device, ...pages);
      const reply = await peer.request(Command.DEVICE_FEATURE, report);
      expect(reply.payload.subarray(0, 32)).toEqual(report);
      expect(pagesOf(reply.payload)).toEqual(pages);
      expect(isFree(device)).toBe(true);
    }
  });

  test('takes a report that is split at any offset', async () => {
    const device = await logging('b');
    const peer = await greeted(path('b'), TRACKER);
    const bytes = message(Command.DEVICE_FEATURE, report);
    for (let at = 1; at < bytes.length; at++) {
      write(device, at);
      await peer.sendSplit(bytes, at);
      expect(pagesOf((await peer.reply()).payload)).toEqual([at]);
    }
  });

  test('answers two reports in flight: what the first one named is not in the second', async () => {
    const device = await logging('c');
    const peer = await greeted(path('c'), TRACKER);
    write(device, 7, PAGES - 1);
    const bytes = message(Command.DEVICE_FEATURE, report);
    await peer.send(Uint8Array.from([...bytes, ...bytes]));
    expect(pagesOf((await peer.reply()).payload)).toEqual([7, PAGES - 1]);
    expect(pagesOf((await peer.reply()).payload)).toEqual([]);
  });

  test('serves another connection while a client has stopped reading in the middle of its reply', async () => {
    const device = await logging('d');
    const idle = await greeted(path('d'), TRACKER);
    const other = await greeted(path('d'), TRACKER);
    write(device, 1, PAGES - 1);
    await idle.send(message(Command.DEVICE_FEATURE, report));
    await until(() => !isFree(device));
    write(device, 2, PAGES - 2);
    expect(pagesOf((await other.request(Command.DEVICE_FEATURE, report)).payload)).toEqual([2, PAGES - 2]);
    expect(isFree(device)).toBe(false);
    // The one that stopped goes on, and its reply is what it was when it was made.
    expect(pagesOf((await idle.reply()).payload)).toEqual([1, PAGES - 1]);
    await until(() => isFree(device));
  });

  test('whose client stopped reading may stop the log, and start it again', async () => {
    const device = await logging('e');
    const idle = await greeted(path('e'), TRACKER);
    const other = await greeted(path('e'), TRACKER);
    write(device, 3);
    await idle.send(message(Command.DEVICE_FEATURE, report));
    await until(() => !isFree(device));
    device.dma.log.stop();
    device.dma.log.start(4096n, [{ iova: 0n, length: LENGTH }]);
    write(device, 4);
    expect(pagesOf((await other.request(Command.DEVICE_FEATURE, report)).payload)).toEqual([4]);
    expect(pagesOf((await idle.reply()).payload)).toEqual([3]);
    expect(isFree(device)).toBe(true);
  });

  test('has its memory again when a client goes in the middle of its reply; later writes are in later reports', async () => {
    const device = await logging('f');
    const socket = connect(path('f'));
    const going = new Peer(socket);
    await going.greet(TRACKER);
    const staying = await greeted(path('f'), TRACKER);
    write(device, 9);
    await going.send(message(Command.DEVICE_FEATURE, report));
    await until(() => receive(socket.fd, new Uint8Array(1000)) !== 'again');
    expect(isFree(device)).toBe(false);
    write(device, 10);
    going.close();
    await until(() => isFree(device));
    expect(pagesOf((await staying.request(Command.DEVICE_FEATURE, report)).payload)).toEqual([10]);
  });

  test('that refuses a report keeps its bits, and its memory', async () => {
    const device = await logging('g');
    const peer = await greeted(path('g'), TRACKER);
    write(device, 11);
    const tooSmall = report.slice();
    viewOf(tooSmall).setUint32(0, 31 + BYTES, true);
    expect(await peer.errno(Command.DEVICE_FEATURE, tooSmall)).not.toBe(0);
    expect(isFree(device)).toBe(true);
    expect(pagesOf((await peer.request(Command.DEVICE_FEATURE, report)).payload)).toEqual([11]);
  });
});

describe.each(['shared', 'dedicated'] as const)('a client, loop %s,', loop => {
  const bytesOf = (bitmap: Uint32Array) => new Uint8Array(bitmap.buffer);

  test('reports again and again into memory that it keeps, and only adds to the bitmap', async () => {
    const device = await logging(`h${loop}`);
    const client = await VfioUserClient.connect(path(`h${loop}`), { loop, role: 'tracker' });
    onTestFinished(() => client.close());
    const all = new Uint32Array(BYTES / 4);
    const expected = new Set<number>();
    for (const pages of [[0, 77, PAGES - 1], [], [77], [78, 2_000_000]]) {
      write(device, ...pages);
      const bitmap = new Uint32Array(BYTES / 4);
      await client.features.report(asked, bitmap);
      expect(dirtyPages(bytesOf(bitmap))).toEqual(pages);
      write(device, ...pages);
      for (const page of pages) expected.add(page);
      await client.features.report(asked, all);
      expect(dirtyPages(bytesOf(all))).toEqual([...expected].sort((a, b) => a - b));
    }
  });

  test('keeps two reports in flight apart', async () => {
    const device = await logging(`i${loop}`);
    const client = await VfioUserClient.connect(path(`i${loop}`), { loop, role: 'tracker' });
    onTestFinished(() => client.close());
    for (const page of [5, 6]) {
      write(device, page, PAGES - page);
      const bitmaps = [new Uint32Array(BYTES / 4), new Uint32Array(BYTES / 4)];
      await Promise.all(bitmaps.map(bitmap => client.features.report(asked, bitmap)));
      expect(bitmaps.map(bitmap => dirtyPages(bytesOf(bitmap)))).toEqual([[page, PAGES - page], []]);
    }
  });

  test('takes a reply that is split near every border of its structures', async () => {
    const { client, server } = await rawServer(path(`j${loop}`), { loop }, GENEROUS);
    const cuts = [
      ...Array.from({ length: 64 }, (_, at) => at + 1),
      65_536,
      65_552,
      262_144,
      BYTES - 65_536,
      BYTES + 47,
    ];
    for (const at of cuts) {
      const bitmap = new Uint32Array(BYTES / 4);
      const reporting = client.features.report(asked, bitmap);
      const { id, command } = await server.reply();
      const payload = new Uint8Array(32 + BYTES);
      payload.set(report);
      const byte = at % BYTES;
      payload[32 + byte] = 1;
      payload[31 + BYTES] = 0x80;
      await server.sendSplit(message(command, payload, { id, flags: REPLY }), at);
      await reporting;
      expect(dirtyPages(bytesOf(bitmap))).toEqual([byte * 8, PAGES - 1]);
    }
  });

  test('fails a report whose reply ends in the middle, and leaves the bitmap as it was', async () => {
    const { client, server } = await rawServer(path(`k${loop}`), { loop }, GENEROUS);
    const bitmap = new Uint32Array(BYTES / 4);
    const reporting = rejection(client.features.report(asked, bitmap));
    const { id, command } = await server.reply();
    const payload = new Uint8Array(32 + BYTES).fill(0xff);
    payload.set(report);
    await server.send(message(command, payload, { id, flags: REPLY }).subarray(0, BYTES / 2));
    await turn();
    server.close();
    expect(await reporting).toBe('ECONNRESET');
    expect(dirtyPages(bytesOf(bitmap))).toEqual([]);
  });
});
