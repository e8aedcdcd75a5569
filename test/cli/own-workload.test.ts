import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DmaEngineDriver } from '../../src/devices/dma-engine/index.js';
import { GuestMemory, VfioUserClient } from '../../src/index.js';
import { Hosts, MEMORY_BYTES } from './machines.js';

let hosts: Hosts;
beforeEach(() => {
  hosts = new Hosts();
});
afterEach(() => hosts.close());

/** A host of the engine that gives it its memory, until `use` is done. */
async function asHost<T>(use: (engine: DmaEngineDriver, client: VfioUserClient) => Promise<T>): Promise<T> {
  await using client = await VfioUserClient.connect(`${hosts.path('a')}.sock`);
  using memory = GuestMemory.open(hosts.path('a.mem'));
  await client.mapMemory({ iova: 0x10000n, length: memory.size, readable: true, writable: true }, memory);
  return await use(await DmaEngineDriver.attach(client), client);
}

/** Pages written, as soon as they are more than `before`. */
async function writtenBeyond(engine: DmaEngineDriver, before: number): Promise<number> {
  for (let tries = 0; tries < 500; tries++) {
    const { pagesWritten } = await engine.statistics();
    if (pagesWritten > before) return pagesWritten;
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  throw new Error('the engine does not write');
}

describe('dmalog device dma-engine --workload', () => {
  it('writes the first memory that a host maps, without a driver, and goes on for the next host', async () => {
    await hosts.engine('a', '--workload', 'uniform', '--rate', '20000', '--seed', '7');
    const first = await asHost(engine => writtenBeyond(engine, 0));
    await asHost(async engine => {
      await writtenBeyond(engine, first + MEMORY_BYTES / 4096);
      await engine.stop();
      const verify = await engine.verify();
      expect(verify).toMatchObject({ bad: 0 });
      expect(verify.checked).toBeGreaterThan(0);
    });
  });

  it('begins once: an engine that was reset stays at rest', async () => {
    await hosts.engine('a', '--workload', 'sequential', '--rate', '1000');
    await asHost(async (engine, client) => {
      await writtenBeyond(engine, 0);
      await client.reset();
    });
    await asHost(async engine => {
      await new Promise(resolve => setTimeout(resolve, 200));
      expect(await engine.statistics()).toMatchObject({ running: false, pagesWritten: 0 });
    });
  });

  it('does nothing without one', async () => {
    await hosts.engine('a');
    await asHost(async engine => {
      await new Promise(resolve => setTimeout(resolve, 100));
      expect(await engine.statistics()).toMatchObject({ running: false, pagesWritten: 0 });
    });
  });
});
