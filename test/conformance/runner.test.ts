import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import {
  type Bench,
  type Check,
  type CheckResult,
  type ConformOptions,
  conform,
  Deviation,
  type DmaStimulus,
  selectChecks,
} from '../../src/conformance/index.js';
import { type DeviceHandle, LocalDevice } from '../../src/device/index.js';
import { DmaEngine, DmaEngineStimulus } from '../../src/devices/dma-engine/index.js';
import { linux, MigrationState, rfc, VfioError } from '../../src/uapi/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-conform-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A check that does what a test wants. */
function checkOf(name: string, run: (bench: Bench) => Promise<string>, more: Partial<Check> = {}): Check {
  return {
    name: `start/${name}`,
    group: 'start',
    demand: 'Does what the test wants.',
    source: 'the test',
    run,
    ...more,
  };
}

/** A run of some checks on an engine that this process can look at. */
async function runOn(
  engine: DmaEngine,
  checks: readonly Check[],
  options: ConformOptions = {},
): Promise<{ results: readonly CheckResult[]; opened: number; leftBehind: string | undefined; interrupted: boolean }> {
  let opened = 0;
  const report = await conform(
    async () => {
      opened++;
      return new LocalDevice(engine, linux);
    },
    { checks, timeLimitMs: 2000, ...options },
  );
  return { ...report, opened };
}

function verdicts(results: readonly CheckResult[]): string[] {
  return results.map(({ verdict }) => verdict);
}

/** How the device is left: both must hold whatever has happened. */
function expectClean(engine: DmaEngine): void {
  expect({ logging: engine.dma.log.active, state: engine.migration!.state }).toEqual({
    logging: false,
    state: MigrationState.RUNNING,
  });
}

/** Leaves the device as no check should find it. */
async function makeDirty(bench: Bench): Promise<string> {
  await bench.start();
  await bench.device.features.setMigrationState(MigrationState.STOP);
  return 'dirty';
}

