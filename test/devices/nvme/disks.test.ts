import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { FileDisk, MAX_MEMORY_DISK, MemoryDisk, NvmeController } from '../../../src/devices/nvme/index.js';
import { FREE_AREA, NvmeHost, requireSuccess, turn } from './nvme-host.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-disk-'));
afterAll(() => rmSync(folder, { recursive: true }));

const path = join(folder, 'disk.img');
const READ = { opcode: 2, namespaceId: 1, prp1: FREE_AREA };
const WRITE = { opcode: 1, namespaceId: 1, prp1: FREE_AREA };

beforeEach(() => writeFileSync(path, new Uint8Array(65536).fill(7)));

describe('a disk in a file', () => {
  test('keeps what is written to it', async () => {
    const disk = await FileDisk.open(path);
    await disk.write(1000, new Uint8Array(3000).fill(1));
    await disk.zero(2000, 500);
    await disk.flush();
    const bytes = new Uint8Array(65536);
    await disk.read(0, bytes);
    await disk.close();
    expect(Buffer.compare(readFileSync(path), bytes)).toBe(0);
    expect([999, 1000, 1999, 2000, 2499, 2500, 3999, 4000].map(at => bytes[at])).toEqual([7, 1, 1, 0, 0, 1, 1, 7]);
  });

  test('zeroes more than it writes at a time', async () => {
    const size = 2 ** 21 + 4096;
    writeFileSync(path, new Uint8Array(size).fill(7));
    const disk = await FileDisk.open(path);
    await disk.zero(512, size - 1024);
    await disk.close();
    const bytes = readFileSync(path);
    expect(bytes.subarray(512, size - 512).every(byte => byte === 0)).toBe(true);
    expect([bytes[511], bytes[size - 512]]).toEqual([7, 7]);
  });

  test('keeps what is trimmed', async () => {
    const disk = await FileDisk.open(path);
    disk.trim();
    await disk.close();
    expect(readFileSync(path).every(byte => byte === 7)).toBe(true);
  });

  test('that is made takes no room, and is refused where there is a file', async () => {
    const made = join(folder, 'made.img');
    const disk = await FileDisk.create(made, 2 ** 34);
    expect(disk.size).toBe(2 ** 34);
    await disk.close();
    expect(statSync(made).size).toBe(2 ** 34);
    expect(statSync(made).blocks).toBeLessThan(16);
    await expect(FileDisk.create(made, 4096)).rejects.toMatchObject({ errno: 'EEXIST' });
    await expect(FileDisk.create(join(folder, 'none.img'), 0)).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('that cannot be made is not left behind', async () => {
    const large = join(folder, 'large.img');
    await expect(FileDisk.create(large, Number.MAX_SAFE_INTEGER)).rejects.toMatchObject({ errno: 'EFBIG' });
    expect(existsSync(large)).toBe(false);
  });

  test("is nobody else's for as long as it is open, unless they share it rightly", async () => {
    const made = join(folder, 'locked.img');
    for (const open of [() => FileDisk.create(made, 4096), () => FileDisk.open(made)]) {
      const disk = await open();
      await expect(FileDisk.open(made)).rejects.toMatchObject({ errno: 'EBUSY' });
      await expect(FileDisk.open(made, { readOnly: true })).rejects.toMatchObject({ errno: 'EBUSY' });
      await (await FileDisk.open(made, { shared: true })).close();
      await disk.close();
    }
    const readers = [await FileDisk.open(made, { readOnly: true }), await FileDisk.open(made, { readOnly: true })];
    await expect(FileDisk.open(made)).rejects.toMatchObject({ errno: 'EBUSY' });
    for (const disk of readers) await disk.close();
  });

  test('that is a pipe is refused at once', async () => {
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    await expect(FileDisk.open(pipe, { readOnly: true })).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('is refused where there is none', async () => {
    mkdirSync(join(folder, 'folder'), { recursive: true });
    writeFileSync(join(folder, 'empty'), '');
    await expect(FileDisk.open(join(folder, 'absent'))).rejects.toMatchObject({ errno: 'ENOENT' });
    await expect(FileDisk.open(join(folder, 'folder'), { readOnly: true })).rejects.toMatchObject({ errno: 'EINVAL' });
    await expect(FileDisk.open(join(folder, 'empty'))).rejects.toMatchObject({ errno: 'EINVAL' });
    await expect(FileDisk.open('/dev/null')).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('that got shorter fails the reads behind its end, and no others', async () => {
    const disk = await FileDisk.open(path);
    const host = new NvmeHost({ disk });
    await host.start();
    truncateSync(path, 1024);
    requireSuccess(await host.submit(1, { ...READ, dwords: [0, 0, 1] }));
    expect((await host.submit(1, { ...READ, dwords: [1, 0, 1] })).status).toBe('UNRECOVERED_READ_ERROR');
    await host.close();
  });

  test('is closed when what is under way has ended, and then takes nothing', async () => {
    const disk = await FileDisk.open(path);
    const buffers = Array.from({ length: 50 }, () => new Uint8Array(65536));
    const reads = buffers.map(bytes => disk.read(0, bytes));
    await disk.close();
    await Promise.all(reads);
    expect(buffers.every(bytes => bytes.every(byte => byte === 7))).toBe(true);
    await expect(disk.read(0, new Uint8Array(512))).rejects.toMatchObject({ errno: 'EBADF' });
  });

  test('that was closed fails whatever comes', async () => {
    const disk = await FileDisk.open(path);
    const host = new NvmeHost({ disk });
    await host.start();
    await disk.close();
    await disk.close();
    expect((await host.submit(1, READ)).status).toBe('UNRECOVERED_READ_ERROR');
    expect((await host.submit(1, { opcode: 0, namespaceId: 1 })).status).not.toBe('SUCCESS');
    await host.close();
  });
});

describe('a disk that is read-only', () => {
  test('says so, gives its blocks, and takes none', async () => {
    const disk = await FileDisk.open(path, { readOnly: true });
    const host = new NvmeHost({ disk });
    await host.start();
    requireSuccess(await host.admin({ opcode: 6, namespaceId: 1, prp1: FREE_AREA, dwords: [0] }));
    expect(host.memory.read(FREE_AREA + 99, 1)[0]).toBe(1);
    requireSuccess(await host.submit(1, READ));
    expect(host.memory.read(FREE_AREA, 512).every(byte => byte === 7)).toBe(true);
    for (const opcode of [WRITE.opcode, 8]) {
      const { status, doNotRetry } = await host.submit(1, { ...WRITE, opcode });
      expect([status, doNotRetry]).toEqual(['NAMESPACE_WRITE_PROTECTED', true]);
    }
    host.memory.write(FREE_AREA, new Uint8Array(16));
    const trim = await host.submit(1, { ...WRITE, opcode: 9, dwords: [0, 4] });
    expect(trim.status).toBe('NAMESPACE_WRITE_PROTECTED');
    requireSuccess(await host.submit(1, { opcode: 0, namespaceId: 1 }));
    await host.close();
    expect(readFileSync(path).every(byte => byte === 7)).toBe(true);
  });
});

describe('options out of their limits are refused', () => {
  test.each([0, -1, 1.5, MAX_MEMORY_DISK + 1, Number.NaN])('a disk in memory of %d bytes', size => {
    expect(() => new MemoryDisk(size)).toThrow('size');
  });

  test.each([
    ['queues', { queues: 0 }],
    ['queues', { queues: 129 }],
    ['queues', { queues: 1.5 }],
    ['blockSize', { blockSize: 513 }],
    ['blockSize', { blockSize: 256 }],
    ['disk', { disk: new MemoryDisk(1000) }],
    ['disk', { disk: new MemoryDisk(512), blockSize: 4096 }],
  ])('%s: %j', (field, options) => {
    expect(() => new NvmeController({ disk: new MemoryDisk(4096), ...options })).toThrow(field);
  });
});

describe('a disk in memory', () => {
  test('lets others have their turn while a deallocation of all of it, many times over, goes on', async () => {
    const disk = new MemoryDisk(2 ** 24);
    disk.content.fill(7);
    const host = new NvmeHost({ disk });
    await host.start(2);
    const everything = new Uint8Array(256 * 16);
    for (let at = 0; at < everything.length; at += 16) new DataView(everything.buffer).setUint32(at + 4, 2 ** 15, true);
    host.memory.write(FREE_AREA, everything);
    const ended: string[] = [];
    const trim = host.submit(1, { ...WRITE, opcode: 9, dwords: [255, 4] }).then(() => ended.push('deallocation'));
    await turn();
    const read = host.submit(2, { ...READ, prp1: FREE_AREA + 4096 }).then(() => ended.push('read'));
    await Promise.all([trim, read]);
    expect(ended).toEqual(['read', 'deallocation']);
    expect(disk.content.every(byte => byte === 0)).toBe(true);
    await host.close();
  });
});
