import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  type Check,
  CommandLineStimulus,
  type ConformanceReport,
  conform,
  type DmaStimulus,
  VdlogStimulus,
} from '../../src/conformance/index.js';
import { type Device, LocalDevice } from '../../src/device/index.js';
import { DmaEngine, DmaEngineStimulus } from '../../src/devices/dma-engine/index.js';
import { MemoryDisk, NvmeController, NvmeStimulus } from '../../src/devices/nvme/index.js';
import { linux, viewOf } from '../../src/uapi/index.js';
import { VfioUserClient, VfioUserServer } from '../../src/vfio-user/index.js';
import { PlainDevice, PlainHandle } from './deviations/plain-device.js';

const pageSizes = [4096n, 65536n, 2n ** 21n];
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'dmalog-stimuli-'));
});

afterEach(() => rmSync(folder, { recursive: true }));

async function overVfioUser(device: Device, stimulus: DmaStimulus): Promise<ConformanceReport> {
  await using server = await VfioUserServer.listen(device, { path: join(folder, 'socket') });
  return await conform(() => VfioUserClient.connect(server.path), { stimulus });
}

/** What has not passed, but for what the dialect does not demand, or a stimulus that makes no empty writes cannot show. */
function troubles({ results, stimulus }: ConformanceReport): string[] {
  const mayMiss = ({ needs, profiles }: Check) =>
    profiles !== undefined || (stimulus !== 'dma-engine' && needs?.includes('empty write'));
  return results
    .filter(({ verdict, check }) => verdict !== 'passed' && !(verdict === 'not run' && mayMiss(check)))
    .map(({ check, verdict, seen }) => `${verdict} ${check.name}: ${seen}`);
}

describe('the DMA engine, told by its registers, passes every check', () => {
  test('in this process', async () => {
    const engine = new DmaEngine({ log: { pageSizes } });
    const report = await conform(async () => new LocalDevice(engine), { stimulus: new DmaEngineStimulus() });
    expect(troubles(report)).toEqual([]);
  });

  test('over vfio-user', async () => {
    expect(troubles(await overVfioUser(new DmaEngine({ log: { pageSizes } }), new DmaEngineStimulus()))).toEqual([]);
  });

  test('is told from other devices', async () => {
    const nvme = new NvmeController({ disk: new MemoryDisk(2 ** 20) });
    const conforming = conform(async () => new LocalDevice(nvme), { stimulus: new DmaEngineStimulus() });
    await expect(conforming).rejects.toThrow('is no DMA engine');
  });
});

describe('the NVMe controller, made to read its disk, passes every check', () => {
  test.each([512, 4096])('in this process, with blocks of %i bytes', async blockSize => {
    const nvme = new NvmeController({ disk: new MemoryDisk(2 ** 20), blockSize, log: { pageSizes } });
    const report = await conform(async () => new LocalDevice(nvme), { stimulus: new NvmeStimulus() });
    expect(troubles(report)).toEqual([]);
  });

  test('over vfio-user', async () => {
    const nvme = new NvmeController({ disk: new MemoryDisk(2 ** 20) });
    expect(troubles(await overVfioUser(nvme, new NvmeStimulus()))).toEqual([]);
  });

  test('with a disk of one block', async () => {
    const nvme = new NvmeController({ disk: new MemoryDisk(512) });
    const report = await conform(async () => new LocalDevice(nvme), {
      stimulus: new NvmeStimulus(),
      only: ['report', 'bitmap'],
    });
    expect(troubles(report)).toEqual([]);
  });

  test('and its disk holds what it held', async () => {
    const disk = new MemoryDisk(65536);
    disk.content.forEach((_, index) => {
      disk.content[index] = index % 251;
    });
    const before = disk.content.slice();
    const nvme = new NvmeController({ disk });
    const only = ['report'];
    const report = await conform(async () => new LocalDevice(nvme), { stimulus: new NvmeStimulus(), only });
    expect(troubles(report)).toEqual([]);
    expect(disk.content).toEqual(before);
  });

  test('is told from other devices', async () => {
    const engine = new DmaEngine();
    const conforming = conform(async () => new LocalDevice(engine), { stimulus: new NvmeStimulus() });
    await expect(conforming).rejects.toThrow('is no NVMe controller');
  });
});

/** The test module's command, as the module reads it. */
class VdlogTwin extends PlainDevice {
  readonly sizes = new Set<number>();

