import { EventEmitter, once } from 'node:events';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { ERRNO, type IovaRange } from '../../src/uapi/index.js';
import { type ClientOptions, Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { NaiveLog } from '../log/naive-log.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { message, type Peer, REPLY, turn, words } from './peer.js';
import { answer, rawServer, refuse } from './raw-server.js';
import { rejection, serve } from './served.js';
import { StampDevice } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

const START = 0x20006;
const STOP = 0x20007;
const REPORT = 0x10008;
const both = { readable: true, writable: true };

/** A client that lends 64 KiB at 0 to a server that logs nothing by itself. */
async function lending(name: string): Promise<{ client: VfioUserClient; server: Peer; memory: GuestMemory }> {
  const memory = GuestMemory.create(0x10000);
  onTestFinished(() => memory.close());
  const { client, server } = await rawServer(path(name));
  const mapping = client.dmaMap({ iova: 0n, length: 0x10000n, ...both }, undefined, { bytes: memory });
  await answer(server);
  await mapping;
  return { client, server, memory };
}

/** The same of memory that takes its time with a write. */
async function lendingSlowly(name: string): Promise<{ client: VfioUserClient; server: Peer; release: () => void }> {
  const { client, server } = await rawServer(path(name));
  const release = new EventEmitter();
  const bytes = { read: () => {}, write: () => once(release, 'now').then(() => {}) };
  const mapping = client.dmaMap({ iova: 0n, length: 0x10000n, ...both }, undefined, { bytes });
  await answer(server);
  await mapping;
  return { client, server, release: () => release.emit('now') };
}

/** A write of one byte to a page. */
function writeOne(page: number): Uint8Array {
  return message(Command.DMA_WRITE, Uint8Array.from([...words(BigInt(page) * 4096n, 1n), 7]));
}

/** The server writes one byte to a page. */
async function write(server: Peer, page: number): Promise<number> {
  await server.send(writeOne(page));
  const { flags, errno } = await server.reply();
  return flags === REPLY ? 0 : errno;
}

async function start(client: VfioUserClient, server: Peer, ranges: readonly IovaRange[] = []): Promise<void> {
  const starting = client.features.startLogging(4096n, ranges);
  await answer(server, words(24, START, 4096n, 0, 0));
  await starting;
}

async function stop(client: VfioUserClient, server: Peer): Promise<void> {
  const stopping = client.features.stopLogging();
  await answer(server, words(8, STOP));
  await stopping;
}

/** Reports the 16 pages; the device itself names `device`. */
async function report(client: VfioUserClient, server: Peer, device = 0n): Promise<number> {
  const bitmap = new Uint32Array(2);
  const reporting = client.features.report({ iova: 0n, length: 0x10000n, pageSize: 4096n }, bitmap);
  await answer(server, words(40, REPORT, 0n, 0x10000n, 4096n, device));
  await reporting;
  return bitmap[0]!;
}

describe('pages that arrive by DMA_WRITE', () => {
  test('are in the report, once, together with those that the device names', async () => {
    const { client, server } = await lending('a');
    await start(client, server);
    await write(server, 3);
    await write(server, 5);
    expect(await report(client, server, 0b10001n)).toBe(0b111001);
    expect(await report(client, server)).toBe(0);
    await write(server, 5);
    expect(await report(client, server)).toBe(0b100000);
  });

  test('are not while nobody logs', async () => {
    const { client, server } = await lending('b');
    await write(server, 1);
    await start(client, server);
    await write(server, 2);
    expect(await report(client, server)).toBe(0b100);
    await write(server, 3);
    await stop(client, server);
    await write(server, 4);
    await start(client, server);
    expect(await report(client, server)).toBe(0);
  });

  test('outside the ranges are not', async () => {
    const { client, server } = await lending('c');
    await start(client, server, [{ iova: 0x2000n, length: 0x2000n }]);
    for (let page = 0; page < 8; page++) await write(server, page);
    expect(await report(client, server)).toBe(0b1100);
  });

  test('are also while START is on its way', async () => {
    const { client, server } = await lending('d');
    const starting = client.features.startLogging(4096n, []);
    const { id, command } = await server.reply();
    await write(server, 6);
    await server.send(message(command, words(24, START, 4096n, 0, 0), { id, flags: REPLY }));
    await starting;
    expect(await report(client, server)).toBe(0b1000000);
  });

  test('that were refused are not', async () => {
    const { client, server, memory } = await lending('e');
    const mapping = client.dmaMap({ iova: 0x10000n, length: 0x1000n, readable: true, writable: false }, undefined, {
      bytes: memory,
    });
    await answer(server);
    await mapping;
    await start(client, server);
    expect(await write(server, 16)).toBe(ERRNO.EFAULT);
    expect(await write(server, 17)).toBe(ERRNO.EFAULT);
    const bitmap = new Uint32Array(2);
    const reporting = client.features.report({ iova: 0n, length: 0x20000n, pageSize: 4096n }, bitmap);
    await answer(server, words(40, REPORT, 0n, 0x20000n, 4096n, 0n));
    await reporting;
    expect(bitmap[0]).toBe(0);
  });

  test('whose memory failed on the way are, since a part may have been written', async () => {
    const { client, server } = await rawServer(path('f'));
    const bytes = { read: () => {}, write: () => Promise.reject(new Error('a mistake')) };
    const mapping = client.dmaMap({ iova: 0n, length: 0x10000n, ...both }, undefined, { bytes });
    await answer(server);
    await mapping;
    await start(client, server);
    expect(await write(server, 2)).toBe(ERRNO.EIO);
    expect(await report(client, server)).toBe(0b100);
  });

  test('whose memory was still busy when logging started are', async () => {
    const { client, server, release } = await lendingSlowly('q');
    await server.send(writeOne(2));
    await turn();
    await start(client, server);
    release();
    await server.reply();
    expect(await report(client, server)).toBe(0b100);
  });

  test('are not lost by unmapping', async () => {
    const { client, server } = await lending('g');
    await start(client, server);
    await write(server, 2);
    const unmapping = client.dmaUnmapAll();
    await answer(server, words(24, 2, 0n, 0n));
    await unmapping;
    expect(await report(client, server)).toBe(0b100);
  });
});

describe('pages are kept', () => {
  test('when a report fails', async () => {
    const { client, server } = await lending('h');
    await start(client, server);
    await write(server, 4);
    const bitmap = new Uint32Array(2);
    const reporting = rejection(client.features.report({ iova: 0n, length: 0x10000n, pageSize: 4096n }, bitmap));
    await refuse(server, ERRNO.EIO);
    expect(await reporting).toBe('EIO');
    expect(await report(client, server)).toBe(0b10000);
  });

  test.each([
    ['without a bitmap', words(32, REPORT, 0n, 0x10000n, 4096n)],
    ['of another interval', words(40, REPORT, 0x1000n, 0x10000n, 4096n, 0n)],
    ['of another page size', words(40, REPORT, 0n, 0x10000n, 8192n, 0n)],
    ['of another feature', words(40, 0x10009, 0n, 0x10000n, 4096n, 0n)],
    ['with flags that nobody knows', words(40, REPORT | 0x8000_0000, 0n, 0x10000n, 4096n, 0n)],
  ])('when a report is answered %s', async (_name, payload) => {
    const { client, server } = await lending('i');
    await start(client, server);
    await write(server, 4);
    const bitmap = new Uint32Array(2);
    const reporting = rejection(client.features.report({ iova: 0n, length: 0x10000n, pageSize: 4096n }, bitmap));
    await answer(server, payload);
    expect(await reporting).toBe('EPROTO');
    expect(await report(client, server)).toBe(0b10000);
  });

  test('when a second START is refused, and what that one would have logged is not', async () => {
    const { client, server } = await lending('j');
    await start(client, server, [{ iova: 0n, length: 0x4000n }]);
    await write(server, 1);
    const again = rejection(client.features.startLogging(4096n, []));
    await refuse(server, ERRNO.EINVAL);
    expect(await again).toBe('EINVAL');
    await write(server, 9);
    expect(await report(client, server)).toBe(0b10);
  });

  test('when the device takes a second START', async () => {
    const { client, server } = await lending('k');
    await start(client, server, [{ iova: 0n, length: 0x4000n }]);
    await write(server, 1);
    await start(client, server, [{ iova: 0x8000n, length: 0x4000n }]);
    await write(server, 2);
    await write(server, 9);
    expect(await report(client, server)).toBe(0b1000000110);
    expect(await report(client, server)).toBe(0);
  });

  test('when a STOP fails, until the START that succeeds', async () => {
    const { client, server } = await lending('l');
    await start(client, server, [{ iova: 0n, length: 0x4000n }]);
    await write(server, 1);
    const stopping = rejection(client.features.stopLogging());
    await refuse(server, ERRNO.EIO);
    expect(await stopping).toBe('EIO');
    await write(server, 2);
    expect(await report(client, server)).toBe(0b110);
    await write(server, 3);
    await start(client, server, [{ iova: 0x8000n, length: 0x4000n }]);
    await write(server, 9);
    expect(await report(client, server)).toBe(0b1000000000);
  });
});

test('a page that is written while its memory is unmapped is in the bitmap of the unmapping', async () => {
  const { client, server, release } = await lendingSlowly('r');
  await start(client, server);
  await server.send(writeOne(2));
  await turn();
  const bitmap = new Uint32Array(2);
  let unmapped = false;
  const unmapping = client.dmaUnmapDirty(0n, 0x10000n, 4096n, bitmap).then(() => {
    unmapped = true;
  });
  await answer(server, words(48, 1, 0n, 0x10000n, 4096n, 8n, 0n));
  await turn();
  expect(unmapped).toBe(false);
  release();
  await unmapping;
  expect(bitmap[0]).toBe(0b100);
});

describe('a STOP ends the log that was there when it left, and no later one', () => {
  test('also when a START leaves right behind it', async () => {
    const { client, server } = await lending('s');
    await start(client, server);
    await write(server, 1);
    const both = [client.features.stopLogging(), client.features.startLogging(4096n, [])];
    await answer(server, words(8, STOP));
    await answer(server, words(24, START, 4096n, 0, 0));
    await Promise.all(both);
    await write(server, 3);
    expect(await report(client, server)).toBe(0b1000);
  });

  test('also when it fails', async () => {
    const { client, server } = await lending('t');
    const stopping = rejection(client.features.stopLogging());
    const starting = client.features.startLogging(4096n, []);
    await refuse(server, ERRNO.EINVAL);
    await answer(server, words(24, START, 4096n, 0, 0));
    expect(await stopping).toBe('EINVAL');
    await starting;
    await write(server, 3);
    expect(await report(client, server)).toBe(0b1000);
  });
});

describe('a device that takes no report of memory that it reaches by messages', () => {
  const all = { iova: 0n, length: 0x10000n, ...both };

  /** What a report of an interval says that the device answers EINVAL to: its bits, or its errno. */
  async function refused(client: VfioUserClient, server: Peer, asked: IovaRange = all): Promise<number | string> {
    const bitmap = new Uint32Array(4);
    const { iova, length } = asked;
    const reporting = rejection(client.features.report({ iova, length, pageSize: 4096n }, bitmap));
    await refuse(server, ERRNO.EINVAL);
    return (await reporting) ?? bitmap[0]!;
  }

  /** Unmaps what is lent, and has the server do it. */
  async function unmapAll(client: VfioUserClient, server: Peer): Promise<void> {
    const unmapping = client.dmaUnmapAll();
    await answer(server, words(24, 2, 0n, 0n));
    await unmapping;
  }

  test('leaves the client’s own log as the answer, read and cleared', async () => {
    const { client, server } = await lending('u');
    await start(client, server);
    await write(server, 4);
    expect(await refused(client, server, { iova: 0x3000n, length: 0x2000n })).toBe(0b10);
    await write(server, 5);
    expect(await refused(client, server)).toBe(0b100000);
    expect(await refused(client, server)).toBe(0);
  });

  test('is believed where not all of the interval is lent', async () => {
    const { client, server } = await lending('v');
    await start(client, server);
    expect(await refused(client, server, { iova: 0xf000n, length: 0x2000n })).toBe('EINVAL');
    await unmapAll(client, server);
    expect(await refused(client, server)).toBe('EINVAL');
  });

  test('is believed while no START of this client has succeeded, or one was to be stopped', async () => {
    const { client, server } = await lending('w');
    expect(await refused(client, server)).toBe('EINVAL');
    const starting = rejection(client.features.startLogging(4096n, []));
    const early = rejection(client.features.report({ ...all, pageSize: 4096n }, new Uint32Array(2)));
    await refuse(server, ERRNO.ENOTTY);
    await refuse(server, ERRNO.EINVAL);
    expect([await starting, await early]).toEqual(['ENOTTY', 'EINVAL']);
    await start(client, server);
    const stopping = rejection(client.features.stopLogging());
    await refuse(server, ERRNO.EIO);
    expect(await stopping).toBe('EIO');
    expect(await refused(client, server)).toBe('EINVAL');
  });

  test('is believed where there is a file, or was one: not all that was written passed here', async () => {
    const { client, server, memory } = await lending('x');
    await start(client, server);
    await unmapAll(client, server);
    const { length } = all;
    for (const mapping of [
      () => client.dmaMap({ ...all, length: 0x1000n }, { fd: memory.fd }),
      () => client.dmaMap({ ...all, iova: 0x20000n, length }, { fd: memory.fd }, { bytes: memory }),
    ]) {
      const mapped = mapping();
      await answer(server);
      await mapped;
    }
    expect(await refused(client, server, { iova: 0x20000n, length })).toBe('EINVAL');
    await unmapAll(client, server);
    const lent = client.dmaMap(all, undefined, { bytes: memory });
    await answer(server);
    await lent;
    expect(await refused(client, server)).toBe('EINVAL');
    await write(server, 1);
    expect(await refused(client, server, { iova: 0x1000n, length: 0xf000n })).toBe(1);
  });
});

test('a START that the device refuses logs nothing', async () => {
  const { client, server } = await lending('m');
  const starting = rejection(client.features.startLogging(4096n, []));
  await refuse(server, ERRNO.ENOTTY);
  expect(await starting).toBe('ENOTTY');
  await write(server, 1);
  await start(client, server);
  expect(await report(client, server)).toBe(0);
});

test('ranges that only the device can make sense of are logged as everything', async () => {
  const { client, server } = await lending('n');
  await start(client, server, [{ iova: 2n ** 64n - 4096n, length: 4096n }]);
  expect(await write(server, 3)).toBe(0);
  expect(await report(client, server)).toBe(0b1000);
});

test('a report in pieces has the pages of both', async () => {
  const { client, device } = await mixed('o', { maxDataTransfer: 4096 });
  await client.features.startLogging(4096n, []);
  const direct = [0, 1, 15, 32_511, 32_512, 99_999];
  for (const page of direct) device.dma.log.record(page * 4096, 1);
  await device.dma.map.write(LENT, Uint8Array.of(1));
  await device.dma.map.write(LENT + 15 * 4096, Uint8Array.of(1));
  const bitmap = new Uint32Array(2 * Math.ceil(100_000 / 64));
  await client.features.report({ iova: 0n, length: 100_000n * 4096n, pageSize: 4096n }, bitmap);
  const found = Array.from({ length: 100_000 }, (_, page) => page).filter(
    page => ((bitmap[page >>> 5]! >>> (page & 31)) & 1) === 1,
  );
  expect(found).toEqual([0, 1, 15, 16, 31, 32_511, 32_512, 99_999]);
});

const SIZE = 0x10000;
/** Where memory is lent by messages; the file is mapped from 0 on. */
const LENT = SIZE;

/** A device that reaches 64 KiB by a file and the next 64 KiB by messages. */
async function mixed(name: string, options: ClientOptions = {}) {
  const memory = GuestMemory.create(2 * SIZE);
  const device = new StampDevice({ busMaster: 'ignored' });
  await serve(path(name), {}, device);
  const client = await VfioUserClient.connect(path(name), options);
  onTestFinished(async () => {
    await client.close();
    memory.close();
  });
  const length = BigInt(SIZE);
  await client.dmaMap({ iova: 0n, length, ...both }, { fd: memory.fd });
  const lent = { bytes: memory, offset: SIZE };
  await client.dmaMap({ iova: length, length, ...both }, undefined, lent);
  return { client, device, memory };
}

const interval = fc
  .tuple(fc.nat(2 * SIZE - 1), fc.nat(3 * 4096))
  .map(([start, length]) => ({ start, length: Math.min(length, 2 * SIZE - start) }));
const operation = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('write' as const), interval }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('report' as const),
      interval: interval.filter(({ length }) => length > 0),
      pageSize: fc.constantFrom(512, 4096, 8192, 32768),
    }),
  },
);

