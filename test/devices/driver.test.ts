import { afterEach, describe, expect, test } from 'vitest';
import { LocalDevice, PciDevice } from '../../src/device/index.js';
import {
  DMA_ENGINE_DEVICE_ID,
  DMA_ENGINE_VENDOR_ID,
  DmaEngine,
  DmaEngineDriver,
} from '../../src/devices/dma-engine/index.js';
import { PciIrq, PciRegion } from '../../src/uapi/index.js';
import { createLateHost } from './engine-host.js';

/** A device of the engine's ids whose registers are all zeros. */
class Impostor extends PciDevice {
  constructor(vendorId = DMA_ENGINE_VENDOR_ID) {
    super({
      name: 'impostor',
      vendorId,
      deviceId: DMA_ENGINE_DEVICE_ID,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 4096 }],
    });
  }

  protected override readRegister(_bar: number, _offset: number, into: Uint8Array): void {
    into.fill(0);
  }

  protected override writeRegister(): void {}
}

describe('the driver', () => {
  const open: LocalDevice[] = [];
  afterEach(async () => {
    for (const device of open.splice(0)) await device.close();
  });

  test('attaches to a DMA engine only', async () => {
    for (const device of [new Impostor(), new Impostor(0x8086)]) {
      await expect(DmaEngineDriver.attach(new LocalDevice(device))).rejects.toMatchObject({ errno: 'ENODEV' });
    }
  });

  test('switches bus mastering on, and keeps the other bits of the command register', async () => {
    const engine = new DmaEngine();
    const device = new LocalDevice(engine);
    open.push(device);
    await device.regionWrite(PciRegion.CONFIG, 4, Uint8Array.of(0, 4));
    expect(engine.dma.allowed).toBe(false);
    await DmaEngineDriver.attach(device);
    expect(engine.dma.allowed).toBe(true);
    expect([...(await device.regionRead(PciRegion.CONFIG, 4, 2))]).toEqual([6, 4]);
  });

  test('a command that never ends is ETIMEDOUT', async () => {
    const late = await createLateHost(4096);
    const driver = await DmaEngineDriver.attach(late.device, { timeoutMs: 5 });
    late.backing.held = true;
    const fill = driver.fill({ destination: 0n, length: 8n, pattern: 0n });
    await expect(fill).rejects.toMatchObject({ errno: 'ETIMEDOUT' });
    late.backing.release();
    await late.close();
  });

  test('the engine has what its description says: two MSI-X vectors in BAR 4, INTx, logging, all migration flags', async () => {
    const engine = new DmaEngine({ name: 'engine-7' });
    const device = new LocalDevice(engine);
    open.push(device);
    expect(device.target).toBe('local:engine-7');
    expect(engine.regions.map(region => region.size)).toEqual([4096, 0, 0, 0, 4096, 0, 0, 256, 0]);
    expect(engine.interrupts.info(PciIrq.MSIX).count).toBe(2);
    expect(engine.interrupts.info(PciIrq.INTX).count).toBe(1);
    expect(await device.features.hasLogging()).toBe(true);
    expect(await device.features.migrationFlags()).toBe(7);
  });

  test('logging and migration can be left out', async () => {
    const device = new LocalDevice(new DmaEngine({ log: false, migrationFlags: 0 }));
    open.push(device);
    expect(await device.features.hasLogging()).toBe(false);
    expect(await device.features.migrationFlags()).toBe(0);
  });
});