  protected override writeRegister(bar = 0, offset = 0, data = new Uint8Array(0)): void {
    this.sizes.add(data.length);
    if (bar !== 0 || offset !== 0 || data.length !== 24) throw new Error('no command');
    const view = viewOf(data);
    const length = Number(view.getBigUint64(8, true));
    if (length === 0) throw new Error('nothing to write');
    if ((view.getUint32(16, true) & 2) === 0) this.dmaWrite(view.getBigUint64(0, true), length);
  }
}

test("the test module's command is written whole, and makes the module mark pages", async () => {
  const twin = new VdlogTwin();
  const report = await conform(async () => new PlainHandle(twin, linux), { stimulus: new VdlogStimulus() });
  expect(troubles(report)).toEqual([]);
  expect([...twin.sizes]).toEqual([24]);
});

function hasReader(fifo: string): boolean {
  try {
    closeSync(openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK));
    return true;
  } catch {
    return false;
  }
}

describe("a command of the user's", () => {
  const device = () => new PlainHandle(new PlainDevice(), linux);

  test('is told address and size in its line, and more in its environment', async () => {
    const file = join(folder, 'seen');
    const stimulus = new CommandLineStimulus({
      command: `echo {iova} {length} $DMALOG_ACCESS $DMALOG_IOVA $DMALOG_LENGTH $DMALOG_TARGET >> ${file}`,
      readCommand: `echo read {length} at {iova}, $DMALOG_ACCESS >> ${file}`,
    });
    await stimulus.prepare(device(), []);
    await stimulus.write(0x1000n, 24);
    await stimulus.read!(0x2000n, 1);
    expect(readFileSync(file, 'utf8')).toBe('0x1000 24 write 0x1000 24 local:deviant\nread 1 at 0x2000, read\n');
  });

  test('that fails is an error that says how, and not a deviation of the device', async () => {
    const stimulus = new CommandLineStimulus({ command: 'echo ignored; echo no such wire >&2; exit 3' });
    await expect(stimulus.write(0n, 1)).rejects.toThrow(/ended with 3: no such wire \(EIO\)/);
    const { results } = await conform(async () => device(), { stimulus, only: ['bitmap/bit-of-page'] });
    expect(results.map(({ verdict }) => verdict)).toEqual(['error']);
    expect(results[0]!.seen).toMatch(/no such wire/);
  });

  test('that a signal ends is an error, too', async () => {
    const stimulus = new CommandLineStimulus({ command: 'kill -KILL $$' });
    await expect(stimulus.write(0n, 1)).rejects.toThrow(/was ended by SIGKILL/);
  });

  test('is ended with all that it has started when the stimulus is closed', async () => {
    const stimulus = new CommandLineStimulus({ command: 'sleep 1000 & sleep 1000; true' });
    const write = stimulus.write(0n, 1);
    await stimulus.close();
    await expect(write).rejects.toThrow(/was ended by SIGKILL/);
  });

  test('that does not end in time is ended, so that it cannot write when another check looks', async () => {
    const file = join(folder, 'late');
    const stimulus = new CommandLineStimulus({
      command: `trap '' TERM; read line < ${file}; echo late >> ${file}.seen`,
    });
    execFileSync('mkfifo', [file]);
    const only = ['bitmap/bit-of-page'];
    const { results } = await conform(async () => device(), { stimulus, only, timeLimitMs: 300 });
    expect(results[0]).toMatchObject({
      verdict: 'error',
      seen: 'DMA write of 1 bytes at 0x10000000: the stimulus: no answer within 300 ms',
    });
    // Without a reader it cannot be opened.
    await expect.poll(() => hasReader(file)).toBe(false);
  });

  test('may print as much as it likes', async () => {
    const stimulus = new CommandLineStimulus({ command: 'head -c 20000000 /dev/zero; echo the end >&2; exit 7' });
    await expect(stimulus.write(0n, 1)).rejects.toThrow(/ended with 7/);
  });

  test('says where it can write, and in which steps', async () => {
    const windows = [{ iova: 0x10_0000n, length: 0x10_0000n }];
    const limits = { alignment: 64 };
    const stimulus = new CommandLineStimulus({ command: 'true', windows, limits });
    expect(stimulus.windows).toEqual(windows);
    expect(stimulus.limits).toEqual({ alignment: 64, maxLength: 2 ** 20 });
    expect(stimulus.read).toBeUndefined();
  });
});
