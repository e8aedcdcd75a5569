// A PCI device that writes a greeting to wherever the guest asks: docs/guides/write-a-device.md builds it line by line.
//   node examples/greeter.mjs /run/greeter.sock
import { PciDevice, VfioError, VfioUserServer, viewOf } from 'dmalog';

// BAR 0: u64 at 0, the address of the next greeting · u32 at 8, a write greets, a read gives the number of greetings so far
const ADDRESS = 0;
const GREET = 8;

class Greeter extends PciDevice {
  #registers = new Uint8Array(16);
  #view = viewOf(this.#registers);

  constructor() {
    super({
      name: 'greeter',
      vendorId: 0x1b36,
      deviceId: 0x00f1,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 4096 }],
      msix: { vectors: 1, bar: 1 },
    });
  }

  readRegister(_bar, offset, into) {
    into.fill(0);
    into.set(this.#registers.subarray(offset, offset + into.length));
  }

  async writeRegister(_bar, offset, data) {
    if (offset === ADDRESS && data.length <= 8) this.#registers.set(data, ADDRESS);
    if (offset === GREET) await this.#greet();
  }

  async #greet() {
    const count = this.#view.getUint32(GREET, true) + 1;
    const greeting = new TextEncoder().encode(`Hello, guest! (${count})`);
    await this.dma.write(this.#view.getBigUint64(ADDRESS, true), greeting);
    this.#view.setUint32(GREET, count, true);
    this.raiseInterrupt(0);
  }

  onReset() {
    this.#registers.fill(0);
  }

  saveState() {
    return this.#registers.slice();
  }

  loadState(state) {
    const { length } = this.#registers;
    if (state.length !== length) throw new VfioError('EINVAL', { operation: 'loadState', field: 'size' });
    this.#registers.set(state);
  }
}

const path = process.argv[2] ?? '/run/greeter.sock';
const server = await VfioUserServer.listen(new Greeter(), { path });
console.log(`greeter serves ${path}`);
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => server.close());
