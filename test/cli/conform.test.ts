import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DOMParser } from '@xmldom/xmldom';
import { Parser } from 'tap-parser';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { checks } from '../../src/conformance/index.js';
import { DmaEngine } from '../../src/devices/dma-engine/index.js';
import { MigrationState } from '../../src/uapi/index.js';
import { VfioUserServer } from '../../src/vfio-user/index.js';
import { parseLines, run, start } from './run-cli.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-conform-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const engineModule = fileURLToPath(new URL('../../dist/devices/dma-engine/index.js', import.meta.url));
const documented = readFileSync(new URL('../../docs/conformance.md', import.meta.url), 'utf8');
let sockets = 0;

/** An engine of this process, on a socket, that can be looked at when others have used it. */
async function serveEngine(): Promise<{ engine: DmaEngine; target: string }> {
  const engine = new DmaEngine();
  const path = join(folder, `engine${sockets++}.sock`);
  const server = await VfioUserServer.listen(engine, { path });
  onTestFinished(() => server.close());
  return { engine, target: `vfio-user:${path}` };
}

function expectClean(engine: DmaEngine): void {
  expect({ logging: engine.dma.log.active, state: engine.migration!.state }).toEqual({
    logging: false,
    state: MigrationState.RUNNING,
  });
}

/** A device author's module whose engine forgets its log at every report outside of the interval, too. */
function forgetfulModule(): string {
  const path = join(folder, 'forgetful.mjs');
  writeFileSync(
    path,
    `import { DmaEngine } from ${JSON.stringify(engineModule)};
     const engine = new DmaEngine();
     const report = engine.dma.log.report.bind(engine.dma.log);
     engine.dma.log.report = (...asked) => {
       report(...asked);
       report(0n, 1n << 40n, 1n << 20n, new Uint32Array(2 ** 15));
     };
     export default engine;`,
  );
  return `local:${path}`;
}

