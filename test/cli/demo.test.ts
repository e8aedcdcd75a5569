import type { ChildProcess } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { demoFolders, eventually, isAlive, parseLines, run, start } from './run-cli.js';

const SMALL = ['demo', '--json', '--memory', '64M', '--settle', '300'];
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
    // The engine went on at the destination: it wrote more than it had at the switch.
    expect(result.engine.running).toBe(true);
    expect(events[0].processes.source.host).not.toBe(events[0].processes.destination.host);
    expect(await eventually(() => demoFolders().length === 0)).toBe(true);
  });

  it('shows people the passes, the downtime and the proof', async () => {
    const { code, stdout } = await run('demo', '--memory', '32M', '--settle', '200');
    expect(code).toBe(0);
    expect(stdout).toMatch(/pages sent/);
    expect(stdout).toMatch(/downtime +\d/);
    expect(stdout).toMatch(/SHA-256 +source +[0-9a-f]{64}/);
    expect(stdout).toMatch(/Verified: memory was equal/);
  });

  it('shows stale pages without DMA logging, and ends with 4', async () => {
    const { code, stdout } = await run(...SMALL, '--no-log');
    expect(code).toBe(4);
    const result = parseLines(stdout).at(-1);
    expect(result).toMatchObject({ verified: false, outcome: 'moved' });
    expect(result.stalePages).toBeGreaterThan(0);
    expect(result.engine.verify.stale).toBeGreaterThan(0);
  });

  it('refuses more memory than the machine has, in one line', async () => {
    const { code, stderr } = await run('demo', '--memory', '900G');
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: demo: --memory: two guests .* MiB are available \(ENOMEM\)\n$/);
  });

  it('ends with 3 when it does not converge', async () => {
    const faster = ['--rate', '300000', '--workload', 'uniform', '--max-passes', '2', '--downtime-limit', '1'];
    const { code, stdout } = await run(...SMALL, ...faster);
    expect(code).toBe(3);
    expect(parseLines(stdout).at(-1)).toMatchObject({ outcome: 'not-converged', runningAt: 'source', verified: false });
  });

  it.each(['host', 'device'] as const)(
    'ends with 5 when the destination %s is killed while memory moves',
    async role => {
      const { code, stdout, processes } = await demoWith([], 'migrating', ({ destination }) => {
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
