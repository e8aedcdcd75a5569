import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MAX_TRANSFER_SIZE } from '../../../src/devices/nvme/index.js';
import { VfioError, viewOf } from '../../../src/uapi/index.js';
import { HeldDisk } from './held-disk.js';
import { FREE_AREA, MEMORY_SIZE, NvmeHost, requireSuccess, type TestCommand } from './nvme-host.js';

const DATA = FREE_AREA;
const LIST = FREE_AREA + 0x10_0000;
const BLOCKS = 4096;
const ALL = 0xffff_ffff;

let disk: HeldDisk;
let host: NvmeHost;
beforeEach(async () => {
  disk = new HeldDisk(BLOCKS * 512);
  host = new NvmeHost({ disk });
  await host.start();
});
afterEach(() => host.close());

const io = (command: TestCommand) => host.submit(1, { namespaceId: 1, prp1: DATA, ...command });
const read = (first: number, blocks = 1, more: Partial<TestCommand> = {}) =>
  io({ opcode: 2, dwords: [first, 0, blocks - 1], ...more });
const write = (first: number, blocks = 1, flags = 0) => io({ opcode: 1, dwords: [first, 0, (blocks - 1) | flags] });

function writeList(address: number, entries: readonly number[]): void {
  const bytes = new Uint8Array(entries.length * 8);
  for (const [index, entry] of entries.entries()) viewOf(bytes).setBigUint64(index * 8, BigInt(entry), true);
  host.memory.write(address, bytes);
}

describe('a command that cannot be is refused, and changes neither disk nor memory', () => {
  const wide = MAX_TRANSFER_SIZE / 512;

  test.each<[string, TestCommand, string]>([
    ['an opcode that is not there', { opcode: 0x04 }, 'INVALID_OPCODE'],
    ['a read of namespace 0', { opcode: 2, namespaceId: 0 }, 'INVALID_NAMESPACE'],
    ['a read of all namespaces', { opcode: 2, namespaceId: ALL }, 'INVALID_NAMESPACE'],
    ['a write of another namespace', { opcode: 1, namespaceId: 2 }, 'INVALID_NAMESPACE'],
    ['a flush of another namespace', { opcode: 0, namespaceId: 2 }, 'INVALID_NAMESPACE'],
    ['zeroes to another namespace', { opcode: 8, namespaceId: 2 }, 'INVALID_NAMESPACE'],
    ['a deallocation of another namespace', { opcode: 9, namespaceId: 2, dwords: [0, 4] }, 'INVALID_NAMESPACE'],
    ['a read behind the end', { opcode: 2, dwords: [BLOCKS] }, 'LBA_OUT_OF_RANGE'],
    ['a read across the end', { opcode: 2, dwords: [BLOCKS - 1, 0, 1] }, 'LBA_OUT_OF_RANGE'],
    ['a read far behind the end', { opcode: 2, dwords: [0, 1] }, 'LBA_OUT_OF_RANGE'],
    ['a read at the end of all blocks', { opcode: 2, dwords: [ALL, ALL, 0xffff] }, 'LBA_OUT_OF_RANGE'],
    ['a write across the end', { opcode: 1, dwords: [BLOCKS - 1, 0, 1] }, 'LBA_OUT_OF_RANGE'],
    ['a comparison across the end', { opcode: 5, dwords: [BLOCKS - 1, 0, 1] }, 'LBA_OUT_OF_RANGE'],
    ['zeroes across the end', { opcode: 8, dwords: [BLOCKS - 1, 0, 1] }, 'LBA_OUT_OF_RANGE'],
    ['a read of more than a transfer', { opcode: 2, dwords: [0, 0, wide] }, 'INVALID_FIELD'],
    ['a write of more than a transfer', { opcode: 1, dwords: [0, 0, wide] }, 'INVALID_FIELD'],
    ['a write with a directive', { opcode: 1, dwords: [0, 0, 1 << 20] }, 'INVALID_FIELD'],
    ['data that begins inside a dword', { opcode: 2, prp1: DATA + 2 }, 'INVALID_PRP_OFFSET'],
    ['a second page that begins inside one', { opcode: 1, prp2: DATA + 4, dwords: [0, 0, 15] }, 'INVALID_PRP_OFFSET'],
    ['a list that begins inside an entry', { opcode: 1, prp2: LIST + 4, dwords: [0, 0, 31] }, 'INVALID_PRP_OFFSET'],
  ])('%s', async (_, command, status) => {
    disk.bytes.fill(0x11);
    host.memory.write(DATA, new Uint8Array(0x10000).fill(0x22));
    expect(await io(command)).toMatchObject({ status, doNotRetry: true, more: true });
    expect(disk.bytes.every(byte => byte === 0x11)).toBe(true);
    expect(host.memory.read(DATA, 0x10000).every(byte => byte === 0x22)).toBe(true);
    expect(host.controller.statistics).toMatchObject({ errors: 1, readCommands: 0, writeCommands: 0, mediaErrors: 0 });
  });

  test('a list entry that begins inside a page', async () => {
    writeList(LIST, [DATA + 0x1000, DATA + 0x2008]);
    expect((await read(0, 24, { prp2: LIST })).status).toBe('INVALID_PRP_OFFSET');
  });

  test('a list that leads to the inside of a page', async () => {
    writeList(LIST + 0xff0, [DATA + 0x1000, LIST + 0x1008]);
    expect((await read(0, 32, { prp2: LIST + 0xff0 })).status).toBe('INVALID_PRP_OFFSET');
  });

  test('a list that leads to itself is followed no further than the data needs', async () => {
    writeList(LIST + 0xff8, [LIST]);
    writeList(LIST, [DATA + 0x1000, DATA + 0x2000, DATA + 0x3000]);
    requireSuccess(await read(0, 32, { prp2: LIST + 0xff8 }));
  });
});