describe('a verdict', () => {
  it('is passed with what was seen, failed for a deviation, and error for all else', async () => {
    const checks = [
      checkOf('passes', async () => 'as it\nshould be'),
      checkOf('deviates', async () => {
        throw new Deviation('bit 3 is missing');
      }),
      checkOf('breaks', async () => {
        throw new TypeError('undefined is not a function');
      }),
    ];
    const { results } = await runOn(new DmaEngine(), checks);
    expect(results.map(({ verdict, seen }) => [verdict, seen])).toEqual([
      ['passed', 'as it should be'],
      ['failed', 'bit 3 is missing'],
      ['error', 'undefined is not a function'],
    ]);
  });

  it('is not run where the profile does not demand it, or a need is not met', async () => {
    const run = async () => 'ran';
    const checks = [
      checkOf('other-profile', run, { profiles: ['vfio-user'] }),
      checkOf('needs-dma', run, { needs: ['logging', 'dma'] }),
      checkOf('needs-reads', run, { needs: ['dma-read'] }),
      checkOf('own-profile', run, { profiles: ['linux'] }),
      checkOf('needs-migration', run, { needs: ['migration', 'pre-copy', 'p2p'] }),
    ];
    const { results } = await runOn(new DmaEngine(), checks);
    expect(verdicts(results)).toEqual(['not run', 'not run', 'not run', 'passed', 'passed']);
    expect(results[0]!.seen).toBe('the linux profile does not demand it');
  });

  it('is not run for logging on a device without any', async () => {
    const silent = Object.assign(new DmaEngine(), { hasLogging: false });
    const { results } = await runOn(silent, [checkOf('any', async () => 'ran')]);
    expect(results[0]).toMatchObject({ verdict: 'not run', seen: 'the device has no DMA logging' });
  });

  it('is failed where the device refuses what no check is prepared for', async () => {
    const device = Object.assign(new LocalDevice(new DmaEngine(), linux), {
      getIrqInfo: async () => {
        throw new VfioError('EIO', { operation: 'GET_IRQ_INFO', message: 'worn out' });
      },
    });
    const asks = checkOf('asks', async bench => {
      await bench.within('GET_IRQ_INFO', bench.device.getIrqInfo(0));
      return 'answered';
    });
    const { results } = await conform(async () => device, { checks: [asks] });
    expect(results[0]).toMatchObject({ verdict: 'failed', seen: 'GET_IRQ_INFO: worn out (EIO)' });
  });

  it.each([
    [{ alignment: 0, maxLength: 4096 }, 1, 'its alignment is 0'],
    [{ alignment: 3, maxLength: 4096 }, 1, 'its alignment is 3'],
    [{ alignment: 8192, maxLength: 8192 }, 1, 'its alignment is 8192'],
    [{ alignment: 512, maxLength: 511 }, 1, 'less than a block'],
    [{ alignment: 1, maxLength: 4096 }, 0, 'it can write to no window'],
  ])('is none at all by a stimulus that writes %j in %i windows', async (limits, count, reason) => {
    const stimulus: DmaStimulus = {
      name: 'odd',
      limits,
      prepare: async (_, windows) => windows.slice(0, count),
      write: async () => {},
      close: async () => {},
    };
    await expect(runOn(new DmaEngine(), [], { stimulus })).rejects.toThrow(reason);
  });

  it('is not run for a reset or a write of no bytes where there is none', async () => {
    const fixed = Object.assign(new DmaEngine(), { flags: 0 });
    const stimulus: DmaStimulus = {
      name: 'coarse',
      limits: { alignment: 512, maxLength: 4096 },
      prepare: async (_, windows) => windows,
      write: async () => {},
      close: async () => {},
    };
    const checks = [
      checkOf('resets', async () => 'ran', { needs: ['reset'] }),
      checkOf('writes-nothing', async () => 'ran', { needs: ['dma', 'empty write'] }),
    ];
    const { results } = await runOn(fixed, checks, { stimulus });
    expect(results.map(({ seen }) => seen)).toEqual([
      'the device has no reset',
      'there is no stimulus that makes writes of no bytes',
    ]);
  });

  it("is error when DMA cannot be made: that is not the device's fault", async () => {
    const broken: DmaStimulus = {
      name: 'broken',
      limits: { alignment: 1, maxLength: 4096 },
      prepare: async (_, windows) => windows,
      write: async () => {
        throw new Error('the cable is loose');
      },
      close: async () => {},
    };
    const check = checkOf('writes', async bench => {
      await bench.dmaWrite(bench.window.iova, 1);
      return 'written';
    });
    const { results } = await runOn(new DmaEngine(), [check], { stimulus: broken });
    expect(results[0]).toMatchObject({ verdict: 'error', seen: expect.stringContaining('the cable is loose') });
  });

  it('is failed for a device that does not answer in time, and the next check has it anew', async () => {
    const engine = new DmaEngine();
    let opened = 0;
    const open = async (): Promise<DeviceHandle> => {
      const device = new LocalDevice(engine, linux);
      if (++opened > 1) return device;
      return Object.assign(device, { getIrqInfo: () => new Promise(() => {}) });
    };
    const ask = async (bench: Bench) => {
      await bench.within('GET_IRQ_INFO', bench.device.getIrqInfo(0));
      return 'answered';
    };
    const hang = checkOf('hangs', async bench => {
      await bench.start();
      const seen = await ask(bench).catch(async error => {
        // A wedged device: nothing works any more on this handle.
        await bench.leave();
        throw error;
      });
      return seen;
    });
    const { results } = await conform(open, { checks: [hang, checkOf('answers', ask)], timeLimitMs: 50 });
    expect(verdicts(results)).toEqual(['failed', 'passed']);
    expect(results[0]!.seen).toBe('GET_IRQ_INFO: no answer within 50 ms');
    expectClean(engine);
  });
});

