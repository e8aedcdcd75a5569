import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MAX_TRANSFER_SIZE, MemoryDisk } from '../../../src/devices/nvme/index.js';
import { viewOf } from '../../../src/uapi/index.js';
import { HeldDisk } from './held-disk.js';
import { FREE_AREA, NvmeHost, requireSuccess, type TestCommand, type TestCompletion, turn } from './nvme-host.js';

const DATA = FREE_AREA;
const ALL = 0xffff_ffff;

let host: NvmeHost;
beforeEach(async () => {
  host = new NvmeHost({ serial: 'SERIAL-1', model: 'Model', queues: 3 });
  await host.start(1);
});
afterEach(() => host.close());

async function identify(
  structure: number,
  namespaceId: number,
): Promise<{ completion: TestCompletion; data: Uint8Array }> {
  host.memory.write(DATA, new Uint8Array(4096).fill(0xee));
  const completion = await host.admin({ opcode: 6, namespaceId, prp1: DATA, dwords: [structure] });
  return { completion, data: host.memory.read(DATA, 4096) };
}

function text(bytes: Uint8Array, offset: number, length: number): string {
  return Buffer.from(bytes.subarray(offset, offset + length)).toString('latin1');
}

describe('identify', () => {
  test('the controller says who it is and what it can do', async () => {
    const { completion, data } = await identify(1, 0);
    const view = viewOf(data);
    requireSuccess(completion);
    expect(text(data, 4, 20)).toBe('SERIAL-1'.padEnd(20));
    expect(text(data, 24, 40)).toBe('Model'.padEnd(40));
    expect(text(data, 64, 8)).toBe('1.0     ');
    expect(data[77]).toBe(7);
    expect(view.getUint32(80, true)).toBe(0x1_0400);
    expect(data[111]).toBe(1);
    expect([data[258], data[259], data[260], data[261], data[262]]).toEqual([3, 3, 3, 6, 63]);
    expect([data[512], data[513]]).toEqual([0x66, 0x44]);
    expect(view.getUint32(516, true)).toBe(1);
    expect(view.getUint16(520, true)).toBe(0b1_1101);
    expect(data[525]).toBe(7);
    expect(text(data, 768, 256)).toMatch(
      /^nqn\.2014-08\.org\.nvmexpress:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\0+$/,
    );
  });

  test('the namespace says its size in blocks', async () => {
    const { completion, data } = await identify(0, 1);
    const view = viewOf(data);
    requireSuccess(completion);
    for (const offset of [0, 8, 16]) expect(view.getBigUint64(offset, true)).toBe(2048n);
    expect([data[25], data[26], data[99], data[130]]).toEqual([0, 0, 0, 9]);
  });

  test('the list of active namespaces holds the one, unless those after it are asked for', async () => {
    const { data } = await identify(2, 0);
    expect(Array.from(new Uint32Array(data.buffer, 0, 3))).toEqual([1, 0, 0]);
    expect((await identify(2, 1)).data.every(byte => byte === 0)).toBe(true);
  });

  test('the namespace has a UUID that follows from the serial number', async () => {
    const { data } = await identify(3, 1);
    expect([data[0], data[1], data[2], data[3]]).toEqual([3, 16, 0, 0]);
    expect(data[10]! >>> 4).toBe(8);
    expect(data[12]! >>> 6).toBe(2);
    expect(data.subarray(20).every(byte => byte === 0)).toBe(true);
    const other = new NvmeHost({ serial: 'SERIAL-2' });
    await other.start();
    requireSuccess(await other.admin({ opcode: 6, namespaceId: 1, prp1: DATA, dwords: [3] }));
    expect(Buffer.compare(other.memory.read(DATA + 4, 16), data.subarray(4, 20))).not.toBe(0);
    await other.close();
  });

  test.each([
    ['no such structure', 0x20, 1, 'INVALID_FIELD'],
    ['namespace 0', 0, 0, 'INVALID_NAMESPACE'],
    ['a namespace that is not there', 0, 2, 'INVALID_NAMESPACE'],
    ['all namespaces', 0, ALL, 'INVALID_NAMESPACE'],
    ['the names of no namespace', 3, 0, 'INVALID_NAMESPACE'],
    ['namespaces after the last id', 2, 0xffff_fffe, 'INVALID_NAMESPACE'],
  ])('%s is refused, and nothing is written', async (_, structure, namespaceId, status) => {
    const { completion, data } = await identify(structure, namespaceId);
    expect(completion).toMatchObject({ status, doNotRetry: true, more: true });
    expect(data.every(byte => byte === 0xee)).toBe(true);
  });

  test('4096 bytes at an offset go to two pages', async () => {
    host.memory.write(DATA, new Uint8Array(3 * 4096));
    requireSuccess(await host.admin({ opcode: 6, prp1: DATA + 0xf00, prp2: DATA + 0x2000, dwords: [1] }));
    const start = host.memory.read(DATA + 0xf00, 256);
    const end = host.memory.read(DATA + 0x2000, 3840);
    expect(text(start, 4, 8)).toBe('SERIAL-1');
    expect(end[512 - 256]).toBe(0x66);
  });
});

