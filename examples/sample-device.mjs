// The device that the sample client of libvfio-user expects (samples/client.c): docs/interop.md tells how the two were run together.
//   node examples/sample-device.mjs [-v] /tmp/sample.sock
import {
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationMachine,
  PciDevice,
  PciIrq,
  VfioUserServer,
  viewOf,
} from 'dmalog';

// BAR 0: u64 at 0, when to interrupt, in seconds since 1970 · BAR 1: three pages, the first and the last may be mapped
const BAR1_BYTES = 0x3000;
const CHUNK = 1024;

class SampleDevice extends PciDevice {
  #alarmAt = 0n;
  #timer;
  migration = new MigrationMachine(this.#model(), MIGRATION_STOP_COPY | MIGRATION_PRE_COPY);

  constructor() {
    super({
      name: 'sample',
      vendorId: 0xdead,
      deviceId: 0xbeef,
      subsystemVendorId: 0xcafe,
      subsystemId: 0xbabe,
      classCode: 0xff0000,
      bars: [
        { index: 0, size: 4096 },
        {
          index: 1,
          size: 0x4000,
          mappable: [
            { offset: 0, size: 0x1000 },
            { offset: 0x2000, size: 0x1000 },
          ],
        },
      ],
      // The client never sets the bus master bit.
      busMaster: 'ignored',
      migrationFlags: 0,
    });
  }

  readRegister(bar, offset, into) {
    if (bar === 1) return this.barMemory(1).read(offset, into);
    const now = BigInt(Math.floor(Date.now() / 1000));
    const bytes = new Uint8Array(new BigInt64Array([now - this.#alarmAt]).buffer);
    into.set(bytes.subarray(0, into.length));
  }

  writeRegister(bar, offset, data) {
    if (bar === 1) return this.barMemory(1).write(offset, data);
    this.#alarmAt = viewOf(data).getBigUint64(0, true);
    this.#arm();
  }

  #arm() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ring(), Math.max(0, Number(this.#alarmAt) * 1000 - Date.now()));
  }

  /** Interrupts, then writes the second mapped page through its file and the first one, which the server reaches by messages. */
  async #ring() {
    this.interrupts.raise(PciIrq.INTX, 0);
    const [first, second] = this.dma.map.regions;
    for (const region of [second, first]) {
      const written = new Uint8Array(4 * CHUNK);
      for (let chunk = 0; chunk < 4; chunk++) {
        written.fill(0x41 + chunk, chunk * CHUNK, (chunk + 1) * CHUNK);
        const piece = written.subarray(chunk * CHUNK, (chunk + 1) * CHUNK);
        await this.dma.write(region.iova + BigInt(chunk * CHUNK), piece);
      }
      const read = new Uint8Array(4 * CHUNK);
      await this.dma.read(region.iova, read);
      console.log(
        `DMA by ${region.backing.kind}: ${Buffer.compare(read, written) === 0 ? 'read back as written' : 'WRONG'}`,
      );
    }
  }

  #model() {
    const bar1 = () => {
      const bytes = new Uint8Array(BAR1_BYTES);
      this.barMemory(1).read(0, bytes);
      return bytes;
    };
    return {
      run: () => {
        this.dma.start();
        if (this.#alarmAt !== 0n) this.#arm();
      },
      quiesce: () => {
        clearTimeout(this.#timer);
        this.dma.stop('the device is stopped for migration');
        return this.dma.idle();
      },
      savePrecopy: bar1,
      saveStopped: () => new Uint8Array([...bar1(), ...new Uint8Array(new BigUint64Array([this.#alarmAt]).buffer)]),
      // What was read before the stop is read again after it, and the client drops the first: the last bytes count.
      load: state => {
        const last = state.slice(-(BAR1_BYTES + 8));
        this.barMemory(1).write(0, last.subarray(0, BAR1_BYTES));
        this.#alarmAt = viewOf(last).getBigUint64(BAR1_BYTES, true);
      },
      stoppedSize: () => BAR1_BYTES + 8,
      fail: () => this.dma.stop('the device has failed'),
    };
  }
}

const path = process.argv.at(-1);
const server = await VfioUserServer.listen(new SampleDevice(), {
  path,
  // The client maps everything with a file, and still wants to be asked for its first page.
  reachByMessage: ({ iova }) => iova === 0n,
});
console.log(`sample serves ${path}`);
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => server.close().then(() => process.exit()));