describe('data that cannot be moved is a data transfer error', () => {
  const OUTSIDE = MEMORY_SIZE;

  test.each<[string, Partial<TestCommand>]>([
    ['a page that is not mapped', { prp1: OUTSIDE }],
    ['a page at the end of all addresses', { prp1: 2n ** 64n - 4096n }],
    ['a second page that is not mapped', { prp2: OUTSIDE, dwords: [0, 0, 15] }],
    ['a list that is not mapped', { prp2: OUTSIDE, dwords: [0, 0, 31] }],
  ])('%s', async (_, more) => {
    for (const opcode of [1, 2, 5]) {
      expect(await io({ opcode, dwords: [0, 0, 0], ...more })).toMatchObject({
        status: 'DATA_TRANSFER_ERROR',
        doNotRetry: false,
        more: true,
      });
    }
    expect(disk.bytes.every(byte => byte === 0)).toBe(true);
    requireSuccess(await read(0));
  });

  test('a write whose data cannot be read leaves the disk as it was', async () => {
    disk.bytes.fill(0x11);
    const { status } = await io({ opcode: 1, prp2: OUTSIDE, dwords: [0, 0, 15] });
    expect(status).toBe('DATA_TRANSFER_ERROR');
    expect(disk.bytes.every(byte => byte === 0x11)).toBe(true);
  });

  test('so are the ranges of a deallocation', async () => {
    expect((await io({ opcode: 9, prp1: OUTSIDE, dwords: [0, 4] })).status).toBe('DATA_TRANSFER_ERROR');
  });
});

describe('what the disk fails with is told', () => {
  const failures: [string, Error, string, boolean][] = [
    ['EIO', new VfioError('EIO', { operation: 'write' }), 'WRITE_FAULT', false],
    ['ENOSPC', Object.assign(new Error('full'), { code: 'ENOSPC' }), 'CAPACITY_EXCEEDED', true],
    ['EROFS', Object.assign(new Error('read-only'), { code: 'EROFS' }), 'NAMESPACE_WRITE_PROTECTED', true],
    ['what has no errno', new Error('odd'), 'WRITE_FAULT', false],
  ];
  const cases = failures.flatMap(failure => (['throw', 'reject'] as const).map(how => [...failure, how] as const));

  test.each(cases)('%s while writing', async (_, error, status, doNotRetry, how) => {
    disk.failure = { error, how };
    for (const command of [{ opcode: 1, dwords: [0, 0, 0] }, { opcode: 8, dwords: [0, 0, 0] }, { opcode: 0 }]) {
      expect(await io(command)).toMatchObject({ status, doNotRetry, more: true });
    }
    disk.failure = undefined;
    requireSuccess(await write(0));
  });

  test.each(['throw', 'reject'] as const)('any error while reading is an unrecovered read error (%s)', async how => {
    disk.failure = { error: new Error('odd'), how };
    host.memory.write(DATA, new Uint8Array(512).fill(0x22));
    for (const opcode of [2, 5]) {
      expect(await io({ opcode })).toMatchObject({ status: 'UNRECOVERED_READ_ERROR', doNotRetry: false });
    }
    expect(host.memory.read(DATA, 512).every(byte => byte === 0x22)).toBe(true);
    expect(host.controller.statistics.mediaErrors).toBe(2);
  });
});

