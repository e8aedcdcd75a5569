// side.mjs ROLE STORE TIMEOUT MACHINE RUNNING [PORT]: one end of a migration as a process of its own. ROLE: source, destination. STORE: a folder
// or etcd's address. TIMEOUT: how long etcd may take to answer, milliseconds. RUNNING: a file on which whoever runs the machine holds a lock, so that a second one that runs it shows.
import { closeSync, openSync } from 'node:fs';
import { LocalDevice, PciDevice } from '../../../dist/device/index.js';
import { backingFor, GuestMemory } from '../../../dist/memory/index.js';
import {
  claimOwnership,
  EtcdOwnershipStore,
  FileOwnershipStore,
  MachineMemory,
  MigrationReceiver,
  migrate,
} from '../../../dist/migration/index.js';
import { lockFile } from '../../../dist/native/index.js';
import { linux, PciRegion } from '../../../dist/uapi/index.js';

const [role, place, timeout, machine, running, port] = process.argv.slice(2);
const store = place.startsWith('http')
  ? new EtcdOwnershipStore({ endpoints: [place], timeoutMs: Number(timeout) })
  : new FileOwnershipStore(place);
const ownership = { store, machine, self: role };
const SIZE = 64 * 4096;

/** The machine: it runs while it holds the lock. */
class Machine extends PciDevice {
  #lock;
  #isHere = role === 'source';

  constructor() {
    super({
      name: 'machine',
      vendorId: 0x1234,
      deviceId: 1,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 4096 }],
    });
  }
  get runs() {
    return this.#lock !== undefined;
  }
  readRegister(_bar, _offset, into) {
    into.fill(0);
  }
  writeRegister() {}
  start() {
    if (!this.#isHere || this.runs) return;
    this.#lock = openSync(running, 'a');
    // Throws when somebody else holds it.
    try {
      lockFile(this.#lock, 'exclusive');
    } catch {
      process.send({ twice: true });
    }
  }
  onRun() {
    this.start();
  }
  /** What it was is forgotten: a blank device is not the machine. */
  onReset() {
    this.#isHere = false;
  }
  onQuiesce() {
    if (this.#lock !== undefined) closeSync(this.#lock);
    this.#lock = undefined;
  }
  saveState() {
    return new TextEncoder().encode('state');
  }
  loadState() {
    this.#isHere = true;
  }
}

const device = new Machine();
const memory = GuestMemory.create(SIZE);
memory.write(0, Buffer.alloc(SIZE, role));
const region = { iova: 0n, length: BigInt(SIZE), readable: true, writable: true };
device.dma.map.map(region, backingFor(memory.duplicateFd(), 0n, BigInt(SIZE), { read: true, write: true }));
const handle = new LocalDevice(device, linux);
await handle.regionWrite(PciRegion.CONFIG, 4, Uint8Array.of(6, 0));
const common = {
  memory: new MachineMemory([{ iova: 0n, length: BigInt(SIZE), memory }]),
  devices: [handle],
  timeoutMs: 2000,
  ownership,
};

if (role === 'source') {
  await claimOwnership(ownership);
  device.start();
  const to = { host: '127.0.0.1', port: Number(port) };
  const onEvent = event => event.event === 'phase' && process.send({ phase: event.phase });
  // Whether it converges is another matter, and a question of how busy the host is.
  const { outcome, runningAt } = await migrate({ ...common, to, onEvent, downtimeLimitMs: 60_000 });
  await new Promise(resolve => process.send({ end: { outcome, runningAt, runs: device.runs } }, resolve));
} else {
  const receiver = await MigrationReceiver.listen({ ...common, listen: { port: 0 } });
  process.send({ port: receiver.address.port });
  const outcome = await receiver.finished().then(
    () => 'received',
    error => error.message,
  );
  await new Promise(resolve => process.send({ end: { outcome, runs: device.runs } }, resolve));
}
// A machine that runs here does so until the test ends it.
