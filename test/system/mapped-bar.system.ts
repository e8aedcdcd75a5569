import { expect, test } from 'vitest';
import { PciDevice } from '../../src/device/index.js';
import type { Mapping } from '../../src/native/index.js';
import { temporaryFolder } from '../native/helpers.js';
import { boot, serve } from './guests.js';

const path = temporaryFolder();

/** 16 KiB of BAR 0: registers, two pages of memory, registers. */
class MappedDevice extends PciDevice {
  /** Offsets of the register accesses that came. */
  readonly accesses: number[] = [];

  constructor() {
    super({
      name: 'mapped',
      vendorId: 0x1234,
      deviceId: 0x7a77,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 0x4000, mappable: [{ offset: 0x1000, size: 0x2000 }] }],
    });
  }

  get memory(): Mapping {
    return this.barMemory(0);
  }

  protected override readRegister(_bar: number, offset: number, into: Uint8Array): void {
    this.accesses.push(offset);
    into.fill(0x5a);
  }

  protected override writeRegister(_bar: number, offset: number): void {
    this.accesses.push(offset);
  }
}

test('a guest reaches the mapped part of a BAR without asking the device, and the rest by its registers', async () => {
  const device = new MappedDevice();
  await serve(device, path('mapped'));
  const guest = await boot({ devices: [path('mapped')], memoryMiB: 128 });
  device.memory.write(0x2ff8, Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1));
  const answer = await guest.run(`
    cd "$(dirname "$(grep -l 0x7a77 /sys/bus/pci/devices/*/device)")"
    echo 1 > enable
    bar=$(head -1 resource | cut -d' ' -f1)
    devmem $((bar + 0x2ff8)) 64
    devmem $((bar + 0x1000)) 64 0x1122334455667788
    devmem $((bar + 0x1004)) 32
    devmem $((bar + 0x0ff8)) 64
    devmem $((bar + 0x3000)) 32 1
  `);
  expect(answer).toBe('0x0102030405060708\n0x11223344\n0x5A5A5A5A5A5A5A5A\n');
  expect(device.accesses).toEqual([0xff8, 0x3000]);
  const written = new Uint8Array(8);
  device.memory.read(0x1000, written);
  expect([...written]).toEqual([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
});
