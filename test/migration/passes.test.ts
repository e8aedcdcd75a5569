import { afterEach, describe, expect, it } from 'vitest';
import { isRunning } from '../../src/device/index.js';
import { type MigrateOptions, type MigrationEvent, migrate } from '../../src/migration/index.js';
import { type Host, hashOf, move, twoHosts } from './two-hosts.js';

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

async function pair(...parameters: Parameters<typeof twoHosts>) {
  const hosts = await twoHosts(...parameters);
  opened.push(hosts);
  return hosts;
}

function runs({ device }: Host): boolean {
  return isRunning(device.migration!.state) && device.runs;
}

/** Writes all pages of the source again whenever a pass begins: nothing converges, unless it is told to stop. */
function writeAll(source: Host): (event: MigrationEvent) => void {
  return event => {
    if (event.event !== 'pass' && !(event.event === 'phase' && event.phase === 'pre-copy')) return;
    if (!runs(source)) return;
    for (let page = 0; page < source.pages; page++) void source.touch(page);
  };
}

describe('the passes of a migration', () => {
  it('do not send pages of zeros, and make zeros of pages that were sent before', async () => {
    const hosts = await pair(600);
    for (let page = 100; page < 500; page++) hosts.source.memory.write(page * 4096, new Uint8Array(4096));
    // What an earlier attempt has left behind.
    hosts.destination.memory.write(300 * 4096, new Uint8Array(4096).fill(5));
    let cleared = false;
    const { report } = await move(hosts, {
      verify: 'abort',
      compression: 'off',
      onEvent(event) {
        if (event.event !== 'pass' || cleared) return;
        cleared = true;
        const { iova } = hosts.source;
        void hosts.source.device.dma.write(iova + 7n * 4096n, new Uint8Array(4096));
      },
    });
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(report.zeroPages).toBeGreaterThanOrEqual(400);
    expect(report.bytesSent).toBeLessThan(220 * 4096);
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('travel compressed when asked to, and arrive the same', async () => {
    const sizes: number[] = [];
    for (const compression of ['off', 'lz4', 'auto'] as const) {
      const hosts = await pair(2000);
      const { report } = await move(hosts, { verify: 'abort', compression });
      expect(report).toMatchObject({ outcome: 'moved', verified: true });
      sizes.push(report.bytesSent);
    }
    expect(sizes[1]!).toBeLessThan(sizes[0]! / 10);
    expect(sizes[2]!).toBeLessThanOrEqual(sizes[0]!);
  });

  it.each([
    ['abort', 'not-converged', 'source'],
    ['stop', 'moved', 'destination'],
  ] as const)('that bring no progress end by onStall: %s', async (onStall, outcome, runningAt) => {
    const hosts = await pair(200);
    const { report } = await move(hosts, { downtimeLimitMs: 1e-6, onStall, onEvent: writeAll(hosts.source) });
    expect(report.outcome).toBe(outcome);
    expect(report.runningAt).toBe(runningAt);
    expect(['stalled', 'passes']).toContain(report.stoppedBy);
    expect(report.reason).toMatch(/the rest would take/);
    expect(runs(hosts.source)).toBe(runningAt === 'source');
    if (outcome === 'moved') expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('wait for a machine that becomes quiet, when asked to', async () => {
    const hosts = await pair(200);
    const write = writeAll(hosts.source);
    let passes = 0;
    const { report } = await move(hosts, {
      downtimeLimitMs: 200,
      onStall: 'wait',
      bandwidth: 4096 * 500,
      compression: 'off',
      onEvent(event) {
        if (event.event === 'pass') passes++;
        if (passes < 6) write(event);
      },
    });
    expect(report).toMatchObject({ outcome: 'moved', stoppedBy: 'fits' });
    expect(report.passes.length).toBeGreaterThan(6);
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it.each([
    ['time', { maxMs: 300 }],
    ['bytes', { maxBytes: 300_000 }],
  ] as const)('end in the middle when a limit is reached: %s', async (stoppedBy, limit) => {
    for (const onStall of ['abort', 'stop'] as const) {
      const hosts = await pair(400);
      const { report } = await move(hosts, {
        ...limit,
        onStall,
        compression: 'off',
        bandwidth: 1e6,
        downtimeLimitMs: 1,
      });
      expect(report.stoppedBy).toBe(stoppedBy);
      expect(report.outcome).toBe(onStall === 'stop' ? 'moved' : 'not-converged');
      expect(report.passes[0]!.pagesSent).toBeLessThan(400);
      expect(runs(hosts.source)).toBe(onStall === 'abort');
      if (onStall === 'stop') expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
    }
  });

  it('leave pages that change all the time for the end', async () => {
    const hosts = await pair(300);
    const hot = [3, 4, 5, 250];
    let written = -1;
    const { report } = await move(hosts, {
      verify: 'abort',
      // 100 ms are 50 pages.
      downtimeLimitMs: 100,
      bandwidth: 500 * 4096,
      compression: 'off',
      onEvent(event) {
        if (event.event !== 'progress' || event.pass === written || !runs(hosts.source)) return;
        written = event.pass;
        for (const page of hot) void hosts.source.touch(page, written + 1);
        // Others, each only once.
        if (written < 2) for (let page = 0; page < 90; page++) void hosts.source.touch(10 + written * 100 + page, 1);
      },
    });
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(report.passes.map(pass => pass.hotPages).slice(0, 3)).toEqual([0, 0, 4]);
    expect(report.passes[2]!.pagesSent).toBe(90);
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('take as long as the bandwidth says', async () => {
    const hosts = await pair(200);
    const { report } = await move(hosts, { bandwidth: 2e6, compression: 'off' });
    const { bytesSent, durationMs } = report.passes[0]!;
    expect(bytesSent / durationMs).toBeLessThan(2000 * 1.2);
  });

  it.each([
    ['downtimeLimitMs', 0],
    ['maxPasses', 0],
    ['maxPasses', 1.5],
    ['maxMs', -1],
    ['maxBytes', Number.NaN],
    ['bandwidth', 0],
    ['onStall', 'hope'],
    ['compression', 'zip'],
  ])('are refused with %s %s', async (field, value) => {
    const hosts = await pair(1);
    const options: MigrateOptions = {
      to: { host: '127.0.0.1', port: 1 },
      memory: hosts.source.machine,
      devices: [hosts.source.handle],
      [field]: value,
    };
    await expect(migrate(options)).rejects.toMatchObject({ errno: 'EINVAL', field });
  });
});

describe('the report of a migration', () => {
  it('has parts of the downtime that add up, expected and real', async () => {
    const { report } = await move(await pair(500));
    const { estimated, actual } = report.downtime!;
    for (const { totalMs, ...parts } of [estimated, actual]) {
      expect(Object.values(parts).reduce((sum, part) => sum + part, 0)).toBeCloseTo(totalMs, 6);
      for (const part of Object.values(parts)) expect(part).toBeGreaterThanOrEqual(0);
    }
    expect(actual.totalMs).toBe(report.downtimeMs);
    expect(estimated.totalMs).toBe(report.estimatedDowntimeMs);
    expect(report).toMatchObject({ stoppedBy: 'fits', reason: expect.stringMatching(/fits the limit of 300 ms/) });
  });

  it('has phases in order, without gaps, that say what they cover', async () => {
    const { report } = await move(await pair(100), { verify: 'report' });
    expect(report.phases.map(({ phase }) => phase)).toEqual([
      'connect',
      'pre-copy',
      'stop-and-copy',
      'verify',
      'switch',
    ]);
    for (const [index, { startMs, durationMs, covers }] of report.phases.entries()) {
      const end = report.phases[index + 1]?.startMs ?? report.totalMs;
      expect(startMs + durationMs).toBeCloseTo(end, 6);
      expect(covers.length).toBeGreaterThan(20);
    }
  });

  it('says in words why it failed', async () => {
    const hosts = await pair(10);
    const report = await migrate({
      to: { host: '127.0.0.1', port: 1 },
      memory: hosts.source.machine,
      devices: [hosts.source.handle],
    });
    expect(report).toMatchObject({ outcome: 'failed', stoppedBy: undefined });
    expect(report.reason).toMatch(/ECONNREFUSED/);
  });
});
