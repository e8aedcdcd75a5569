import type { ChildProcess } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { cannotTrack } from '../tracker/cpu/helpers.js';
import { demoFolders, eventually, isAlive, parseLines, run, start } from './run-cli.js';

/** A limit that the first pass fits, however busy this machine is. */
const UNHURRIED = ['--downtime-limit', '60000'];
const SMALL = ['demo', '--json', '--memory', '64M', '--settle', '300', ...UNHURRIED];
/** Writes so fast that one pass is not the last. */
const TOO_MUCH = ['--rate', '300000', '--workload', 'uniform', '--downtime-limit', '1'];
const forbidUserfaultfd = new URL('../tracker/cpu/forbid-userfaultfd.mjs', import.meta.url).href;
type Processes = Record<'source' | 'destination', { host: number; device: number }>;

/** Runs the demo and calls `act` with its processes when the first event of that name comes. */
async function demoWith(
  parameters: string[],
  eventName: string,
  act: (processes: Processes, demo: ChildProcess) => void,
) {
  const { child, finished } = start([...SMALL, ...parameters]);
  let processes: Processes | undefined;
  let acted = false;
  let rest = '';
  child.stdout!.on('data', (text: string) => {
    rest += text;
    const lines = rest.split('\n');
    rest = lines.pop()!;
    for (const event of lines.map(line => JSON.parse(line))) {
      if (event.event === 'started') processes = event.processes;
      if (acted || event.event !== eventName || !processes) continue;
      acted = true;
      act(processes, child);
    }
  });
  const end = await finished;
  expect(acted, `${eventName} came`).toBe(true);
  return { ...end, processes: processes! };
}

async function expectNothingLeft(processes: Processes): Promise<void> {
  const pids = Object.values(processes).flatMap(({ host, device }) => [host, device]);
  expect(await eventually(() => !pids.some(isAlive)), 'a process is left').toBe(true);
  expect(await eventually(() => demoFolders().length === 0), `left: ${demoFolders()}`).toBe(true);
}