describe('a device', () => {
  it('is clean at the beginning of each check, and at the end', async () => {
    const engine = new DmaEngine();
    await makeDirtyDirectly(engine);
    const looks = checkOf('looks', async bench => {
      expectClean(engine);
      return makeDirty(bench);
    });
    const { results } = await runOn(engine, [looks, looks, looks]);
    expect(verdicts(results)).toEqual(['passed', 'passed', 'passed']);
    expectClean(engine);
  });

  it('is brought back from the ERROR state by a reset', async () => {
    const engine = new DmaEngine();
    const errs = checkOf('errs', async bench => {
      await bench.device.features.setMigrationState(MigrationState.STOP);
      await bench.device.features.setMigrationState(MigrationState.RESUMING);
      await bench.device.writeMigrationData(new Uint8Array(64).fill(0xff));
      await bench.device.features.setMigrationState(MigrationState.STOP).catch(() => {});
      return `state ${engine.migration!.state}`;
    });
    const { leftBehind } = await runOn(engine, [errs]);
    expect(leftBehind).toBeUndefined();
    expectClean(engine);
  });

  it('is left clean when a check throws in the middle', async () => {
    const engine = new DmaEngine();
    const breaks = checkOf('breaks', async bench => {
      await makeDirty(bench);
      throw new Error('broken check');
    });
    await runOn(engine, [breaks]);
    expectClean(engine);
  });

  it('is left clean when the run is ended early, in a request or between two', async () => {
    for (const where of ['between', 'inside'] as const) {
      const engine = new DmaEngine();
      const controller = new AbortController();
      const ends = checkOf('ends', async bench => {
        await makeDirty(bench);
        if (where === 'between') controller.abort();
        else queueMicrotask(() => controller.abort());
        await bench.report(bench.wholeWindow());
        await bench.report(bench.wholeWindow());
        return 'went on';
      });
      const later = checkOf('later', async () => 'ran');
      const { results, interrupted } = await runOn(engine, [ends, later], { signal: controller.signal });
      expect(interrupted).toBe(true);
      expect(verdicts(results)).toEqual(['not run', 'not run']);
      expectClean(engine);
    }
  });

  it('is not waited for long, and left clean, when the run is ended while it does not answer', async () => {
    const engine = new DmaEngine();
    const controller = new AbortController();
    const hangs = checkOf('hangs', async bench => {
      await makeDirty(bench);
      queueMicrotask(() => controller.abort());
      return bench.within('an answer that never comes', new Promise<string>(() => {}));
    });
    const { results } = await runOn(engine, [hangs], { signal: controller.signal, timeLimitMs: 2 ** 30 });
    expect(verdicts(results)).toEqual(['not run']);
    expectClean(engine);
  });

  it('is left clean when whoever listens to the results throws', async () => {
    const engine = new DmaEngine();
    const run = runOn(engine, [checkOf('dirties', makeDirty)], {
      onResult: () => {
        throw new Error('no paper');
      },
    });
    await expect(run).rejects.toThrow('no paper');
    expectClean(engine);
  });

  it('is opened anew when a check has left it, and its handles are all closed', async () => {
    const engine = new DmaEngine();
    let open = 0;
    const leaves = checkOf('leaves', async bench => {
      await bench.start();
      await bench.leave();
      return 'left';
    });
    const openCounted = async () => {
      const device = new LocalDevice(engine, linux);
      open++;
      const close = device.close.bind(device);
      return Object.assign(device, {
        close: async () => {
          open--;
          await close();
        },
      });
    };
    const { results, leftBehind } = await conform(openCounted, { checks: [leaves, checkOf('dirties', makeDirty)] });
    expect({ verdicts: verdicts(results), leftBehind, open }).toEqual({
      verdicts: ['passed', 'passed'],
      leftBehind: undefined,
      open: 0,
    });
    expectClean(engine);
  });

  it('that cannot be reached in the beginning is an error of the run', async () => {
    const refused = conform(() => VfioUserClient.connect(join(folder, 'nobody')), { checks: [] });
    await expect(refused).rejects.toMatchObject({ errno: 'ENOENT' });
  });

  it('that is unmapped by a check has its memory back in the next', async () => {
    const engine = new DmaEngine();
    const unmaps = checkOf('unmaps', async bench => {
      await bench.unmapWindow();
      return `${engine.dma.map.statistics.regions}`;
    });
    const looks = checkOf('looks', async () => `${engine.dma.map.statistics.regions}`);
    const { results } = await runOn(engine, [unmaps, looks]);
    expect(results.map(({ seen }) => seen)).toEqual(['1', '2']);
  });
});

