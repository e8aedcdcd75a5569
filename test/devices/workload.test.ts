import { describe, expect, test } from 'vitest';
import { DmaEngineRegister, type WorkloadConfig } from '../../src/devices/dma-engine/index.js';
import { PciIrq, PciRegion, VfioError, viewOf } from '../../src/uapi/index.js';
import {
  contentsOf,
  createHost,
  createLateHost,
  createRecordingHost,
  type EngineHost,
  reportedPages,
  wholeRegion,
} from './engine-host.js';

const PAGE = 4096;

/** Rate 0: the tests say how many pages are written. */
function configOf(changes: Partial<WorkloadConfig> = {}): WorkloadConfig {
  return { kind: 'uniform', base: 0n, length: BigInt(64 * PAGE), rate: 0, seed: 5, ...changes };
}

async function startWorkload(host: EngineHost, changes: Partial<WorkloadConfig> = {}): Promise<void> {
  await host.driver.configureWorkload(configOf(changes));
  await host.driver.start();
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise(resolve => setTimeout(resolve, 1));
}

describe('a workload', () => {
  for (const kind of ['sequential', 'uniform', 'hot-set', 'rings'] as const) {
    test(`${kind}: writes as many pages as it is told, logs them all, and finds its memory right`, async () => {
      const host = await createHost(64 * PAGE);
      host.engine.dma.log.start(4096n, [{ iova: 0n, length: BigInt(64 * PAGE) }]);
      await startWorkload(host, { kind });
      host.engine.stepWorkload(500);
      const statistics = await host.driver.statistics();
      expect(statistics).toMatchObject({ running: true, errno: undefined, pagesWritten: 500, checkErrors: 0 });
      const memory = contentsOf(host.memory);
      const written = new Set<bigint>();
      for (let page = 0; page < 64; page++) {
        if (memory.subarray(page * PAGE, (page + 1) * PAGE).some(byte => byte !== 0)) written.add(BigInt(page));
      }
      expect(statistics.pagesChecked).toBe(500 - written.size);
      expect(new Set(reportedPages(host.engine, 0n, 64 * PAGE))).toEqual(written);
      expect(await host.driver.verify()).toEqual({ checked: written.size, bad: 0, stale: 0, firstBad: undefined });
      await host.close();
    });
  }

  test('base and page size say where a page lies; nothing outside the area is written', async () => {
    const host = await createHost(32 * PAGE, [wholeRegion(32 * PAGE, 0x1000_0000n)]);
    await startWorkload(host, {
      kind: 'sequential',
      base: 0x1000_0000n + 8n * 1024n,
      length: 16384n,
      pageSize: 512,
    });
    host.engine.stepWorkload(33);
    const memory = contentsOf(host.memory);
    const view = viewOf(memory);
    for (let page = 0; page < 32; page++) {
      expect(view.getUint32(8192 + page * 512 + 4, true)).toBe(page);
      expect(view.getUint32(8192 + page * 512 + 8, true)).toBe(page === 0 ? 2 : 1);
    }
    expect(memory.subarray(0, 8192).every(byte => byte === 0)).toBe(true);
    expect(memory.subarray(8192 + 16384).every(byte => byte === 0)).toBe(true);
    await host.close();
  });

  test('it writes by itself when it has a rate, and no more after it was stopped', async () => {
    const host = await createHost(64 * PAGE);
    await startWorkload(host, { rate: 50_000 });
    await until(async () => (await host.driver.statistics()).pagesWritten > 300);
    await host.driver.stop();
    const { pagesWritten, running } = await host.driver.statistics();
    expect(running).toBe(false);
    await new Promise(resolve => setTimeout(resolve, 30));
    expect((await host.driver.statistics()).pagesWritten).toBe(pagesWritten);
    expect(await host.driver.verify()).toMatchObject({ bad: 0 });
    await host.close();
  });

  test('the rate may change while it runs: 0 is at rest', async () => {
    const host = await createHost(64 * PAGE);
    await startWorkload(host);
    await new Promise(resolve => setTimeout(resolve, 30));
    expect((await host.driver.statistics()).pagesWritten).toBe(0);
    await host.driver.setRate(20_000);
    await until(async () => (await host.driver.statistics()).pagesWritten > 0);
    await host.close();
  });

  test('what it writes depends on the seed alone, not on how many pages are written at a time', async () => {
    const run = async (steps: readonly number[], seed: number) => {
      const host = await createRecordingHost(new Uint8Array(64 * PAGE));
      await startWorkload(host, { kind: 'hot-set', seed });
      for (const step of steps) host.engine.stepWorkload(step);
      await host.close();
      return host.backing;
    };
    const once = await run([600], 9);
    const often = await run([1, 2, 3, 94, 500], 9);
    expect(often.writes).toEqual(once.writes);
    expect(Buffer.compare(often.bytes, once.bytes)).toBe(0);
    expect((await run([600], 10)).writes).not.toEqual(once.writes);
  });

  test('memory that answers late gets the same pages', async () => {
    const late = await createLateHost(64 * PAGE);
    const direct = await createRecordingHost(new Uint8Array(64 * PAGE));
    for (const host of [late, direct]) await startWorkload(host);
    await Promise.all([late.engine.stepWorkload(100), late.engine.stepWorkload(50)]);
    direct.engine.stepWorkload(150);
    expect(Buffer.compare(late.backing.bytes, direct.backing.bytes)).toBe(0);
    expect(await late.driver.statistics()).toEqual(await direct.driver.statistics());
    expect(await late.driver.verify()).toEqual(await direct.driver.verify());
    await late.close();
    await direct.close();
  });

  test('with memory that answers late, VERIFY of a running workload never sees a page between two states', async () => {
    const late = await createLateHost(16 * PAGE);
    await startWorkload(late, { length: BigInt(16 * PAGE), rate: 100_000 });
    for (let round = 0; round < 10; round++) expect(await late.driver.verify()).toMatchObject({ bad: 0 });
    await until(async () => (await late.driver.statistics()).pagesWritten > 100);
    expect(await late.driver.statistics()).toMatchObject({ checkErrors: 0, errno: undefined });
    await late.close();
  });
});