describe('dmalog conform', () => {
  it.each([
    ['local:dma-engine', 'linux'],
    ['local:dma-engine', 'vfio-user'],
    ['local:dma-engine', 'rfc'],
    ['local:nvme', 'linux'],
    ['local:nvme', 'vfio-user'],
  ])('gives %s by the %s profile the result that docs/conformance.md has, and ends with 0', async (target, profile) => {
    const { code, stdout, stderr } = await run('conform', target, '--profile', profile, '--json');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const { counts, stimulus } = parseLines(stdout).at(-1);
    const { passed, failed, 'not run': notRun } = counts;
    const row = `| \`${target}\` | ${profile} | ${stimulus} | ${passed} | ${failed} | ${notRun} |`;
    expect(documented).toContain(row);
  });

  it('recognises an engine behind a socket, and leaves it clean', async () => {
    const { engine, target } = await serveEngine();
    const { code, stdout } = await run('conform', target, '--only', 'start', '--only', 'report', '--json');
    const last = parseLines(stdout).at(-1);
    expect(code).toBe(0);
    expect(last).toMatchObject({
      event: 'result',
      target,
      profile: 'vfio-user',
      stimulus: 'dma-engine',
      leftBehind: null,
    });
    expect(last.counts.passed).toBeGreaterThan(30);
    expectClean(engine);
  });

  it('ends with 4 when a check has failed, and says what was demanded, where, and seen', async () => {
    const only = ['--only', 'report/clears-only-the-interval'];
    const { code, stdout } = await run('conform', forgetfulModule(), '--stimulus', 'engine', ...only);
    expect(code).toBe(4);
    expect(stdout).toContain('✗ report/clears-only-the-interval');
    expect(stdout).toMatch(
      /demand: A report of a part clears that part, and nothing else\.\n +source: contract rule 3/,
    );
    expect(stdout).toMatch(/is missing: a written page is lost/);
  });

  it('does not run what needs DMA where nobody makes any', async () => {
    const { code, stdout } = await run(
      'conform',
      'local:dma-engine',
      '--stimulus',
      'none',
      '--only',
      'report',
      '--json',
    );
    expect(code).toBe(0);
    const { checks: done } = parseLines(stdout).at(-1);
    const clears = done.find(({ name }: { name: string }) => name === 'report/clears');
    expect(clears).toMatchObject({ verdict: 'not run', seen: expect.stringContaining('no stimulus') });
  });

  it('ends with 1 when a check could not tell, as with a command that fails', async () => {
    const parameters = ['--command', 'echo no such wire >&2; exit 3', '--only', 'report/clears'];
    const { code, stdout } = await run('conform', 'local:dma-engine', ...parameters);
    expect(code).toBe(1);
    expect(stdout).toMatch(/! report\/clears .*no such wire/);
  });

  it('ends with 1 and one line for a device that cannot be reached', async () => {
    const { code, stderr } = await run('conform', `vfio-user:${join(folder, 'nobody.sock')}`);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: .*ENOENT\)\n$/);
  });

  it.each([
    [['conform'], "missing required argument 'target'"],
    [['conform', 'nonsense'], "'nonsense' is no device; one of vfio-user:/run/dev.sock"],
    [['conform', 'local:dma-engine', '--only', 'start/nothing'], 'there is no check start/nothing'],
    [['conform', 'local:dma-engine', '--stimulus', 'magic'], 'It takes one of auto, none, engine'],
    [['conform', 'local:dma-engine', '--stimulus', 'command'], "'--stimulus command' needs '--command <line>'"],
    [['conform', 'local:dma-engine', '--window', '16M'], 'It takes an address and a size such as 0x10000000+16M'],
    [
      ['conform', 'local:dma-engine', '--window', '0x1000+4K'],
      'It takes whole pages of 4096 bytes, and 1 MiB at least',
    ],
    [['conform', 'local:dma-engine', '--command', 'true', '--alignment', '0'], 'It takes a power of two, 1 to 4096'],
    [['conform', 'local:dma-engine', '--command', 'true', '--alignment', '3'], 'It takes a power of two, 1 to 4096'],
    [['conform', 'local:dma-engine', '--command', 'true', '--alignment', '2M'], 'It takes a power of two, 1 to 4096'],
    [['conform', 'local:dma-engine', '--alignment', '64'], "'--alignment' needs '--command <line>'"],
    [['conform', 'local:dma-engine', '--window', '0x0+16M'], "'--window' needs '--command <line>'"],
    [['conform', 'local:dma-engine', '--read-command', 'true'], "'--read-command' needs '--command <line>'"],
    [
      ['conform', 'local:dma-engine', '--command', 'true', '--stimulus', 'engine'],
      "'--command' makes the device write, not '--stimulus engine'",
    ],
    [['conform', 'local:dma-engine', '--json', '--tap'], "cannot be used with option '--tap'"],
  ])('%j ends with 2 and one helpful line', async (parameters, line) => {
    const { code, stdout, stderr } = await run(...parameters);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toContain(line);
    expect(stderr).not.toMatch(/^ {4}at /m);
  });

  it('lists every check with its demand and source, for people and programs', async () => {
    const { stdout } = await run('conform', '--list');
    for (const { name, demand, source } of checks) {
      for (const text of [name, demand, source]) expect(stdout).toContain(text);
    }
    const lines = parseLines((await run('conform', '--list', '--json')).stdout);
    expect(lines.map(({ name }) => name)).toEqual(checks.map(({ name }) => name));
  });

  it('prints TAP, and writes JUnit XML, that hold every check', async () => {
    const file = join(folder, 'report.xml');
    const { code, stdout } = await run('conform', 'local:dma-engine', '--only', 'stop', '--tap', '--junit', file);
    expect(code).toBe(0);
    const stops = checks.filter(({ group }) => group === 'stop').map(({ name }) => name);
    const asserts = Parser.parse(stdout).filter(([event]) => event === 'assert');
    expect(asserts.map(([, assert]) => assert.name)).toEqual(stops);
    const document = new DOMParser().parseFromString(readFileSync(file, 'utf8'), 'text/xml');
    const cases = Array.from(document.getElementsByTagName('testcase'));
    expect(cases.map(element => element.getAttribute('name'))).toEqual(stops);
  });

  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('leaves the device clean when it is ended by %s', async signal => {
    const { engine, target } = await serveEngine();
    const { child, finished } = start(['conform', target, '--json']);
    const started = await new Promise<boolean>(resolve => {
      child.stdout!.on('data', () => {
        if (engine.dma.log.active) resolve(true);
      });
      child.on('close', () => resolve(false));
    });
    expect(started).toBe(true);
    child.kill(signal);
    const { code, stdout } = await finished;
    expect(code).toBe(130);
    expect(parseLines(stdout).at(-1)).toMatchObject({ event: 'result', interrupted: true, leftBehind: null });
    expectClean(engine);
  });

  it('leaves the device clean when nobody reads its output any more', async () => {
    const { engine, target } = await serveEngine();
    const { child, finished } = start(['conform', target, '--json']);
    await new Promise(resolve => child.stdout!.once('data', resolve));
    child.stdout!.destroy();
    expect((await finished).stderr).toBe('');
    expectClean(engine);
  });
});
