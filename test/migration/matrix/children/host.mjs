// One host: a process that owns a guest's memory and the connections to its devices, and is one end of a migration. It serves one run after
// another, so that most runs start no process.
import { createCipheriv } from 'node:crypto';
import { DmaEngineDriver } from '../../../../dist/devices/dma-engine/index.js';
import { GuestMemory } from '../../../../dist/memory/index.js';
import {
  claimOwnership,
  FileOwnershipStore,
  MachineMemory,
  MigrationReceiver,
  migrate,
} from '../../../../dist/migration/index.js';
import { VfioUserClient } from '../../../../dist/vfio-user/index.js';
import { faultyDevice } from './faulty-device.mjs';
import { openFiles } from './open-files.mjs';
import { serveCalls } from './serve-calls.mjs';

/** An area that nobody writes, then one for each engine. */
const AREA_SIZE = 4 * 2 ** 20;
const RATE = 8000;
/** Whether passes converge is the run's affair, not the clock's. */
const DOWNTIME_LIMIT_MS = 600_000;

class Host {
  #memory;
  #machine;
  #devices = [];
  #engines = [];
  #receiver;
  #progress = newProgress();
  #openGate = () => {};

  async open({ sockets }) {
    const size = AREA_SIZE * (1 + sockets.length);
    this.#memory = GuestMemory.create(size);
    this.#machine = new MachineMemory([{ iova: 0n, length: BigInt(size), memory: this.#memory }]);
    for (const [index, socket] of sockets.entries()) await this.openDevice({ index, socket });
  }

  /** Also in place of one whose process has ended. */
  async openDevice({ index, socket }) {
    await this.#devices[index]?.close();
    const device = await VfioUserClient.connect(socket);
    await device.mapMemory({ iova: 0n, length: this.#memory.size, readable: true, writable: true }, this.#memory);
    this.#devices[index] = device;
  }

  /** Blank devices, and memory with what belongs to `seed`. */
  async prepare({ seed }) {
    this.#engines = [];
    for (const device of this.#devices) {
      // A source that was killed has left it running, and a reset leaves it alone.
      await device.features.stopLogging().catch(() => {});
      await device.reset();
      this.#engines.push(await DmaEngineDriver.attach(device));
    }
    const cipher = contentOf(seed);
    const zeros = Buffer.alloc(2 ** 20);
    for (let at = 0; at < this.#memory.size; at += zeros.length) this.#memory.write(at, cipher.update(zeros));
  }

  /** The machine runs here from now on. */
  async start({ ownership, seed }) {
    await claimOwnership(withStore(ownership));
    for (const [index, engine] of this.#engines.entries()) {
      const area = { base: BigInt(AREA_SIZE * (index + 1)), length: BigInt(AREA_SIZE) };
      await engine.configureWorkload({ kind: 'uniform', ...area, rate: RATE, seed: seed + index, checkInterval: 4 });
      await engine.start();
    }
  }

  async migrate({ port, ownership, passes, timeoutMs, connections, tls, fault }) {
    this.#progress = newProgress(passes);
    return migrate({
      to: { host: '127.0.0.1', port },
      ...this.#end({ ownership, timeoutMs, tls, fault }),
      connections,
      downtimeLimitMs: DOWNTIME_LIMIT_MS,
      onStall: 'wait',
      verify: 'abort',
      onEvent: event => {
        if (event.event === 'pass') this.#progress.pass++;
      },
    });
  }

  /** @returns the port */
  async listen({ ownership, timeoutMs, tls, fault, gate }) {
    this.#progress = newProgress();
    const end = this.#end({ ownership, timeoutMs, tls, fault });
    end.ownership.store = this.#gated(end.ownership.store, gate);
    this.#receiver = await MigrationReceiver.listen({ ...end, listen: { host: '127.0.0.1', port: 0 } });
    return this.#receiver.address.port;
  }

  #end({ ownership, timeoutMs, tls, fault }) {
    const devices = this.#devices.map((device, index) =>
      faultyDevice(device, fault?.device === index ? fault : undefined, this.#progress),
    );
    return { memory: this.#machine, devices, timeoutMs, tls, ownership: withStore(ownership) };
  }

  /** A store that waits, before the commit or behind it, until the run says so. */
  #gated(store, gate) {
    const pass = async name => {
      if (name !== gate) return;
      const opened = new Promise(resolve => {
        this.#openGate = resolve;
      });
      process.send({ event: 'gate' });
      await opened;
    };
    return {
      name: store.name,
      read: machine => store.read(machine),
      async compareAndSet(expected, next) {
        await pass('before-commit');
        const result = await store.compareAndSet(expected, next);
        await pass('after-commit');
        return result;
      },
    };
  }

  openGate() {
    this.#openGate();
  }

  /** How receiving ended. */
  async received() {
    return this.#receiver.finished().then(
      () => 'received',
      error => error.message,
    );
  }

  async stopListening() {
    await this.#receiver.close();
  }

  /** Whether the machine that runs here has all that it wrote, and all that was there before. The engines rest then. */
  async check({ seed }) {
    const engines = [];
    for (const engine of this.#engines) {
      const { running, errno, pagesWritten, checkErrors } = await engine.statistics();
      await engine.stop();
      engines.push({ running, errno, pagesWritten, checkErrors, bad: (await engine.verify()).bad });
    }
    const area = new Uint8Array(AREA_SIZE);
    this.#memory.read(0, area);
    const isUntouched = Buffer.compare(area, contentOf(seed).update(Buffer.alloc(AREA_SIZE))) === 0;
    return { engines, isUntouched };
  }

  /** What a migration must not leave behind. */
  resources() {
    const counts = openFiles();
    for (const kind of process.getActiveResourcesInfo()) {
      if (/^TCP|Timeout|MessagePort/.test(kind)) counts[kind] = (counts[kind] ?? 0) + 1;
    }
    return counts;
  }
}

function newProgress(passes = 1) {
  return { pass: 0, passes, struck: () => process.send({ event: 'struck' }) };
}

function withStore({ folder, machine, self }) {
  return { store: new FileOwnershipStore(folder), machine, self };
}

/** A key stream: no page is like another, and it comes again from the same seed. */
function contentOf(seed) {
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed >>> 0);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16));
}

serveCalls(new Host());