describe('the consistency check', () => {
  test('a page that was changed behind its back is found before it is written again, once by name, with vector 1', async () => {
    const host = await createHost(8 * PAGE);
    const raised: number[] = [];
    host.engine.interrupts.setTriggers(PciIrq.MSIX, 0, [
      { signal: () => raised.push(0), close() {} },
      { signal: () => raised.push(1), close() {} },
    ]);
    await startWorkload(host, { kind: 'sequential', length: BigInt(8 * PAGE) });
    host.engine.stepWorkload(8);
    host.memory.view(3 * PAGE + 4000, 1)[0]! ^= 1;
    host.memory.view(5 * PAGE + 4000, 1)[0]! ^= 1;
    host.engine.stepWorkload(8);
    expect(await host.driver.statistics()).toMatchObject({
      pagesChecked: 8,
      checkErrors: 2,
      firstBad: { page: 3, fault: 'BODY', expectedGeneration: 1, foundGeneration: 1 },
    });
    expect(raised).toEqual([1]);
    const status = await host.device.regionRead(PciRegion.BAR0, DmaEngineRegister.INTERRUPT_STATUS, 4);
    expect(status[0]).toBe(2);
    await host.close();
  });

  test('a page that fell back to an older state is stale, whole or in part', async () => {
    const host = await createHost(8 * PAGE);
    await startWorkload(host, { kind: 'sequential', length: BigInt(8 * PAGE) });
    host.engine.stepWorkload(8);
    const old = contentsOf(host.memory);
    host.engine.stepWorkload(16);
    host.memory.write(2 * PAGE, old.subarray(2 * PAGE, 3 * PAGE));
    host.memory.write(4 * PAGE, old.subarray(4 * PAGE, 4 * PAGE + 64));
    host.memory.write(6 * PAGE + 2048, old.subarray(6 * PAGE + 2048, 7 * PAGE));
    expect(await host.driver.verify()).toEqual({ checked: 8, bad: 3, stale: 2, firstBad: 2 });
    host.engine.stepWorkload(8);
    const { firstBad } = await host.driver.statistics();
    expect(firstBad).toEqual({ page: 2, fault: 'STALE', expectedGeneration: 3, foundGeneration: 1 });
    expect(await host.driver.verify()).toMatchObject({ bad: 0 });
    await host.close();
  });

  test('pages that were never written are not checked, whatever is in them', async () => {
    const host = await createHost(64 * PAGE);
    host.memory.write(0, new Uint8Array(64 * PAGE).fill(0xee));
    await startWorkload(host, { kind: 'sequential' });
    host.engine.stepWorkload(10);
    expect(await host.driver.statistics()).toMatchObject({ pagesChecked: 0, checkErrors: 0 });
    expect(await host.driver.verify()).toMatchObject({ checked: 10, bad: 0 });
    await host.close();
  });

  test('the check interval says which writes check: every third, none', async () => {
    const host = await createHost(8 * PAGE);
    await startWorkload(host, { kind: 'sequential', length: BigInt(8 * PAGE), checkInterval: 3 });
    host.engine.stepWorkload(8 + 30);
    expect((await host.driver.statistics()).pagesChecked).toBe(10);
    await host.device.regionWrite(PciRegion.BAR0, DmaEngineRegister.CHECK_INTERVAL, new Uint8Array(4));
    host.engine.stepWorkload(30);
    expect((await host.driver.statistics()).pagesChecked).toBe(10);
    await host.close();
  });
});

