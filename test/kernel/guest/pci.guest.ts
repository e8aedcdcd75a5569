import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { KernelDevice } from '../../../src/kernel/index.js';
import { GuestMemory } from '../../../src/memory/index.js';
import { createEventFd, readEventFd } from '../../../src/native/index.js';
import { DeviceFlag, PciIrq, PciRegion, viewOf } from '../../../src/uapi/index.js';
import { PCI, withVfioPci } from './devices.js';
import { openFiles } from './open-files.js';
import { WAYS } from './ways.js';

/*
 * A PCI device behind an IOMMU, of vfio-pci: QEMU's edu (its documentation: docs/specs/edu), which computes, interrupts, and does DMA to and from
 * a buffer of its own.
 */

/** Registers of edu in BAR 0. */
const Edu = {
  IDENTIFICATION: 0x00,
  LIVENESS: 0x04,
  RAISE_INTERRUPT: 0x60,
  ACKNOWLEDGE_INTERRUPT: 0x64,
  DMA_SOURCE: 0x80,
  DMA_DESTINATION: 0x88,
  DMA_COUNT: 0x90,
  DMA_COMMAND: 0x98,
} as const;
const DMA_START = 1;
const DMA_TO_MEMORY = 2;
/** Where edu's own buffer is in its address space. */
const BUFFER = 0x40000n;
const MIB = 2n ** 20n;
/** In the configuration space: the command register, and its bits that let the device answer, and do DMA. */
const COMMAND = 4;
const MEMORY_AND_BUS_MASTER = 0x06;

for (const by of WAYS) {
  describe(`a PCI device, by ${by}`, () => {
    const withEdu = (use: (device: KernelDevice) => Promise<void>): Promise<void> =>
      withVfioPci(PCI.alone, async () => {
        await using device = await KernelDevice.open(PCI.alone, { by });
        await device.regionWrite(PciRegion.CONFIG, COMMAND, new Uint8Array([MEMORY_AND_BUS_MASTER, 0]));
        await use(device);
      });
    const read = async (device: KernelDevice, register: number): Promise<number> =>
      viewOf(await device.regionRead(PciRegion.BAR0, register, 4)).getUint32(0, true);
    const write = (device: KernelDevice, register: number, value: bigint, size = 8): Promise<void> => {
      const bytes = new Uint8Array(8);
      viewOf(bytes).setBigUint64(0, value, true);
      return device.regionWrite(PciRegion.BAR0, register, bytes.subarray(0, size));
    };

    it('is found by its address, with its regions, its registers and its configuration space', () =>
      withEdu(async device => {
        const { flags, regions, irqs } = await device.info();
        assert.ok(flags & DeviceFlag.PCI);
        assert.ok(regions >= 9 && irqs >= 5);
        const config = viewOf(await device.regionRead(PciRegion.CONFIG, 0, 4));
        assert.deepEqual([config.getUint16(0, true), config.getUint16(2, true)], [0x1234, 0x11e8]);
        assert.equal((await device.getRegionInfo(PciRegion.BAR0)).size, Number(MIB));
        assert.equal((await read(device, Edu.IDENTIFICATION)) & 0xff, 0xed);
        await write(device, Edu.LIVENESS, 0x12345678n, 4);
        assert.equal(await read(device, Edu.LIVENESS), ~0x12345678 >>> 0);
      }));

    it('shows the same registers where a BAR is mapped', () =>
      withEdu(async device => {
        const [area] = await device.mapRegion(PciRegion.BAR0);
        const registers = new Uint32Array(area!.mapping.view(0, 8).buffer, area!.mapping.view(0, 8).byteOffset, 2);
        assert.equal(registers[0]! & 0xff, 0xed);
        registers[1] = 0x0f0f0f0f;
        assert.equal(registers[1], 0xf0f0f0f0);
        area!.mapping.close();
      }));

    it('signals the eventfd of its interrupt', () =>
      withEdu(async device => {
        using interrupt = createEventFd();
        await device.setIrqTriggers(PciIrq.MSI, 0, [interrupt.fd]);
        assert.equal(readEventFd(interrupt.fd), 0n);
        await write(device, Edu.RAISE_INTERRUPT, 1n, 4);
        await until(() => readEventFd(interrupt.fd) === 1n);
        await write(device, Edu.ACKNOWLEDGE_INTERRUPT, 1n, 4);
        await device.triggerIrqs(PciIrq.MSI, 0, 1);
        await until(() => readEventFd(interrupt.fd) === 1n);
        await device.disableIrqs(PciIrq.MSI);
      }));

    it('reaches the memory that is mapped for it, through the IOMMU, and nothing else', () =>
      withEdu(async device => {
        using memory = GuestMemory.create(MIB);
        const iova = 16n * MIB;
        await device.dmaMap({ iova, length: MIB, readable: true, writable: true }, { fd: memory.fd });
        memory.view(0x1000, 16).set(Array.from({ length: 16 }, (_, index) => index + 1));
        const dma = async (source: bigint, destination: bigint, command: number) => {
          await write(device, Edu.DMA_SOURCE, source);
          await write(device, Edu.DMA_DESTINATION, destination);
          await write(device, Edu.DMA_COUNT, 16n);
          await write(device, Edu.DMA_COMMAND, BigInt(DMA_START | command));
          await until(async () => ((await read(device, Edu.DMA_COMMAND)) & DMA_START) === 0);
        };
        await dma(iova + 0x1000n, BUFFER, 0);
        await dma(BUFFER, iova + 0x8000n, DMA_TO_MEMORY);
        assert.deepEqual(memory.view(0x8000, 16), memory.view(0x1000, 16));

        await device.dmaUnmap(iova, MIB);
        memory.view(0x8000, 16).fill(0);
        await dma(BUFFER, iova + 0x8000n, DMA_TO_MEMORY);
        assert.ok(memory.view(0x8000, 16).every(byte => byte === 0));
      }));

    it('has no DMA log, and says so', () =>
      withEdu(async device => {
        assert.equal(await device.features.hasLogging(), false);
        await assert.rejects(device.features.startLogging(4096n, [{ iova: 0n, length: 4096n }]), { errno: 'ENOTTY' });
        assert.equal(await device.features.migrationFlags(), 0);
      }));

    it('is reset, where it can be', () =>
      withEdu(async device => {
        const { flags } = await device.info();
        if (flags & DeviceFlag.RESET) await device.reset();
        else await assert.rejects(device.reset(), { errno: 'EINVAL' });
      }));

    it('leaves as many descriptors open as there were', async () => {
      const before = openFiles();
      await withEdu(async device => {
        using interrupt = createEventFd();
        await device.setIrqTriggers(PciIrq.MSI, 0, [interrupt.fd]);
        const areas = await device.mapRegion(PciRegion.BAR0);
        for (const { mapping } of areas) mapping.close();
      });
      assert.deepEqual(openFiles(), before);
    });
  });
}

/** Waits for what happens in its own time; QEMU's edu takes 100 ms for a DMA. */
async function until(happened: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await happened())) await sleep(20);
}
