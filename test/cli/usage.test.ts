import { mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { DmaEngineDriver } from '../../src/devices/dma-engine/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';
import { eventually, run, start } from './run-cli.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('dmalog', () => {
  it.each([
    [['--help']],
    [['demo', '--help']],
    [['device', '--help']],
    [['device', 'dma-engine', '--help']],
    [['--version']],
  ])('%j ends with 0 and says something', async parameters => {
    const { code, stdout, stderr } = await run(...parameters);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.length).toBeGreaterThan(4);
  });

  it.each([
    [['demo', '--memory', 'lots'], 'It takes a size such as 1G'],
    [['demo', '--memory', '0'], 'It takes a whole number'],
    [['demo', '--rate', '-1'], 'It takes a whole number'],
    [['demo', '--workload', 'lazy'], 'It takes one of sequential, uniform, hot-set, rings'],
    [['demo', '--cpus', '0'], 'It takes a whole number, 1 to 64'],
    [['demo', '--cpu-log', 'magic'], 'It takes one of auto, kernel, marks'],
    [['demo', '--downtime-limit', '0'], 'It takes a whole number, 1 or more'],
    [['demo', 'extra'], 'too many arguments'],
    [['dmeo'], 'Did you mean demo?'],
    [['device', 'dma-engine'], "required option '--socket <path>'"],
    [['device', 'floppy'], 'unknown command'],
    [['--nonsense'], 'unknown option'],
  ])('%j ends with 2 and one helpful line', async (parameters, line) => {
    const { code, stdout, stderr } = await run(...parameters);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toContain(line);
    expect(stderr).not.toMatch(/^ {4}at /m);
  });

  it.each([
    ['a folder that is not there', join(folder, 'none', 'x.sock'), 'ENOENT'],
    ['a file that is no socket', join(folder, 'file'), 'EEXIST'],
    ['a path that is too long', join(folder, 'x'.repeat(120)), 'EINVAL'],
  ])('device ends with 1 and one line on %s', async (_, path, errno) => {
    writeFileSync(join(folder, 'file'), 'not yours');
    const { code, stderr } = await run('device', 'dma-engine', '--socket', path);
    expect(code).toBe(1);
    expect(stderr).toMatch(new RegExp(`^dmalog: .*${errno}\\)\n$`));
  });
});

describe('dmalog with an output that cannot be written', () => {
  it('says so in one line, and ends with 1', async () => {
    const { child, finished } = start(['demo', '--help'], openSync('/dev/full', 'w'));
    const { code, stderr } = await finished;
    expect(child.pid).toBeGreaterThan(0);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: standard output: .*ENOSPC\)\n$/);
  });

  it('is quiet when the reader has left', async () => {
    const { child, finished } = start(['demo', '--help']);
    child.stdout!.destroy();
    expect((await finished).stderr).toBe('');
  });
});

describe('dmalog device dma-engine', () => {
  it('serves a device, and removes its socket when it is interrupted', async () => {
    const path = join(folder, 'engine.sock');
    const { child, finished } = start(['device', 'dma-engine', '--socket', path]);
    await new Promise(resolve => child.stdout!.once('data', resolve));
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const client = await VfioUserClient.connect(path);
    const engine = await DmaEngineDriver.attach(client);
    expect((await engine.statistics()).running).toBe(false);
    child.kill('SIGINT');
    expect((await finished).code).toBe(130);
    await client.close();
    expect(await eventually(() => !statSync(path, { throwIfNoEntry: false }))).toBe(true);
  });
});