describe('I/O queues', () => {
  const create = (opcode: number, id: number, entries: number, dword11: number, prp1 = 0x40_0000): TestCommand => ({
    opcode,
    prp1,
    dwords: [((entries - 1) << 16) | id, dword11],
  });

  test.each<[string, TestCommand, string]>([
    ['completion queue 0', create(5, 0, 8, 3), 'INVALID_QUEUE_ID'],
    ['a completion queue that is there', create(5, 1, 8, 3), 'INVALID_QUEUE_ID'],
    ['a completion queue beyond the last', create(5, 4, 8, 3), 'INVALID_QUEUE_ID'],
    ['a completion queue of one entry', create(5, 2, 1, 3), 'INVALID_QUEUE_SIZE'],
    ['a completion queue that is too long', create(5, 2, 1025, 3), 'INVALID_QUEUE_SIZE'],
    ['a completion queue in pieces', create(5, 2, 8, 2), 'INVALID_FIELD'],
    ['a completion queue that begins no page', create(5, 2, 8, 3, 0x40_0010), 'INVALID_PRP_OFFSET'],
    ['a completion queue with no such vector', create(5, 2, 8, (4 << 16) | 3), 'INVALID_INTERRUPT_VECTOR'],
    ['submission queue 0', create(1, 0, 8, (1 << 16) | 1), 'INVALID_QUEUE_ID'],
    ['a submission queue that is there', create(1, 1, 8, (1 << 16) | 1), 'INVALID_QUEUE_ID'],
    ['a submission queue beyond the last', create(1, 4, 8, (1 << 16) | 1), 'INVALID_QUEUE_ID'],
    ['a submission queue of one entry', create(1, 2, 1, (1 << 16) | 1), 'INVALID_QUEUE_SIZE'],
    ['a submission queue that is too long', create(1, 2, 1025, (1 << 16) | 1), 'INVALID_QUEUE_SIZE'],
    ['a submission queue in pieces', create(1, 2, 8, 1 << 16), 'INVALID_FIELD'],
    ['a submission queue that begins no page', create(1, 2, 8, (1 << 16) | 1, 0x40_0200), 'INVALID_PRP_OFFSET'],
    ['a submission queue on the admin completion queue', create(1, 2, 8, 1), 'INVALID_QUEUE_ID'],
    ['a submission queue on no possible completion queue', create(1, 2, 8, (9 << 16) | 1), 'INVALID_QUEUE_ID'],
    ['a submission queue on a completion queue not made', create(1, 2, 8, (2 << 16) | 1), 'COMPLETION_QUEUE_INVALID'],
    ['deleting submission queue 0', { opcode: 0, dwords: [0] }, 'INVALID_QUEUE_ID'],
    ['deleting a submission queue that is not there', { opcode: 0, dwords: [2] }, 'INVALID_QUEUE_ID'],
    ['deleting completion queue 0', { opcode: 4, dwords: [0] }, 'INVALID_QUEUE_ID'],
    ['deleting a completion queue that is not there', { opcode: 4, dwords: [2] }, 'INVALID_QUEUE_ID'],
    ['deleting a completion queue that is in use', { opcode: 4, dwords: [1] }, 'INVALID_QUEUE_DELETION'],
  ])('%s is refused', async (_, command, status) => {
    expect(await host.admin(command)).toMatchObject({ status, doNotRetry: true });
    requireSuccess(await host.submit(1, { opcode: 0, namespaceId: 1 }));
  });

  test('that are deleted can be made again, and several may share a completion queue', async () => {
    requireSuccess(await host.admin({ opcode: 0, dwords: [1] }));
    requireSuccess(await host.admin({ opcode: 4, dwords: [1] }));
    await host.createCompletionQueue(2, 8);
    await host.createSubmissionQueue(1, 4, 2);
    await host.createSubmissionQueue(3, 4, 2);
    expect(await host.submit(1, { opcode: 0, namespaceId: 1 })).toMatchObject({ status: 'SUCCESS', submissionId: 1 });
    expect(await host.submit(3, { opcode: 0, namespaceId: 1 })).toMatchObject({ status: 'SUCCESS', submissionId: 3 });
  });

  test('entries of other sizes than there are make no queues', async () => {
    host.write32(0x14, 0x0047_0001);
    expect((await host.admin(create(5, 2, 8, 3))).status).toBe('INVALID_QUEUE_SIZE');
  });
});