describe('dmalog demo', () => {
  it('migrates, proves it, and ends with 0', async () => {
    const { code, stdout, stderr } = await run(...SMALL);
    expect(stderr).toBe('');
    expect(code).toBe(0);
    const events = parseLines(stdout);
    const result = events.at(-1);
    expect(result).toMatchObject({
      event: 'result',
      verified: true,
      stalePages: 0,
      outcome: 'moved',
      runningAt: 'destination',
    });
    for (const field of ['passes', 'pagesSent', 'totalMs', 'downtimeMs'])
      expect(result[field], field).toBeTypeOf('number');
    expect(result.pagesSent).toBeGreaterThanOrEqual(16384);
    expect(result.digests.source).toBe(result.digests.destination);
    expect(result.engine.pagesChecked).toBeGreaterThan(0);
    expect(result.engine).toMatchObject({ checkErrors: 0, verify: { bad: 0 } });
    expect(result.cpus.pagesChecked).toBeGreaterThan(0);
    expect(result.cpus).toMatchObject({ checkErrors: 0, verify: { bad: 0 } });
    expect(result.lost).toEqual({ engine: 0, cpus: 0 });
    // Node alone has 40 MiB; how the guest's memory was read and written must not show.
    for (const host of ['source', 'destination']) {
      expect(result.peakMemoryBesideGuestBytes[host], host).toBeGreaterThan(30 * 2 ** 20);
    }
    // Both went on at the destination: they wrote more than they had at the switch.
    expect(result.engine.running).toBe(true);
    expect(result.cpus.running).toBe(true);
    expect(events[0].processes.source.host).not.toBe(events[0].processes.destination.host);
    expect(await eventually(() => demoFolders().length === 0)).toBe(true);
  });

  it('says of each pass what the device wrote and what the CPUs wrote', async () => {
    const { stdout } = await run(...SMALL);
    const passes = parseLines(stdout).filter(({ event }) => event === 'pass');
    const [first] = passes;
    expect(first.dirtyBySource.map(({ tracker }: { tracker: string }) => tracker)).toEqual(['DMA log', 'CPU log']);
    for (const { pages } of first.dirtyBySource) expect(pages).toBeGreaterThan(0);
    // Engine and CPUs have memory of their own.
    for (const { dirtyPages, dirtyBySource } of passes) {
      const found = dirtyBySource.reduce((sum: number, { pages }: { pages: number }) => sum + pages, 0);
      expect(found).toBe(dirtyPages);
    }
  });

  it('shows people the passes, the downtime and the proof', async () => {
    const { code, stdout } = await run('demo', '--memory', '32M', '--settle', '200', ...UNHURRIED);
    expect(code).toBe(0);
    expect(stdout).toMatch(/pages sent/);
    expect(stdout).toMatch(/downtime +\d/);
    expect(stdout).toMatch(/SHA-256 +source +[0-9a-f]{64}/);
    expect(stdout).toMatch(/dirty by DMA .* by CPUs/);
    expect(stdout).toMatch(/engine check .*\n +CPU check /);
    expect(stdout).toMatch(/Verified: memory was equal/);
  });

  it.each([
    ['DMA logging', '--no-log', 'engine', 'cpus'],
    ["the CPUs' writes", '--no-cpu-log', 'cpus', 'engine'],
  ])(
    'shows stale pages without %s, of those alone who wrote them, and ends with 4',
    async (_, option, loser, other) => {
      const { code, stdout } = await run(...SMALL, option);
      expect(code).toBe(4);
      const result = parseLines(stdout).at(-1);
      expect(result).toMatchObject({ verified: false, outcome: 'moved' });
      expect(result.stalePages).toBeGreaterThan(0);
      expect(result.lost).toEqual({ [loser]: result.stalePages, [other]: 0 });
      expect(result[loser].verify.stale).toBeGreaterThan(0);
    },
  );

  it('tells people who lost how many pages', async () => {
    const { code, stdout } = await run(
      'demo',
      '--memory',
      '32M',
      '--settle',
      '200',
      '--no-log',
      '--no-cpu-log',
      ...UNHURRIED,
    );
    expect(code).toBe(4);
    expect(stdout).toMatch(/DMA log +left out\n +CPU log +left out/);
    expect(stdout).toMatch(/Lost: .* stale at the switch; the engine lost [1-9].*, the CPUs [1-9]/);
  });

  it.each([
    ['asked to', {}, ['--cpu-log', 'marks'], null],
    ['the kernel does not let them be tracked', { NODE_OPTIONS: `--import=${forbidUserfaultfd}` }, [], /seccomp/],
  ] as [string, NodeJS.ProcessEnv, string[], RegExp | null][])(
    'lets the CPUs mark what they write when %s, and loses nothing',
    async (_, environment, parameters, why) => {
      const { code, stdout, stderr } = await start([...SMALL, ...parameters], 'pipe', environment).finished;
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      const events = parseLines(stdout);
      const { cpuLog } = events.find(({ event }) => event === 'migrating');
      expect(cpuLog.by).toBe('marks');
      if (why === null) expect(cpuLog.why).toBeUndefined();
      else expect(cpuLog.why).toMatch(why);
      expect(events.at(-1)).toMatchObject({ verified: true, lost: { engine: 0, cpus: 0 } });
      const first = events.find(({ event }) => event === 'pass');
      expect(first.dirtyBySource[1].pages).toBeGreaterThan(0);
    },
  );

  it.skipIf(cannotTrack)('lets the kernel track the CPUs where it can', async () => {
    const events = parseLines((await run(...SMALL)).stdout);
    expect(events.find(({ event }) => event === 'migrating').cpuLog).toEqual({ by: 'kernel' });
  });

  it("ends with 1 and a line that says why when the kernel's tracking is asked for and cannot be had", async () => {
    const environment = { NODE_OPTIONS: `--import=${forbidUserfaultfd}` };
    const { code, stderr } = await start([...SMALL, '--cpu-log', 'kernel'], 'pipe', environment).finished;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: source host: .*userfaultfd: .*seccomp.*\(EPERM\)\n$/);
    expect(await eventually(() => demoFolders().length === 0)).toBe(true);
  });

  it('refuses more memory than the machine has, in one line', async () => {
    const { code, stderr } = await run('demo', '--memory', '900G');
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: demo: --memory: two guests .* MiB are available \(ENOMEM\)\n$/);
  });

  it('ends with 3 when it does not converge', async () => {
    const { code, stdout } = await run(...SMALL, ...TOO_MUCH, '--max-passes', '2');
    expect(code).toBe(3);
    expect(parseLines(stdout).at(-1)).toMatchObject({ outcome: 'not-converged', runningAt: 'source', verified: false });
  });

  it.each([
    // In the middle of a pass, of which there are more than can end before it is noticed.
    ['host', TOO_MUCH, 'progress'],
    // Nobody asks the device anything while memory moves: it is missed when the machine has stopped.
    ['device', [], 'migrating'],
  ] as ['host' | 'device', string[], string][])(
    'ends with 5 when the destination %s is killed while memory moves',
    async (role, parameters, eventName) => {
      const { code, stdout, processes } = await demoWith(parameters, eventName, ({ destination }) => {
        process.kill(destination[role], 'SIGKILL');
      });
      expect(parseLines(stdout).at(-1)).toMatchObject({ outcome: 'failed', runningAt: 'source', verified: false });
      expect(code).toBe(5);
      await expectNothingLeft(processes);
    },
  );

  it.each(['host', 'device'] as const)(
    'ends with 1 and a line that says why when the source %s is killed',
    async role => {
      const { code, stdout, stderr, processes } = await demoWith([], 'migrating', ({ source }) => {
        process.kill(source[role], 'SIGKILL');
      });
      expect(code).toBe(1);
      const result = parseLines(stdout).at(-1);
      expect(result).toMatchObject({ event: 'result', outcome: 'failed', verified: false });
      if (role === 'host') expect(stderr).toMatch(/^dmalog: demo: the source host process ended \(SIGKILL\)/);
      else {
        // Killed before the migration had looked at it, or after.
        expect(['unknown', 'nowhere']).toContain(result.runningAt);
      }
      await expectNothingLeft(processes);
    },
  );

  it('ends with 130 when it is interrupted, and leaves nothing behind', async () => {
    const { code, stderr, processes } = await demoWith([], 'migrating', (_, demo) => demo.kill('SIGINT'));
    expect(code).toBe(130);
    expect(stderr).toBe('');
    await expectNothingLeft(processes);
  });

  it('ends, with nothing left, when whoever reads its output has left', async () => {
    const { code, stderr, processes } = await demoWith([], 'started', (_, demo) => demo.stdout!.destroy());
    expect(stderr).toBe('');
    expect(code).toBe(130);
    await expectNothingLeft(processes);
  });

  it('leaves no process and no folder behind when it is killed', async () => {
    const { signal, processes } = await demoWith([], 'migrating', (_, demo) => demo.kill('SIGKILL'));
    expect(signal).toBe('SIGKILL');
    await expectNothingLeft(processes);
  });
});
