import { ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  createEventFd,
  createMemoryFile,
  OwnedFd,
  openFdCount,
  readEventFd,
  signalEventFd,
} from '../../src/native/index.js';
import { RegionFlag } from '../../src/uapi/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';
import { IoFdType } from '../../src/vfio-user/wire/constants.js';
import { encodeRegionInfo } from '../../src/vfio-user/wire/device-messages.js';
import { encodeRegionIoFds } from '../../src/vfio-user/wire/region-io-fds-messages.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { takeAllFds } from './all-fds.js';
import { message, type Peer, REPLY, words } from './peer.js';
import { answer, rawServer } from './raw-server.js';
import { mappedFiles, rejection, serve } from './served.js';
import { StampDevice } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

const { READ, WRITE, MMAP, CAPS } = RegionFlag;
const areas = [
  { offset: 0x1000, size: 0x2000 },
  { offset: 0x4000, size: 0x1000 },
];

/** A memory file of 64 KiB whose pages are numbered, gone after the test. */
function numberedFile(): OwnedFd {
  const file = createMemoryFile('test-region', 0x10000);
  onTestFinished(() => file.close());
  return file;
}

/** Answers GET_REGION_INFO as asked for. */
async function answerInfo(server: Peer, layout: Parameters<typeof encodeRegionInfo>[2], fds: readonly number[]) {
  const { id, command, payload } = await server.reply();
  const argsz = new DataView(payload.buffer).getUint32(0, true);
  const reply = encodeRegionInfo(payload[8]!, { flags: READ | WRITE, size: 0x8000 }, layout, argsz);
  await server.send(message(command, reply.payload, { id, flags: REPLY }), reply.withFile ? fds : []);
}