describe('features', () => {
  const get = (feature: number, select = 0, dword11 = 0) =>
    host.admin({ opcode: 0xa, dwords: [feature | (select << 8), dword11] });
  const set = (feature: number, dword11: number) => host.admin({ opcode: 9, dwords: [feature, dword11] });

  test.each([
    ['arbitration', 1, 0x0302_0107, 3, 0x0302_0107],
    ['power management', 2, 0x20, 0, 0x20],
    ['error recovery', 5, 0x1234, 0, 0x1234],
    ['the write cache', 6, 0, 1, 0],
    ['interrupt coalescing', 8, 0x0503, 0, 0x0503],
    ['write atomicity', 0xa, 1, 0, 1],
    ['async events', 0xb, 0xffff, 0, 0x1f],
  ])('%s is kept until it is set again, and has a default', async (_, feature, value, initial, kept) => {
    expect(await get(feature)).toMatchObject({ status: 'SUCCESS', result: initial });
    requireSuccess(await set(feature, value));
    expect((await get(feature)).result).toBe(kept);
    expect((await get(feature, 1)).result).toBe(initial);
    expect((await get(feature, 2)).result).toBe(initial);
    expect((await get(feature, 3)).result).toBe(4);
  });

  test('a controller reset brings the defaults back', async () => {
    requireSuccess(await set(6, 0));
    host.write32(0x14, 0);
    host.enable();
    expect((await get(6)).result).toBe(1);
  });

  test('a number of queues is granted up to what there are, before queues are made', async () => {
    expect((await set(7, 0)).status).toBe('COMMAND_SEQUENCE_ERROR');
    host.write32(0x14, 0);
    host.enable();
    expect((await get(7)).result).toBe(0x2_0002);
    expect((await set(7, 0x1f_001f)).result).toBe(0x2_0002);
    expect((await set(7, 0x0_0001)).result).toBe(0x0_0001);
    expect((await get(7)).result).toBe(0x0_0001);
    expect((await set(7, 0xffff)).status).toBe('INVALID_FIELD');
    expect((await set(7, 0xffff_0000)).status).toBe('INVALID_FIELD');
    await host.createQueues(1, 4);
    const second = await host.admin({ opcode: 5, prp1: 0x40_0000, dwords: [(3 << 16) | 2, 3] });
    expect(second.status).toBe('INVALID_QUEUE_ID');
  });

  test('interrupt vectors have a setting each', async () => {
    requireSuccess(await set(9, 0x1_0002));
    expect((await get(9, 0, 2)).result).toBe(0x1_0002);
    expect((await get(9, 0, 1)).result).toBe(1);
    expect((await get(9, 1, 2)).result).toBe(2);
    requireSuccess(await set(9, 2));
    expect((await get(9, 0, 2)).result).toBe(2);
  });

  test('temperature thresholds are two, over and under', async () => {
    expect((await get(4)).result).toBe(343);
    requireSuccess(await set(4, 350));
    requireSuccess(await set(4, 0x10_0000 | 280));
    expect((await get(4)).result).toBe(350);
    expect((await get(4, 0, 0x10_0000)).result).toBe(280);
    expect((await get(4, 1, 0x10_0000)).result).toBe(0);
  });

  test.each([
    ['a feature that is not there', 0x7e, 0, 'INVALID_FIELD'],
    ['a power state that is not there', 2, 1, 'INVALID_FIELD'],
    ['errors for deallocated blocks', 5, 0x1_0000, 'INVALID_FIELD'],
    ['a temperature sensor that is not there', 4, 0x2_0000, 'INVALID_FIELD'],
    ['a threshold that is neither over nor under', 4, 0x20_0000, 'INVALID_FIELD'],
    ['a vector that is not there', 9, 4, 'INVALID_FIELD'],
    ['a value to be saved', 0x8000_0006, 0, 'FEATURE_NOT_SAVEABLE'],
    ['a feature to be saved that is not there', 0x8000_007e, 0, 'INVALID_FIELD'],
  ])('%s is refused', async (_, feature, value, status) => {
    expect(await set(feature, value)).toMatchObject({ status, doNotRetry: true });
  });

  test.each([
    ['a feature that is not there', 0x7e, 0, 0],
    ['what a feature that is not there can do', 0x7e, 3, 0],
    ['a selection that is not there', 6, 4, 0],
    ['a vector that is not there', 9, 0, 4],
    ['a temperature sensor that is not there', 4, 0, 0x1_0000],
  ])('asking for %s is refused', async (_, feature, select, dword11) => {
    expect((await get(feature, select, dword11)).status).toBe('INVALID_FIELD');
  });
});

