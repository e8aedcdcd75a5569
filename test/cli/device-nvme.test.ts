import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { PciRegion, viewOf } from '../../src/uapi/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';
import { run, start } from './run-cli.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-nvme-cli-'));
afterAll(() => rmSync(folder, { recursive: true }));

const disk = join(folder, 'disk.img');
const absent = join(folder, 'absent.img');
const socket = join(folder, 'disk.sock');
writeFileSync(disk, new Uint8Array(65536));
writeFileSync(join(folder, 'odd.img'), new Uint8Array(1000));
writeFileSync(join(folder, 'empty.img'), '');
mkdirSync(join(folder, 'folder'));

/** Serves until it says so, has `use` look at it, and interrupts it. */
async function served(parameters: readonly string[], use: (device: VfioUserClient) => Promise<void>): Promise<void> {
  const { child, finished } = start(['device', 'nvme', '--socket', socket, ...parameters]);
  const first = await Promise.race([new Promise(resolve => child.stdout!.once('data', resolve)), finished]);
  expect(String(first)).toBe(`nvme serves ${socket}\n`);
  const device = await VfioUserClient.connect(socket);
  await use(device);
  await device.close();
  child.kill('SIGTERM');
  expect(await finished).toMatchObject({ code: 0, stderr: '' });
}

describe('dmalog device nvme', () => {
  it('serves a disk on a file', async () => {
    await served(['--file', disk], async device => {
      const registers = viewOf(await device.regionRead(PciRegion.BAR0, 0, 12));
      expect(registers.getUint32(8, true)).toBe(0x1_0400);
      const config = viewOf(await device.regionRead(PciRegion.CONFIG, 8, 4));
      expect(config.getUint32(0, true) >>> 8).toBe(0x010802);
    });
    expect(readFileSync(disk).length).toBe(65536);
  });

  it('makes a file where --size says how large, and takes it again afterwards', async () => {
    const made = join(folder, 'made.img');
    await served(['--file', made, '--size', '8M'], async () => {});
    expect(statSync(made).size).toBe(8 * 2 ** 20);
    await served(['--file', made, '--size', '8M', '--block-size', '4096'], async () => {});
  });

  it('serves a disk in memory, and as many queues as asked for', async () => {
    await served(['--memory', '1M', '--queues', '2'], async device => {
      const config = viewOf(await device.regionRead(PciRegion.CONFIG, 0, 256));
      const msix = config.getUint8(0x34);
      expect(config.getUint16(msix + 2, true) + 1).toBe(3);
    });
  });

  it('serves a file that may only be read', async () => {
    await served(['--file', disk, '--read-only'], async () => {});
  });

  it.each([
    [[], "one of '--file <path>' and '--memory <bytes>' is needed"],
    [['--file', disk, '--memory', '1M'], "option '--file <path>' cannot be used with option '--memory <bytes>'"],
    [['--memory', '1M', '--read-only'], "option '--read-only' cannot be used with option '--memory <bytes>'"],
    [['--memory', '1M', '--size', '1M'], "option '--size <bytes>' cannot be used with option '--memory <bytes>'"],
    [['--memory', '1M', '--shared'], "option '--shared' cannot be used with option '--memory <bytes>'"],
    [['--file', disk, '--serial', 'x'.repeat(21)], 'It takes 1 to 20 printable ASCII characters'],
    [['--file', disk, '--size', 'large'], 'It takes a size such as 1G'],
    [['--file', disk, '--queues', '0'], 'It takes a whole number, 1 to 128'],
    [['--file', disk, '--block-size', '100'], 'It takes one of 512, 1024, 2048, 4096'],
  ])('%j ends with 2 and one helpful line', async (parameters, line) => {
    const { code, stdout, stderr } = await run('device', 'nvme', '--socket', socket, ...parameters);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(line);
    expect(stderr).not.toMatch(/^ {4}at /m);
  });

  it.each([
    ['a file that is not there', ['--file', absent], '--size makes one'],
    ['a folder', ['--file', join(folder, 'folder')], 'EISDIR'],
    ['a folder, to be read', ['--file', join(folder, 'folder'), '--read-only'], 'is no regular file'],
    ['an empty file', ['--file', join(folder, 'empty.img')], 'is empty'],
    ['a file that ends inside a block', ['--file', join(folder, 'odd.img')], 'not a multiple of 512'],
    ['a file of another size', ['--file', disk, '--size', '1M'], 'has 65536 bytes'],
    ['a folder that is not there', ['--file', join(folder, 'none', 'x.img'), '--size', '1M'], 'ENOENT'],
    ['a size that ends inside a block', ['--file', absent, '--size', '1000'], 'not a multiple of 512'],
    ['a disk that is too large for memory', ['--memory', '1T'], 'a disk in memory has'],
  ])('ends with 1 and one line on %s', async (_, parameters, line) => {
    const { code, stderr } = await run('device', 'nvme', '--socket', socket, ...parameters);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: [^\n]*\n$/);
    expect(stderr).toContain(line);
    expect(existsSync(absent)).toBe(false);
  });

  it('ends with 1 and one line on a file that another one serves, unless it may share it', async () => {
    await served(['--file', disk], async () => {
      const other = ['device', 'nvme', '--socket', join(folder, 'other.sock'), '--file', disk];
      const refused = await run(...other);
      expect(refused.code).toBe(1);
      expect(refused.stderr).toMatch(/^dmalog: [^\n]* is in use [^\n]*\n$/);
      const { child, finished } = start([...other, '--shared']);
      await new Promise(resolve => child.stdout!.once('data', resolve));
      child.kill('SIGTERM');
      expect(await finished).toMatchObject({ code: 0, stderr: '' });
    });
  });

  it('tells in its help how QEMU attaches it', async () => {
    const { code, stdout } = await run('device', 'nvme', '--help');
    expect(code).toBe(0);
    expect(stdout).toContain('"driver":"vfio-user-pci"');
  });
});