async function makeDirtyDirectly(engine: DmaEngine): Promise<void> {
  engine.dma.log.start(4096n, [{ iova: 0n, length: 4096n }]);
  await engine.migration!.setState(MigrationState.STOP);
}

describe('a device process that dies', () => {
  const phases: Record<string, (bench: Bench, kill: () => Promise<void>) => Promise<string>> = {
    'before a request': async (bench, kill) => {
      await kill();
      return `page size ${await bench.start()}`;
    },
    'while it logs': async (bench, kill) => {
      await bench.start();
      await kill();
      return bench.checkReport();
    },
    'while a request is under way': async (bench, kill) => {
      await bench.start();
      const killed = kill();
      for (let round = 0; round < 10_000; round++) await bench.report(bench.wholeWindow());
      await killed;
      return 'survived';
    },
    'in a migration state': async (bench, kill) => {
      await bench.device.features.setMigrationState(MigrationState.PRE_COPY);
      await kill();
      await bench.start();
      return 'survived';
    },
  };

  it.each(Object.entries(phases))('fails the check, and ends the run: %s', async (_, phase) => {
    const { child, path } = await serveEngine();
    const kill = async () => {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
    };
    const checks = [checkOf('dies', bench => phase(bench, kill)), checkOf('later', async () => 'ran')];
    const open = () => VfioUserClient.connect(path);
    const { results, leftBehind } = await conform(open, { checks, timeLimitMs: 5000 });
    expect(verdicts(results)).toEqual(['failed', 'not run']);
    expect(results[0]!.seen).toContain('the device went away');
    expect(leftBehind).toContain('could not be brought back');
  });

  it('and comes back is tried again', async () => {
    const { child, path } = await serveEngine();
    const dies = checkOf('dies', async bench => {
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
      await serveEngine(path);
      return `page size ${await bench.start()}`;
    });
    const checks = [dies, checkOf('later', async bench => `page size ${await bench.start()}`)];
    const { results, leftBehind } = await conform(() => VfioUserClient.connect(path), { checks, timeLimitMs: 5000 });
    expect(verdicts(results)).toEqual(['failed', 'passed']);
    expect(leftBehind).toBeUndefined();
  });
});

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let sockets = 0;

/** An engine in a process of its own, ended after the test. */
async function serveEngine(
  path = join(folder, `engine${sockets++}.sock`),
): Promise<{ child: ChildProcess; path: string }> {
  const child = spawn(process.execPath, [main, 'device', 'dma-engine', '--socket', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  await once(child.stdout!, 'data');
  return { child, path };
}

describe('what is random', () => {
  it('follows from the seed, and begins anew with each check', async () => {
    const draw = checkOf('draws', async bench => [1, 2, 3].map(() => bench.random.below(1000)).join());
    const first = await runOn(new DmaEngine(), [draw, draw], { seed: 7 });
    const second = await runOn(new DmaEngine(), [draw], { seed: 7 });
    const other = await runOn(new DmaEngine(), [draw], { seed: 8 });
    const numbers = first.results.map(({ seen }) => seen);
    expect(numbers[0]).toBe(numbers[1]);
    expect(second.results[0]!.seen).toBe(numbers[0]);
    expect(other.results[0]!.seen).not.toBe(numbers[0]);
  });
});

describe('selectChecks', () => {
  const checks = [
    checkOf('one', async () => ''),
    { ...checkOf('two', async () => ''), name: 'stop/two', group: 'stop' as const },
  ];

  it('takes names and groups, and keeps the order', () => {
    expect(selectChecks(checks, ['stop', 'start/one']).map(({ name }) => name)).toEqual(['start/one', 'stop/two']);
    expect(selectChecks(checks, undefined)).toEqual(checks);
  });

  it('refuses a name that nothing has', () => {
    expect(() => selectChecks(checks, ['start/three'])).toThrow(/there is no check start\/three.*EINVAL/);
  });
});

describe('the profile', () => {
  it('is the one that is spoken with the device', async () => {
    const report = await conform(async () => new LocalDevice(new DmaEngine(), rfc), {
      checks: [],
      stimulus: new DmaEngineStimulus(),
    });
    expect(report).toMatchObject({ profile: 'rfc', stimulus: 'dma-engine', target: 'local:dma-engine' });
  });
});