test('switching the write cache off makes durable what it holds, and fails where that fails', async () => {
  const disk = new HeldDisk(2 ** 20);
  const cached = new NvmeHost({ disk });
  await cached.start();
  const writeCache = (value: number) => cached.admin({ opcode: 9, dwords: [6, value] });
  requireSuccess(await writeCache(1));
  requireSuccess(await writeCache(0));
  expect(disk.accesses).toEqual(['flush']);
  requireSuccess(await writeCache(0));
  requireSuccess(await writeCache(1));
  expect(disk.accesses).toEqual(['flush']);
  disk.failure = { error: new Error('odd'), how: 'reject' };
  expect((await writeCache(0)).status).toBe('WRITE_FAULT');
  expect((await cached.admin({ opcode: 10, dwords: [6] })).result).toBe(1);
  await cached.close();
});

describe('log pages', () => {
  const getLog = async (id: number, length: number, offset = 0, namespaceId = ALL) => {
    host.memory.write(DATA, new Uint8Array(8192).fill(0xee));
    const dwords = [id | ((length / 4 - 1) << 16), 0, offset];
    const completion = await host.admin({ opcode: 2, namespaceId, prp1: DATA, prp2: DATA + 4096, dwords });
    return { completion, data: host.memory.read(DATA, 8192) };
  };

  test('the error log has the last errors, newest first', async () => {
    await host.submit(1, { opcode: 2, namespaceId: 7, dwords: [0x55, 0, 0] });
    await host.submit(1, { opcode: 0x7f, namespaceId: 1 });
    const { completion, data } = await getLog(1, 4096);
    requireSuccess(completion);
    const view = viewOf(data);
    expect([view.getBigUint64(0, true), view.getUint16(8, true), view.getUint16(12, true)]).toEqual([
      2n,
      1,
      0x001 << 1,
    ]);
    expect([view.getBigUint64(64, true), view.getUint16(72, true), view.getUint16(76, true)]).toEqual([
      1n,
      1,
      0x00b << 1,
    ]);
    expect([view.getUint32(64 + 16, true), view.getUint32(64 + 24, true)]).toEqual([0x55, 7]);
    expect(view.getBigUint64(128, true)).toBe(0n);
  });

  test('the error log keeps 64 and counts on', async () => {
    for (let count = 0; count < 70; count++) await host.submit(1, { opcode: 0x7f, namespaceId: 1 });
    const view = viewOf((await getLog(1, 4096)).data);
    expect(view.getBigUint64(0, true)).toBe(70n);
    expect(view.getBigUint64(63 * 64, true)).toBe(7n);
  });

  test('health counts commands, data and errors', async () => {
    requireSuccess(await host.submit(1, { opcode: 2, namespaceId: 1, prp1: DATA, dwords: [0, 0, 0] }));
    requireSuccess(await host.submit(1, { opcode: 1, namespaceId: 1, prp1: DATA, dwords: [0, 0, 0] }));
    requireSuccess(await host.submit(1, { opcode: 1, namespaceId: 1, prp1: DATA, dwords: [0, 0, 0] }));
    await host.submit(1, { opcode: 0x7f, namespaceId: 1 });
    const { data } = await getLog(2, 512);
    const view = viewOf(data);
    expect([data[0], view.getUint16(1, true), data[3]]).toEqual([0, 310, 100]);
    expect([32, 48, 64, 80, 160, 176].map(offset => Number(view.getBigUint64(offset, true)))).toEqual([
      1, 1, 1, 2, 0, 1,
    ]);
    expect(data[512]).toBe(0xee);
  });

  test('firmware slot 1 is active', async () => {
    const { data } = await getLog(3, 512);
    expect(data[0]).toBe(1);
    expect(text(data, 8, 8)).toBe('1.0     ');
  });

  test('the commands that are supported are those that are not an invalid opcode', async () => {
    const effects = viewOf((await getLog(5, 4096)).data);
    for (let opcode = 0; opcode < 256; opcode++) {
      // Without data pointers: an event request waits, an abort succeeds, the rest is refused for other reasons.
      if (opcode !== 0x0c) {
        const admin = await host.admin({ opcode, dwords: [0xff] });
        expect(effects.getUint32(4 * opcode, true) === 0).toBe(admin.status === 'INVALID_OPCODE');
      }
      const io = await host.submit(1, { opcode, namespaceId: 1, prp1: DATA });
      expect(effects.getUint32(1024 + 4 * opcode, true) === 0).toBe(io.status === 'INVALID_OPCODE');
    }
  });

  test('a page can be read in pieces, and reads 0 behind its end', async () => {
    const whole = (await getLog(5, 4096)).data.subarray(0, 4096);
    const piece = (await getLog(5, 64, 1024)).data;
    expect(Buffer.compare(piece.subarray(0, 64), whole.subarray(1024, 1088))).toBe(0);
    const beyond = (await getLog(3, 512, 508)).data;
    expect(beyond.subarray(4, 512).every(byte => byte === 0)).toBe(true);
  });

  test.each([
    ['no such page', 0x7f, 512, 0, ALL, 'INVALID_LOG_PAGE'],
    ['a page of one namespace', 2, 512, 0, 1, 'INVALID_FIELD'],
    ['an offset at the end', 2, 4, 512, ALL, 'INVALID_FIELD'],
    ['an offset inside a dword', 2, 4, 2, ALL, 'INVALID_FIELD'],
  ])('%s is refused', async (_, id, length, offset, namespaceId, status) => {
    expect((await getLog(id, length, offset, namespaceId)).completion).toMatchObject({ status, doNotRetry: true });
  });

  test('more than a transfer can hold is refused', async () => {
    const dwords = [2, MAX_TRANSFER_SIZE / 4 / 65536];
    expect((await host.admin({ opcode: 2, prp1: DATA, dwords })).status).toBe('INVALID_FIELD');
  });
});

