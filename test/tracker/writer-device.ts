import { LocalDevice, PciDevice } from '../../src/device/index.js';
import type { DmaLogOptions } from '../../src/log/index.js';
import { backingFor, GuestMemory } from '../../src/memory/index.js';
import { linux, PciRegion, type Profile } from '../../src/uapi/index.js';

/** A device that writes where a test tells it to, and whose state is one buffer. */
export class WriterDevice extends PciDevice {
  state = new Uint8Array(0);
  runs = true;
  /** Called when the device is told to rest. */
  whenQuiesced: () => void = () => {};

  constructor(options: { log?: DmaLogOptions; migrationFlags?: number } = {}) {
    super({
      name: 'writer',
      vendorId: 0x1234,
      deviceId: 0x0001,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 4096 }],
      ...options,
    });
  }

  protected readRegister(_bar: number, _offset: number, into: Uint8Array): void {
    into.fill(0);
  }
  protected writeRegister(): void {}
  protected override onRun(): void {
    this.runs = true;
  }
  protected override onQuiesce(): void {
    this.whenQuiesced();
    this.runs = false;
  }
  protected override saveState(): Uint8Array {
    return this.state;
  }
  protected override loadState(state: Uint8Array): void {
    this.state = state.slice();
  }
}

/** A device in this process with guest memory mapped at `iova`, bus mastering on. */
export async function writerWithMemory(
  size: number,
  options: ConstructorParameters<typeof WriterDevice>[0] & { profile?: Profile; iova?: bigint } = {},
) {
  const { profile = linux, iova = 0n, ...deviceOptions } = options;
  const device = new WriterDevice(deviceOptions);
  const memory = GuestMemory.create(size);
  const region = { iova, length: BigInt(size), readable: true, writable: true };
  device.dma.map.map(region, backingFor(memory.duplicateFd(), 0n, BigInt(size), { read: true, write: true }));
  const handle = new LocalDevice(device, profile);
  await handle.regionWrite(PciRegion.CONFIG, 4, Uint8Array.of(6, 0));
  return {
    device,
    memory,
    handle,
    iova,
    /** Writes one byte to a page by DMA. */
    touch: (page: number, value = 1) => device.dma.write(iova + BigInt(page) * 4096n, Uint8Array.of(value)),
    async close() {
      await handle.close();
      memory.close();
    },
  };
}