test('whatever a device writes, by messages or through a file, the reports are those of one log that saw it all', async () => {
  const { client, device, memory } = await mixed('p');
  const expectedBytes = new Uint8Array(2 * SIZE);
  let value = 0;

  /** What lies in the file the device's log sees; what goes by messages only the client's, as with a server that does not log it. */
  async function dmaWrite(start: number, length: number): Promise<void> {
    value = (value % 250) + 1;
    const bytes = new Uint8Array(length).fill(value);
    expectedBytes.set(bytes, start);
    const direct = Math.max(0, Math.min(length, LENT - start));
    if (direct > 0) await device.dma.write(start, bytes.subarray(0, direct));
    if (direct < length) await device.dma.map.write(start + direct, bytes.subarray(direct));
  }

  async function reported(start: number, length: number, pageSize: number): Promise<number[]> {
    const bitmap = new Uint32Array(2 * Math.ceil(Math.ceil(length / pageSize) / 64));
    const asked = { iova: BigInt(start), length: BigInt(length), pageSize: BigInt(pageSize) };
    await client.features.report(asked, bitmap);
    return Array.from({ length: bitmap.length * 32 }, (_, bit) => bit).filter(
      bit => ((bitmap[bit >>> 5]! >>> (bit & 31)) & 1) === 1,
    );
  }

  const ranges = fc.constantFrom(
    [],
    [{ start: 4096, length: 2 * SIZE - 8192 }],
    [
      { start: 0, length: 20_000 },
      { start: 50_000, length: 40_000 },
    ],
  );
  await fc.assert(
    fc.asyncProperty(ranges, fc.array(operation, { maxLength: 20 }), async (logged, operations) => {
      const naive = new NaiveLog(4096, 0, logged.length === 0 ? 'everything' : logged, 256);
      const asked = logged.map(range => ({ iova: BigInt(range.start), length: BigInt(range.length) }));
      await client.features.startLogging(4096n, asked);
      for (const {
        kind,
        interval: { start, length },
        ...rest
      } of operations) {
        if (kind === 'write') {
          await dmaWrite(start, length);
          naive.record(start, length);
        } else {
          const { pageSize } = rest as { pageSize: number };
          expect(await reported(start, length, pageSize)).toEqual(naive.report(start, length, pageSize));
        }
      }
      expect(await reported(0, 2 * SIZE, 4096)).toEqual(naive.report(0, 2 * SIZE, 4096));
      await client.features.stopLogging();
      const bytes = new Uint8Array(2 * SIZE);
      memory.read(0, bytes);
      expect(Buffer.compare(bytes, expectedBytes)).toBe(0);
    }),
    { numRuns: 60 },
  );
});

test('two trackers on one connection that ask at the same time get each page once', async () => {
  const { client, device } = await mixed('q');
  await client.features.startLogging(4096n, []);
  for (let page = 0; page < 32; page++) await device.dma.map.write(page * 4096, Uint8Array.of(1));
  const bitmaps = [new Uint32Array(2), new Uint32Array(2)];
  const asked = { iova: 0n, length: BigInt(2 * SIZE), pageSize: 4096n };
  await Promise.all(bitmaps.map(bitmap => client.features.report(asked, bitmap)));
  // The 16 pages that were written by messages; the others no log saw.
  expect((bitmaps[0]![0]! ^ bitmaps[1]![0]!) >>> 0).toBe(0xffff_0000);
});