describe('a workload that cannot go on', () => {
  test('memory that is unmapped under it stops it with EFAULT, and it goes on when it is back', async () => {
    const host = await createRecordingHost(new Uint8Array(64 * PAGE));
    await startWorkload(host);
    host.engine.stepWorkload(100);
    host.engine.dma.map.unmapAll();
    host.engine.stepWorkload(10);
    expect(await host.driver.statistics()).toMatchObject({ running: false, errno: 'EFAULT', pagesWritten: 100 });
    host.engine.stepWorkload(10);
    expect((await host.driver.statistics()).pagesWritten).toBe(100);
    host.engine.dma.map.map({ iova: 0n, length: BigInt(64 * PAGE), readable: true, writable: true }, host.backing);
    await host.driver.start();
    host.engine.stepWorkload(100);
    expect(await host.driver.statistics()).toMatchObject({ errno: undefined, pagesWritten: 200, checkErrors: 0 });
    expect(await host.driver.verify()).toMatchObject({ bad: 0 });
    await host.close();
  });

  test('a page whose write broke off in the middle is not known any more, so it is no error', async () => {
    const host = await createRecordingHost(new Uint8Array(4 * PAGE));
    await startWorkload(host, { kind: 'sequential', length: BigInt(4 * PAGE) });
    host.engine.stepWorkload(4);
    host.backing.failure = new VfioError('EIO', { operation: 'write' });
    host.engine.stepWorkload(1);
    expect(await host.driver.statistics()).toMatchObject({ running: false, errno: 'EIO' });
    expect(await host.driver.verify()).toEqual({ checked: 3, bad: 0, stale: 0, firstBad: undefined });
    host.backing.failure = undefined;
    await host.driver.start();
    host.engine.stepWorkload(7);
    expect(await host.driver.statistics()).toMatchObject({ checkErrors: 0 });
    await host.close();
  });

  test('parameters out of their limits are EINVAL when it is armed, and nothing is armed', async () => {
    const host = await createHost(64 * PAGE);
    const bad: Partial<WorkloadConfig>[] = [
      { pageSize: 0 },
      { pageSize: 32 },
      { pageSize: 100 },
      { pageSize: 131072 },
      { base: 4n },
      { length: 0n },
      { length: 4097n },
      { length: 2n ** 38n + 4096n },
      { base: 2n ** 53n, length: 4096n },
      { base: 2n ** 64n - 8n },
      { exponent: 8.001 },
      { rings: 0 },
      { rings: 257 },
      { kind: 'rings', rings: 65 },
      { burst: 0 },
      { burst: 65537 },
    ];
    for (const changes of bad) {
      await expect(host.driver.configureWorkload(configOf(changes))).rejects.toMatchObject({ errno: 'EINVAL' });
      await expect(host.driver.start()).rejects.toMatchObject({ errno: 'EINVAL' });
    }
    await host.device.regionWrite(PciRegion.BAR0, DmaEngineRegister.WORKLOAD_KIND, Uint8Array.of(4, 0, 0, 0));
    await host.device.regionWrite(PciRegion.BAR0, DmaEngineRegister.WORKLOAD_CONTROL, Uint8Array.of(3, 0, 0, 0));
    expect(await host.driver.statistics()).toMatchObject({ running: false, errno: 'EINVAL' });
    await host.driver.configureWorkload(configOf({ base: 2n ** 53n - 4096n, length: 4096n }));
    await host.close();
  });

  test('WORKLOAD_CONTROL takes 0, 2 and 3; anything else is EINVAL and changes nothing', async () => {
    const host = await createHost(64 * PAGE);
    await startWorkload(host);
    host.engine.stepWorkload(5);
    for (const control of [1, 4, 6, 0xff]) {
      await host.device.regionWrite(
        PciRegion.BAR0,
        DmaEngineRegister.WORKLOAD_CONTROL,
        Uint8Array.of(control, 0, 0, 0),
      );
      expect(await host.driver.statistics()).toMatchObject({ running: true, errno: 'EINVAL', pagesWritten: 5 });
    }
    await host.close();
  });

  test('its parameters cannot be changed while it is armed', async () => {
    const host = await createHost(64 * PAGE);
    await startWorkload(host);
    const before = await host.device.regionRead(PciRegion.BAR0, DmaEngineRegister.WORKLOAD_KIND, 0x18);
    for (let at = 0x88; at < 0xa0; at += 4) {
      await host.device.regionWrite(PciRegion.BAR0, at, Uint8Array.of(1, 2, 3, 4));
    }
    expect(await host.device.regionRead(PciRegion.BAR0, DmaEngineRegister.WORKLOAD_KIND, 0x18)).toEqual(before);
    await host.close();
  });

  test('a reset drops it and all its registers', async () => {
    const host = await createHost(64 * PAGE);
    const fresh = await host.device.regionRead(PciRegion.BAR0, 0, PAGE);
    await startWorkload(host, { rate: 10_000 });
    host.engine.stepWorkload(5);
    await host.device.reset();
    expect(await host.device.regionRead(PciRegion.BAR0, 0, PAGE)).toEqual(fresh);
    host.engine.stepWorkload(5);
    expect((await host.driver.statistics()).pagesWritten).toBe(0);
    await host.close();
  });
});