describe('asynchronous events', () => {
  const request = () => host.admin({ opcode: 0xc });
  const readLog = (id: number, retain = false) =>
    host.admin({ opcode: 2, prp1: DATA, dwords: [id | (retain ? 0x8000 : 0) | (15 << 16)] });
  const badDoorbell = () => host.write32(0x1000 + 8 * 3, 1);
  const badValue = () => host.write32(0x1000 + 8, 99);

  test('a doorbell of no queue is told, with the error log as the page to read', async () => {
    const told = request();
    badDoorbell();
    expect(await told).toMatchObject({ status: 'SUCCESS', result: 0x01_0000 });
    requireSuccess(await readLog(1));
    const view = viewOf(host.memory.read(DATA, 64));
    expect([view.getUint16(8, true), view.getUint16(10, true)]).toEqual([0xffff, 0xffff]);
  });

  test('a doorbell value that is no place in the queue is told', async () => {
    const told = request();
    badValue();
    expect((await told).result).toBe(0x01_0100);
    const head = request();
    requireSuccess(await readLog(1));
    // Nothing is there to consume.
    host.write32(0x1000 + 12, 1);
    expect((await head).result).toBe(0x01_0100);
  });

  test('an event waits for a request, and events of its type for the log page to be read', async () => {
    badDoorbell();
    badValue();
    await turn();
    expect((await request()).result).toBe(0x01_0000);
    const second = request();
    requireSuccess(await readLog(1, true));
    requireSuccess(await readLog(2));
    expect(host.outstanding).toBe(1);
    requireSuccess(await readLog(1));
    expect((await second).result).toBe(0x01_0100);
  });

  test('a temperature beyond a threshold is told to who wants it', async () => {
    const told = request();
    requireSuccess(await host.admin({ opcode: 9, dwords: [4, 300] }));
    requireSuccess(await readLog(2));
    expect(host.memory.read(DATA, 1)[0]).toBe(2);
    expect(host.outstanding).toBe(1);
    requireSuccess(await host.admin({ opcode: 9, dwords: [0xb, 2] }));
    expect((await told).result).toBe(0x02_0101);
  });

  test('a fifth request is one too many', async () => {
    for (let count = 0; count < 4; count++) void request();
    expect((await request()).status).toBe('ASYNC_EVENT_LIMIT_EXCEEDED');
  });

  test('a request that waits can be aborted', async () => {
    const { commandId, done } = host.put(0, { opcode: 0xc });
    host.ring(0);
    expect((await host.admin({ opcode: 8, dwords: [(commandId << 16) | 1] })).result).toBe(1);
    expect((await host.admin({ opcode: 8, dwords: [commandId << 16] })).result).toBe(0);
    expect(await done).toMatchObject({ status: 'ABORT_REQUESTED', more: false, doNotRetry: false });
    expect((await host.admin({ opcode: 8, dwords: [commandId << 16] })).result).toBe(1);
  });

  test('aborted requests do not pile up while the host leaves no room for them', async () => {
    const narrow = new NvmeHost({ adminCompletionEntries: 2 });
    narrow.enable();
    narrow.consumes = false;
    for (let count = 0; count < 10; count++) {
      const { commandId } = narrow.put(0, { opcode: 0xc });
      narrow.put(0, { opcode: 8, dwords: [commandId << 16] });
    }
    narrow.ring(0);
    for (let pass = 0; pass < 40; pass++) {
      await turn();
      narrow.consumeAll();
    }
    const pair = ['SUCCESS', 'ABORT_REQUESTED'];
    expect(narrow.completions.map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => pair).flat());
    await narrow.close();
  });

  test('requests take no room in the admin queue while they wait', async () => {
    const narrow = new NvmeHost({ adminEntries: 2 });
    narrow.enable();
    const told = narrow.admin({ opcode: 0xc });
    await turn();
    await turn();
    requireSuccess(await narrow.admin({ opcode: 0xa, dwords: [6] }));
    narrow.write32(0x1000 + 8 * 3, 1);
    expect((await told).result).toBe(0x01_0000);
    await narrow.close();
  });

  test('a controller reset forgets them', async () => {
    void request();
    badDoorbell();
    await turn();
    host.write32(0x14, 0);
    host.enable();
    const told = request();
    requireSuccess(await host.admin({ opcode: 0xa, dwords: [6] }));
    host.write32(0x1000, 99);
    expect((await told).result).toBe(0x01_0100);
  });
});

