import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { settingsOf } from '../../../src/devices/guest-cpus/cpu-workload.js';
import type { CpuWorkload, GuestCpusOptions } from '../../../src/devices/guest-cpus/index.js';
import { Workload } from '../../../src/devices/workload/index.js';
import type { Tracker } from '../../../src/tracker/index.js';
import { MigrationState } from '../../../src/uapi/index.js';
import { cannotTrack, dirtyIovas } from '../../tracker/cpu/helpers.js';
import { CpuTracker, DirtySet, GuestCpus, GuestMemory, LocalDevice, MarkedTracker } from './built.js';

const PAGE = 4096;
const PAGES = 512;
/** Where the machine sees its memory: not where the mapping has it. */
const IOVA = 0x4000_0000;
const range = { iova: BigInt(IOVA), length: BigInt(PAGES * PAGE) };

function workload(changes: Partial<CpuWorkload> = {}): CpuWorkload {
  return { kind: 'hot-set', base: IOVA, length: PAGES * PAGE, rate: 50_000, seed: 3, exponent: 1, ...changes };
}

/** A machine of CPUs and memory, which lies a page behind its mapping's start. */
async function machineWith(cpus: number, shareMarks?: GuestCpusOptions['shareMarks']) {
  const memory = GuestMemory.create((PAGES + 1) * PAGE);
  const slot = { ...range, memory, offset: PAGE };
  const device = await GuestCpus.create({ cpus, slot, ...(shareMarks && { shareMarks }) });
  const handle = new LocalDevice(device);
  return {
    memory,
    slot,
    device,
    handle,
    contents() {
      const bytes = new Uint8Array(PAGES * PAGE);
      memory.read(PAGE, bytes);
      return Buffer.from(bytes);
    },
    async wrote(pages: number) {
      while ((await device.statistics()).pagesWritten < pages) await delay(1);
    },
    async [Symbol.asyncDispose]() {
      await device[Symbol.asyncDispose]();
      memory.close();
    },
  };
}

type Machine = Awaited<ReturnType<typeof machineWith>>;

/** Moves CPUs and memory, as a migration does at its end. */
async function move(source: Machine, destination: Machine): Promise<void> {
  await source.handle.features.setMigrationState(MigrationState.STOP_COPY);
  await destination.handle.features.setMigrationState(MigrationState.RESUMING);
  for (;;) {
    const piece = await source.handle.readMigrationData(1000);
    if (piece.length === 0) break;
    await destination.handle.writeMigrationData(piece);
  }
  destination.memory.write(PAGE, source.contents());
  await destination.handle.features.setMigrationState(MigrationState.RUNNING);
}

/** What one CPU's memory holds after so many pages, without threads. */
function replay(plan: CpuWorkload, pages: number): Buffer {
  const bytes = Buffer.alloc(PAGES * PAGE);
  const memory = {
    read: (iova: number, into: Uint8Array) => void into.set(bytes.subarray(iova - IOVA, iova - IOVA + into.length)),
    write: (iova: number, from: Uint8Array) => void bytes.set(from, iova - IOVA),
  };
  new Workload(memory, settingsOf(plan, 1, 0), 0).write(pages);
  return bytes;
}