describe('what a command does besides', () => {
  const FORCE_UNIT_ACCESS = 1 << 30;

  test('a write is flushed before it completes if it says so, or the write cache is off', async () => {
    await write(0);
    expect(disk.accesses).toEqual(['write']);
    await write(0, 1, FORCE_UNIT_ACCESS);
    expect(disk.accesses).toEqual(['write', 'write', 'flush']);
    requireSuccess(await host.admin({ opcode: 9, dwords: [6, 0] }));
    await write(0);
    await io({ opcode: 8 });
    expect(disk.accesses.slice(3)).toEqual(['flush', 'write', 'flush', 'zero', 'flush']);
  });

  test('a read or comparison that says so makes durable first what it then reads', async () => {
    requireSuccess(await io({ opcode: 2, dwords: [0, 0, FORCE_UNIT_ACCESS] }));
    requireSuccess(await io({ opcode: 5, dwords: [0, 0, FORCE_UNIT_ACCESS] }));
    expect(disk.accesses).toEqual(['flush', 'read', 'flush', 'read']);
  });

  test('a write that cannot be flushed has failed', async () => {
    disk.flush = () => {
      throw new Error('odd');
    };
    expect((await write(0, 1, FORCE_UNIT_ACCESS)).status).toBe('WRITE_FAULT');
  });

  test('a flush of one or of all namespaces flushes the disk', async () => {
    requireSuccess(await io({ opcode: 0 }));
    requireSuccess(await io({ opcode: 0, namespaceId: ALL }));
    expect(disk.flushes).toBe(2);
    expect(host.controller.statistics.flushes).toBe(2);
  });

  test('zeroes may be longer than a transfer', async () => {
    disk.bytes.fill(0x11);
    requireSuccess(await io({ opcode: 8, dwords: [1, 0, 2999] }));
    expect(disk.bytes.subarray(512, 3001 * 512).every(byte => byte === 0)).toBe(true);
    expect([disk.bytes[511], disk.bytes[3001 * 512]]).toEqual([0x11, 0x11]);
  });

  test('a deallocation touches its ranges and nothing else, and none if one of them does not exist', async () => {
    const ranges = (...list: [number, number][]) => {
      const bytes = new Uint8Array(list.length * 16);
      for (const [index, [first, count]] of list.entries()) {
        viewOf(bytes).setUint32(index * 16 + 4, count, true);
        viewOf(bytes).setBigUint64(index * 16 + 8, BigInt(first), true);
      }
      host.memory.write(DATA, bytes);
      return io({ opcode: 9, dwords: [list.length - 1, 4] });
    };
    disk.bytes.fill(0x11);
    expect((await ranges([0, 4], [BLOCKS, 1])).status).toBe('LBA_OUT_OF_RANGE');
    expect(disk.bytes.every(byte => byte === 0x11)).toBe(true);
    requireSuccess(await ranges([0, 4], [10, 0], [BLOCKS - 1, 1]));
    const isZero = (block: number) => disk.bytes.subarray(block * 512, block * 512 + 512).every(byte => byte === 0);
    expect([0, 3, 4, 10, BLOCKS - 2, BLOCKS - 1].map(isZero)).toEqual([true, true, false, false, false, true]);
    host.memory.write(DATA, new Uint8Array(16).fill(0));
    requireSuccess(await io({ opcode: 9, dwords: [0, 3] }));
  });

  test('a comparison tells equal from different', async () => {
    host.memory.write(DATA, new Uint8Array(4096).fill(0x33));
    requireSuccess(await write(0, 8));
    requireSuccess(await io({ opcode: 5, dwords: [0, 0, 7] }));
    disk.bytes[4095] = 0;
    expect(await io({ opcode: 5, dwords: [0, 0, 7] })).toMatchObject({ status: 'COMPARE_FAILURE', doNotRetry: true });
  });

  test('it is counted', async () => {
    requireSuccess(await read(0, 4));
    requireSuccess(await write(0, 2));
    requireSuccess(await io({ opcode: 5 }));
    const { readCommands, bytesRead, writeCommands, bytesWritten, errors } = host.controller.statistics;
    expect([readCommands, bytesRead, writeCommands, bytesWritten, errors]).toEqual([2, 5 * 512, 1, 1024, 0]);
  });
});