describe('a region is mapped', () => {
  test('in its areas, at their places in the file', async () => {
    const { client, server } = await rawServer(path('a'));
    const file = numberedFile();
    const fds = openFdCount();
    const mapping = client.mapRegion(2);
    await answerInfo(server, { offset: 0x8000, areas }, [file.fd]);
    const mapped = await mapping;
    expect(openFdCount()).toBe(fds);
    expect(mapped.map(({ offset, size }) => ({ offset, size }))).toEqual(areas);
    mapped[1]!.mapping.write(0x10, Uint8Array.of(1, 2, 3));
    const whole = await wholeFile(client, server, file);
    expect(whole.slice(0xc010, 0xc013)).toEqual(Uint8Array.of(1, 2, 3));
    for (const area of mapped) area.close();
  });

  test('as a whole where all of it may be', async () => {
    const { client, server } = await rawServer(path('b'));
    const file = numberedFile();
    const mapping = client.mapRegion(0);
    await answerInfo(server, { offset: 0, areas: [{ offset: 0, size: 0x8000 }] }, [file.fd]);
    const mapped = await mapping;
    expect(mapped.map(({ offset, size }) => ({ offset, size }))).toEqual([{ offset: 0, size: 0x8000 }]);
    for (const area of mapped) area.close();
  });

  test('also when the server names more room than was offered at first', async () => {
    const { client, server } = await rawServer(path('c'));
    const file = numberedFile();
    const many = Array.from({ length: 100 }, (_, index) => ({ offset: 0x1000 * (index % 8), size: 0x1000 }));
    const fds = openFdCount();
    const opening = client.openRegion(0);
    await answerInfo(server, { offset: 0, areas: many }, [file.fd]);
    await answerInfo(server, { offset: 0, areas: many }, [file.fd]);
    const opened = await opening;
    expect(opened?.areas).toEqual(many);
    opened?.file.close();
    expect(openFdCount()).toBe(fds);
  });

  test('nowhere when the server gives no file for it', async () => {
    const { client, server } = await rawServer(path('d'));
    const mapping = client.mapRegion(0);
    await answerInfo(server, undefined, []);
    expect(await mapping).toEqual([]);
    const promised = client.mapRegion(0);
    await answer(server, words(32, READ | MMAP, 0, 0, 0x8000n, 0n));
    expect(await promised).toEqual([]);
  });

  test('not when there is no room here for its file: that is not said to be a region without one', async () => {
    const { client, server } = await rawServer(path('n'));
    const file = numberedFile();
    const mapping = rejection(client.mapRegion(0));
    const giveBack = takeAllFds();
    try {
      await answerInfo(server, { offset: 0, areas }, [file.fd]);
      expect(await mapping).toBe('EMFILE');
    } finally {
      giveBack();
    }
  });

  test('not when its file comes with a region that is not to be mapped; the file is closed', async () => {
    const { client, server } = await rawServer(path('e'));
    const file = numberedFile();
    const fds = openFdCount();
    const mapping = client.mapRegion(0);
    await answer(server, words(32, READ, 0, 0, 0x8000n, 0n), [file.fd, file.fd]);
    expect(await mapping).toEqual([]);
    const asking = client.getRegionInfo(0);
    await answer(server, words(32, READ | MMAP, 0, 0, 0x8000n, 0n), [file.fd, file.fd]);
    expect(await asking).toEqual({ flags: READ | MMAP, size: 0x8000 });
    expect(openFdCount()).toBe(fds);
  });

  test('never from a file that its server may shrink', async () => {
    const { client, server } = await rawServer(path('f'));
    const name = path('shrinks');
    const file = new OwnedFd(openSync(name, 'w+'));
    onTestFinished(() => file.close());
    unlinkSync(name);
    ftruncateSync(file.fd, 0x10000);
    const fds = openFdCount();
    const maps = mappedFiles();
    const mapping = rejection(client.mapRegion(0));
    await answerInfo(server, { offset: 0, areas }, [file.fd]);
    expect(await mapping).toBe('EINVAL');
    expect(openFdCount()).toBe(fds);
    expect(mappedFiles()).toBe(maps);
  });

  test.each([
    ['leaves the file', { offset: 0xc000, areas }],
    ['lies within a page', { offset: 0x800, areas }],
    ['begins within a page', { offset: 0, areas: [...areas, { offset: 0x6800, size: 0x1000 }] }],
  ])('never when an area %s, and then none is', async (_name, layout) => {
    const { client, server } = await rawServer(path('g'));
    const file = numberedFile();
    const fds = openFdCount();
    const maps = mappedFiles();
    const mapping = rejection(client.mapRegion(0));
    await answerInfo(server, layout, [file.fd]);
    expect(await mapping).toBe('EINVAL');
    expect(openFdCount()).toBe(fds);
    expect(mappedFiles()).toBe(maps);
  });

  test.each([
    ['a chain that leads back', words(64, MMAP | CAPS, 0, 32, 0x8000n, 0n, 7, 32, 0n, 0n, 0n)],
    ['an area that leaves the region', words(64, MMAP | CAPS, 0, 32, 0x8000n, 0n, 0x10001, 0, 1, 0, 0x8000n, 0x1000n)],
    ['a short structure', words(32, MMAP, 0)],
    ['a need for more than any region', words(65_537, MMAP | CAPS, 0, 0, 0x8000n, 0n)],
  ])('never after a reply with %s; what came along is closed', async (_name, payload) => {
    const { client, server } = await rawServer(path('h'));
    const file = numberedFile();
    const fds = openFdCount();
    const mapping = rejection(client.mapRegion(0));
    await answer(server, payload, [file.fd]);
    expect(await mapping).toBe('EPROTO');
    expect(openFdCount()).toBe(fds);
    expect(client.closed).toBe(false);
  });

  test('never by a server that asks for more room again and again', async () => {
    const { client, server } = await rawServer(path('i'));
    const mapping = rejection(client.mapRegion(0));
    await answer(server, words(2000, MMAP | CAPS, 0, 0, 0x8000n, 0n));
    await answer(server, words(3000, MMAP | CAPS, 0, 0, 0x8000n, 0n));
    expect(await mapping).toBe('EPROTO');
  });
});

/** The file's bytes, by another mapping of it. */
async function wholeFile(client: VfioUserClient, server: Peer, file: OwnedFd): Promise<Uint8Array> {
  const mapping = client.mapRegion(0);
  const reply = encodeRegionInfo(
    0,
    { flags: READ, size: 0x10000 },
    { offset: 0, areas: [{ offset: 0, size: 0x10000 }] },
  );
  await answer(server, reply.payload, [file.fd]);
  const [area] = await mapping;
  const bytes = new Uint8Array(0x10000);
  area!.mapping.read(0, bytes);
  area!.close();
  return bytes;
}