describe('the CPUs of a guest', () => {
  it.each(['sequential', 'uniform', 'hot-set'] as const)(
    '%s: go on at another machine with the next page of the same sequence, however often they move',
    async kind => {
      const plan = workload({ kind });
      await using one = await machineWith(1);
      await using other = await machineWith(1);
      await one.device.configure(plan);
      one.device.start();
      let [here, there] = [one, other];
      for (let moves = 1; moves <= 4; moves++) {
        await here.wrote(moves * 300);
        await move(here, there);
        [here, there] = [there, here];
      }
      await here.wrote(1500);
      await here.device.stop();
      const { pagesWritten, pagesChecked, checkErrors, running } = await here.device.statistics();
      expect({ checkErrors, running }).toEqual({ checkErrors: 0, running: false });
      expect(pagesChecked).toBeGreaterThan(0);
      expect(here.contents().equals(replay(plan, pagesWritten))).toBe(true);
      const verify = await here.device.verify();
      expect(verify).toMatchObject({ bad: 0, stale: 0, firstBad: undefined });
      expect(verify.checked).toBeGreaterThan(0);
    },
  );

  it('store nothing while the machine does not run, and go on afterwards', async () => {
    await using machine = await machineWith(3);
    const { features } = machine.handle;
    const quiet = fc.constantFrom(
      MigrationState.RUNNING_P2P,
      MigrationState.STOP,
      MigrationState.PRE_COPY_P2P,
      MigrationState.STOP_COPY,
    );
    await machine.device.configure(workload({ rate: 200_000 }));
    machine.device.start();
    await fc.assert(
      fc.asyncProperty(quiet, fc.nat(15), async (state, runMs) => {
        const { pagesWritten } = await machine.device.statistics();
        await delay(runMs);
        await features.setMigrationState(state);
        const [contents, statistics] = [machine.contents(), await machine.device.statistics()];
        await delay(20);
        expect(machine.contents().equals(contents)).toBe(true);
        expect(await machine.device.statistics()).toEqual(statistics);
        expect(await machine.device.verify()).toMatchObject({ bad: 0 });
        await features.setMigrationState(MigrationState.RUNNING);
        await machine.wrote(Math.max(pagesWritten, statistics.pagesWritten) + 1);
      }),
      { numRuns: 20 },
    );
  });

  it('that are not started, or were stopped, store nothing when the machine runs again', async () => {
    await using machine = await machineWith(2);
    const { features } = machine.handle;
    await machine.device.configure(workload());
    const stopAndRun = async () => {
      await features.setMigrationState(MigrationState.STOP);
      await features.setMigrationState(MigrationState.RUNNING);
      await delay(20);
    };
    await stopAndRun();
    expect((await machine.device.statistics()).pagesWritten).toBe(0);
    machine.device.start();
    await machine.wrote(100);
    await machine.device.stop();
    const { pagesWritten } = await machine.device.statistics();
    await stopAndRun();
    expect((await machine.device.statistics()).pagesWritten).toBe(pagesWritten);
  });

  it('find a page that is not as they left it, and say which', async () => {
    await using machine = await machineWith(2);
    await machine.device.configure(workload({ kind: 'sequential' }));
    machine.device.start();
    while ((await machine.device.verify()).checked < PAGES) await delay(1);
    await machine.device.stop();
    // The second half is CPU 1's.
    const stale = 300;
    machine.memory.write(PAGE + stale * PAGE, Buffer.alloc(PAGE));
    machine.memory.write(PAGE + (stale + 7) * PAGE + 2000, Buffer.from('not what it was'));
    expect(await machine.device.verify()).toEqual({ checked: PAGES, bad: 2, stale: 1, firstBad: stale });
    machine.device.start();
    while ((await machine.device.verify()).bad > 0) await delay(1);
    await machine.device.stop();
    expect(await machine.device.statistics()).toMatchObject({ checkErrors: 2 });
  });

  const trackers: [string, (machine: Machine, marks: Tracker) => Tracker][] = [
    ['marks', (_, marks) => marks],
    ...(cannotTrack ? [] : [['the kernel', ({ slot }: Machine) => new CpuTracker([slot])] as const]),
  ] as [string, (machine: Machine, marks: Tracker) => Tracker][];
  it.each(trackers)('have every page that changed named by %s, and none once they are paused', async (_, choose) => {
    const marks = new MarkedTracker([range]);
    await using machine = await machineWith(2, () => marks.share());
    const tracker = choose(machine, marks);
    await machine.device.configure(workload());
    machine.device.start();
    await machine.wrote(100);
    await machine.device.stop();
    await tracker.start([range]);
    for (let round = 0; round < 5; round++) {
      const before = machine.contents();
      const { pagesWritten } = await machine.device.statistics();
      machine.device.start();
      await machine.wrote(pagesWritten + 50);
      await machine.device.stop();
      const after = machine.contents();
      const changed: bigint[] = [];
      for (let at = 0; at < after.length; at += PAGE) {
        if (!after.subarray(at, at + PAGE).equals(before.subarray(at, at + PAGE))) changed.push(BigInt(IOVA + at));
      }
      const dirty = new DirtySet([range]);
      expect(await tracker.collect(dirty)).toEqual([]);
      expect(dirtyIovas(dirty)).toEqual(changed);
      const none = new DirtySet([range]);
      await tracker.collect(none);
      expect(none.count()).toBe(0);
    }
    await tracker.stop();
  });

  it('tell the size of their state as it then is, armed or not', async () => {
    await using machine = await machineWith(3);
    const { features } = machine.handle;
    const sizeMatches = async () => {
      await features.setMigrationState(MigrationState.STOP);
      const expected = Number(await features.migrationDataSize());
      await features.setMigrationState(MigrationState.STOP_COPY);
      let bytes = 0;
      for (;;) {
        const piece = await machine.handle.readMigrationData(1 << 20);
        if (piece.length === 0) break;
        bytes += piece.length;
      }
      expect(bytes).toBe(expected);
      await features.setMigrationState(MigrationState.RUNNING);
    };
    await sizeMatches();
    await machine.device.configure(workload());
    await sizeMatches();
    machine.device.start();
    await machine.wrote(700);
    await sizeMatches();
  });

  it('forget their workload at a reset', async () => {
    await using machine = await machineWith(2);
    await machine.device.configure(workload());
    machine.device.start();
    await machine.wrote(10);
    await machine.handle.reset();
    expect(await machine.device.statistics()).toEqual({
      running: false,
      pagesWritten: 0,
      pagesChecked: 0,
      checkErrors: 0,
    });
    const contents = machine.contents();
    await delay(20);
    expect(machine.contents().equals(contents)).toBe(true);
    await expect(machine.device.verify()).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(() => machine.device.start()).toThrow('EINVAL');
  });

  it('refuse the state of another number of CPUs, and of memory that is not theirs, and stay as they were', async () => {
    await using source = await machineWith(2);
    await using more = await machineWith(3);
    await source.device.configure(workload());
    await expect(move(source, more)).rejects.toMatchObject({ errno: 'EINVAL' });

    const memory = GuestMemory.create(PAGE * 4);
    const slot = { ...range, length: BigInt(PAGE * 4), memory };
    const less = await GuestCpus.create({ cpus: 2, slot });
    const handle = new LocalDevice(less);
    await handle.features.setMigrationState(MigrationState.RESUMING);
    for (;;) {
      const piece = await source.handle.readMigrationData(1000);
      if (piece.length === 0) break;
      await handle.writeMigrationData(piece);
    }
    await expect(handle.features.setMigrationState(MigrationState.RUNNING)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect((await less.statistics()).running).toBe(false);
    await less[Symbol.asyncDispose]();
    memory.close();
  });

  it('that have died fail, and do not pass for a machine that runs', async () => {
    const machine = await machineWith(2);
    await machine.device.configure(workload());
    machine.device.start();
    await machine.wrote(10);
    await machine.device[Symbol.asyncDispose]();
    const { features } = machine.handle;
    await expect(features.setMigrationState(MigrationState.STOP_COPY)).rejects.toMatchObject({ errno: 'EIO' });
    expect(await features.migrationState()).toBe(MigrationState.ERROR);
    await expect(machine.device.statistics()).rejects.toMatchObject({ errno: 'EIO' });
    machine.memory.close();
  });

  it.each([
    ['no CPU', { cpus: 0 }],
    ['half a CPU', { cpus: 1.5 }],
    ['more CPUs than there may be', { cpus: 65 }],
  ])('are not made: %s', async (_, { cpus }) => {
    await expect(machineWith(cpus)).rejects.toMatchObject({ errno: 'EINVAL', field: 'cpus' });
  });

  it('refuse a workload that is out of its limits, and keep the one that they have', async () => {
    await using machine = await machineWith(2);
    await machine.device.configure(workload());
    const wrong: Partial<CpuWorkload>[] = [
      { base: IOVA + 1 },
      { base: IOVA - PAGE },
      { base: IOVA + PAGE },
      { length: PAGE + 1 },
      { length: PAGE },
      { rate: Number.NaN },
      { rate: -1 },
      { seed: 2 ** 32 },
      { exponent: 9 },
      { kind: 'rings' as never },
    ];
    for (const changes of wrong) {
      const field = Object.keys(changes)[0];
      await expect(machine.device.configure(workload(changes))).rejects.toMatchObject({ errno: 'EINVAL', field });
    }
    machine.device.start();
    await machine.wrote(10);
  });
});
