import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { connect } from '../../src/connect/index.js';
import type { DeviceHandle } from '../../src/device/index.js';
import { DmaEngine, DmaEngineDriver, DmaEngineInterrupt } from '../../src/devices/dma-engine/index.js';
import { GuestMemory } from '../../src/memory/index.js';
import { createEventFd, openFdCount, readEventFd } from '../../src/native/index.js';
import { DirtySet, LoggingSession } from '../../src/tracker/index.js';
import { DeviceFlag, PciIrq, PciRegion } from '../../src/uapi/index.js';
import { VfioUserServer } from '../../src/vfio-user/index.js';
import { hostSession, MEMORY_SIZE, PAGE, type Stimulus } from './host-session.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-connect-'));
afterAll(() => rmSync(folder, { recursive: true }));

const engineUrl = new URL('../../dist/devices/dma-engine/index.js', import.meta.url).href;
const dmalog = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** A module in a file of its own. */
function moduleFile(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

/** Serves a DMA engine in a process of its own until the test ends. */
async function servedEngine(): Promise<string> {
  const path = join(folder, 'engine.sock');
  const child = spawn(process.execPath, [dmalog, 'device', 'dma-engine', '--socket', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(async () => {
    child.kill();
    await once(child, 'exit');
  });
  await once(child.stdout, 'data');
  return path;
}

async function fillBy(device: DeviceHandle): Promise<Stimulus> {
  const engine = await DmaEngineDriver.attach(device);
  return (destination, length, byte) =>
    engine.fill({ destination, length, pattern: BigInt(byte) * 0x0101_0101_0101_0101n });
}

const wires: Record<string, () => Promise<string>> = {
  'local:dma-engine': async () => 'local:dma-engine',
  'a module': async () =>
    `local:${moduleFile('engine.mjs', `import { DmaEngine } from '${engineUrl}';\nexport default DmaEngine;\n`)}`,
  'vfio-user:PATH': async () => `vfio-user:${await servedEngine()}`,
  'vfio-user:@NAME': async () => {
    const engine = new DmaEngine();
    const path = `@dmalog-connect-${process.pid}`;
    const server = await VfioUserServer.listen(engine, { path, abstract: true });
    onTestFinished(async () => {
      await server.close();
      engine.close();
    });
    return `vfio-user:${path}`;
  },
};

describe.each(Object.entries(wires))('a device by %s', (_, target) => {
  it('serves the same host session, and leaves no descriptor open', async () => {
    const name = await target();
    const before = openFdCount();
    {
      using memory = GuestMemory.create(MEMORY_SIZE);
      const device = await connect(name);
      await hostSession(device, await fillBy(device), memory, {
        newDirtySet: ranges => new DirtySet(ranges),
        newSession: handle => new LoggingSession(handle.features),
      });
      await device.close();
      await device.close();
    }
    // The server in this process lets go of the connection in its own turn.
    await expect.poll(() => openFdCount()).toBe(before);
  });

  it('tells what it has, and delivers its interrupts to eventfds', async () => {
    const device = await connect(await target());
    using memory = GuestMemory.create(MEMORY_SIZE);
    using eventfd = createEventFd();
    try {
      const { flags, regions, irqs } = await device.info();
      expect(flags & DeviceFlag.PCI).toBe(DeviceFlag.PCI);
      expect(await device.getRegionInfo(PciRegion.CONFIG)).toMatchObject({ size: 256 });
      await expect(device.getRegionInfo(regions)).rejects.toMatchObject({ errno: 'EINVAL' });
      expect((await device.getIrqInfo(PciIrq.MSIX)).count).toBeGreaterThan(0);
      await expect(device.getIrqInfo(irqs)).rejects.toMatchObject({ errno: 'EINVAL' });

      await device.mapMemory({ iova: 0n, length: PAGE, readable: true, writable: true }, memory);
      const write = await fillBy(device);
      const vector = Math.log2(DmaEngineInterrupt.COMMAND);
      await device.setIrqTriggers(PciIrq.MSIX, vector, [eventfd.fd]);
      await write(0n, 8n, 1);
      await expect.poll(() => readEventFd(eventfd.fd)).toBe(1n);
      await device.setIrqTriggers(PciIrq.MSIX, vector, [undefined]);
      await write(0n, 8n, 2);
      expect(readEventFd(eventfd.fd)).toBe(0n);

      const refusals = [
        device.setIrqTriggers(PciIrq.MSIX, vector, [memory.fd]),
        device.setIrqTriggers(PciIrq.MSIX, 2048, [eventfd.fd]),
        device.unmaskIrqs(PciIrq.MSIX, 0, 1),
      ];
      for (const refusal of refusals) await expect(refusal).rejects.toMatchObject({ errno: 'EINVAL' });
    } finally {
      await device.close();
    }
  });
});

describe('connect', () => {
  it('gives local devices that this package ships', async () => {
    const device = await connect('local:nvme');
    expect(device.target).toBe('local:nvme');
    expect((await device.regionRead(0, 0, 8)).some(byte => byte !== 0)).toBe(true);
    await device.close();
  });

  it.each([
    ['a device', 'export default new DmaEngine();'],
    ['a class', 'export default class extends DmaEngine {}'],
    ['a function', 'export default () => new DmaEngine();'],
    ['an async function', 'export default async function make() { return new DmaEngine(); }'],
  ])('takes a module that exports %s, and ends the device with the handle', async (kind, code) => {
    const path = moduleFile(`${kind.replaceAll(' ', '-')}.mjs`, `import { DmaEngine } from '${engineUrl}';\n${code}\n`);
    const device = await connect(`local:${path}`);
    expect(device.target).toBe('local:dma-engine');
    await DmaEngineDriver.attach(device);
    await device.close();
  });

  it('ends a device of a module by its dispose method, once', async () => {
    const path = moduleFile(
      'noted.mjs',
      `import { DmaEngine } from '${engineUrl}';
      export const ended = [];
      export default class extends DmaEngine { async [Symbol.asyncDispose]() { this.close(); ended.push('ended'); } }\n`,
    );
    const { ended } = (await import(path)) as { ended: string[] };
    const device = await connect(`local:${path}`);
    await Promise.all([device.close(), device.close()]);
    await device.close();
    expect(ended).toEqual(['ended']);
  });

  it.each([
    ['local:no-such-device', 'ENOENT', 'dma-engine, nvme'],
    ['local:./no-such-module.mjs', 'ENOENT', 'no-such-module.mjs'],
    [`local:${moduleFile('nothing.mjs', 'export const a = 1;\n')}`, 'EINVAL', 'default export'],
    [`local:${moduleFile('number.mjs', 'export default () => 1;\n')}`, 'EINVAL', 'default export'],
    [`local:${moduleFile('broken.mjs', 'export default {;\n')}`, 'EIO', 'broken.mjs'],
    [`local:${moduleFile('throws.mjs', 'export default () => { throw new Error("no disk"); };\n')}`, 'EIO', 'no disk'],
    ['vfio-user:/no/such.sock', 'ENOENT', '/no/such.sock'],
    ['vfio:no-such-device', 'ENODEV', 'no-such-device'],
    ['vfio:../../etc', 'ENODEV', '../../etc'],
    ['nonsense', 'EINVAL', 'vfio-user:/run/dev.sock'],
  ])('answers %s with %s and one line', async (target, errno, words) => {
    const before = openFdCount();
    const error = await connect(target).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ errno });
    expect((error as Error).message).toContain(words);
    expect((error as Error).message).not.toContain('\n');
    expect(openFdCount()).toBe(before);
  });
});