describe('the descriptors of a region', () => {
  const plain = { offset: 0x10, size: 4, fdIndex: 0, type: IoFdType.IOEVENTFD, flags: 0, match: 0n };
  const entries = [plain, { ...plain, offset: 0x20, fdIndex: 1 }, { ...plain, offset: 0x30, match: 7n, flags: 1 }];
  const info = words(32, READ | WRITE, 0, 0, 4096n, 0n);

  function eventFds(count: number): OwnedFd[] {
    const files = Array.from({ length: count }, () => createEventFd());
    onTestFinished(() => {
      for (const file of files) file.close();
    });
    return files;
  }

  test('come with their entries; several may have the same one, and those that none has are closed', async () => {
    const { client, server } = await rawServer(path('j'));
    const files = eventFds(3);
    const fds = openFdCount();
    const asking = client.getRegionIoFds(0);
    await answer(server, info);
    await answer(
      server,
      encodeRegionIoFds(0, entries, 4096).payload,
      files.map(({ fd }) => fd),
    );
    const found = await asking;
    expect(found).toMatchObject(entries);
    expect(openFdCount()).toBe(fds + 2);
    signalEventFd(found[2]!.file.fd);
    expect(readEventFd(files[0]!.fd)).toBe(1n);
    for (const { file } of found) file.close();
    expect(openFdCount()).toBe(fds);
  });

  test('are asked for again with the room that the server names', async () => {
    const { client, server } = await rawServer(path('k'));
    const [file] = eventFds(1);
    const many = Array.from({ length: 30 }, (_, index) => ({ ...plain, offset: 8 * index }));
    const fds = openFdCount();
    const asking = client.getRegionIoFds(0);
    await answer(server, info);
    for (const expected of [1024, 1456]) {
      const { id, command, payload } = await server.reply();
      expect(payload).toEqual(words(expected, 0, 0, 0));
      const reply = encodeRegionIoFds(0, many, expected);
      await server.send(message(command, reply.payload, { id, flags: REPLY }), reply.complete ? [file!.fd] : []);
    }
    const found = await asking;
    expect(found).toHaveLength(30);
    found[0]!.file.close();
    expect(openFdCount()).toBe(fds);
  });

  test.each([
    ['an entry beyond the region', [{ ...plain, offset: 4093 }]],
    ['an entry without its descriptor', [{ ...plain, fdIndex: 1 }]],
    [
      'a shadow without its memory',
      [{ ...plain, type: IoFdType.IOEVENTFD_SHADOW, shadow: { fdIndex: 9, offset: 0n } }],
    ],
  ])('with %s are EPROTO, and closed', async (_name, wrong) => {
    const { client, server } = await rawServer(path('l'));
    const [file] = eventFds(1);
    const fds = openFdCount();
    const asking = rejection(client.getRegionIoFds(0));
    await answer(server, info);
    await answer(server, encodeRegionIoFds(0, [plain, ...wrong], 4096).payload, [file!.fd]);
    expect(await asking).toBe('EPROTO');
    expect(openFdCount()).toBe(fds);
  });

  test('of another region are EPROTO', async () => {
    const { client, server } = await rawServer(path('m'));
    const asking = rejection(client.getRegionIoFds(0));
    await answer(server, info);
    await answer(server, encodeRegionIoFds(1, [], 4096).payload);
    expect(await asking).toBe('EPROTO');
  });
});

test('what one side maps of a region the device sees, and the other way round', async () => {
  const device = new StampDevice({
    bars: [
      { index: 0, size: 4096 },
      { index: 2, size: 0x8000, mappable: areas },
    ],
  });
  onTestFinished(() => device.close());
  await serve(path('n'), {}, device);
  const client = await VfioUserClient.connect(path('n'));
  onTestFinished(() => client.close());
  const mapped = await client.mapRegion(2);
  expect(mapped.map(({ offset, size }) => ({ offset, size }))).toEqual(areas);
  mapped[0]!.mapping.write(0x18, words(1, 2));
  expect(await client.regionRead(2, 0x1018, 8)).toEqual(words(1, 2));
  await client.regionWrite(2, 0x4ff8, words(3, 4));
  const bytes = new Uint8Array(8);
  mapped[1]!.mapping.read(0xff8, bytes);
  expect(bytes).toEqual(words(3, 4));
  expect(await client.mapRegion(0)).toEqual([]);
  for (const area of mapped) area.close();
});