describe('every command', () => {
  test.each([
    ['fused', 1],
    ['with a scatter gather list', 0x40],
  ])('%s is refused', async (_, flags) => {
    expect((await host.admin({ opcode: 6, flags, prp1: DATA, dwords: [1] })).status).toBe('INVALID_FIELD');
    expect((await host.submit(1, { opcode: 2, flags, namespaceId: 1, prp1: DATA })).status).toBe('INVALID_FIELD');
  });

  test('its completion names queue, head and command', async () => {
    const first = await host.submit(1, { opcode: 0, namespaceId: 1 });
    const second = await host.submit(1, { opcode: 0, namespaceId: 1 });
    expect(second.submissionHead).toBe((first.submissionHead + 1) % 16);
    expect(second.commandId).toBe(first.commandId + 1);
    expect(second.submissionId).toBe(1);
  });

  test.each(['x'.repeat(41), 'Mödell', 'two\nlines'])('a model number that cannot be is refused: %j', model => {
    expect(() => new NvmeHost({ model })).toThrow(expect.objectContaining({ errno: 'EINVAL', field: 'model' }));
  });

  test('the disk of a serial number that cannot be is refused', () => {
    const disk = new MemoryDisk(4096);
    for (const serial of ['', ' x', 'x'.repeat(21), 'ü']) {
      expect(() => new NvmeHost({ disk, serial })).toThrow('serial');
    }
  });
});
