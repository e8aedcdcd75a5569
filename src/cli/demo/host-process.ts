import { createCipheriv } from 'node:crypto';
import { rmSync } from 'node:fs';
import { type DeviceHandle, LocalDevice } from '../../device/index.js';
import { DmaEngineDriver } from '../../devices/dma-engine/index.js';
import { GuestCpus } from '../../devices/guest-cpus/index.js';
import { GuestMemory } from '../../memory/index.js';
import { MachineMemory, MigrationReceiver, migrate } from '../../migration/index.js';
import { CpuTracker, LoggingSession, type MarkedTracker, type Tracker } from '../../tracker/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { VfioUserClient } from '../../vfio-user/index.js';
import { type CpuLog, chooseCpuLog, marksFor } from './cpu-log.js';
import {
  CPU_LOG_NAME,
  DMA_LOG_NAME,
  type HostCall,
  type HostCalls,
  type HostMessage,
  type HostRequest,
} from './host-protocol.js';
import { OwnMemory } from './own-memory.js';

/*
 * A host of the demo, in a process of its own: it owns the guest's memory, the guest's CPUs and the connection to the device, and is one end of
 * the migration.
 */

type Served = { [Call in HostCall]: (parameters: HostCalls[Call]['parameters']) => Promise<HostCalls[Call]['result']> };

class Host implements Served {
  readonly #ownMemory = new OwnMemory();
  #memory: GuestMemory | undefined;
  #machine: MachineMemory | undefined;
  #device: VfioUserClient | undefined;
  #engine: DmaEngineDriver | undefined;
  #cpus: GuestCpus | undefined;
  #cpuDevice: LocalDevice | undefined;
  #cpuLog: CpuLog | undefined;
  #marks: MarkedTracker | undefined;
  #receiver: MigrationReceiver | undefined;

  async boot({ socket, memoryBytes, cpus, cpuLog }: HostCalls['boot']['parameters']): Promise<CpuLog> {
    this.#cpuLog = chooseCpuLog(cpuLog);
    const device = await VfioUserClient.connect(socket);
    const memory = GuestMemory.create(memoryBytes, 'demo-guest');
    const range = { iova: 0n, length: BigInt(memoryBytes) };
    await device.dmaMap({ ...range, readable: true, writable: true }, { fd: memory.fd });
    this.#device = device;
    this.#memory = memory;
    this.#machine = new MachineMemory([{ ...range, memory }]);
    this.#engine = await DmaEngineDriver.attach(device);
    const marks = marksFor(this.#cpuLog, [range], CPU_LOG_NAME);
    this.#cpus = await GuestCpus.create({
      cpus,
      slot: this.#machine.slots[0]!,
      ...(marks && { shareMarks: () => marks.share() }),
    });
    this.#cpuDevice = new LocalDevice(this.#cpus);
    this.#marks = marks;
    return this.#cpuLog;
  }

  /** AES-CTR's key stream is random enough that no page is like another, comes again from the same seed, and is made at GB/s. */
  async fill({ seed }: HostCalls['fill']['parameters']): Promise<undefined> {
    const memory = need(this.#memory);
    const key = Buffer.alloc(16);
    key.writeUInt32LE(seed >>> 0);
    const cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16));
    const zeros = Buffer.alloc(1 << 20);
    for (let offset = 0; offset < memory.size; offset += zeros.length) {
      memory.write(offset, cipher.update(zeros.subarray(0, Math.min(zeros.length, Number(memory.size) - offset))));
    }
    return undefined;
  }

  async startWorkloads({ engine, cpus }: HostCalls['startWorkloads']['parameters']): Promise<undefined> {
    await need(this.#engine).configureWorkload(engine);
    await need(this.#engine).start();
    await need(this.#cpus).configure(cpus);
    need(this.#cpus).start();
    return undefined;
  }

  async listen(): Promise<{ host: string; port: number }> {
    this.#receiver = await MigrationReceiver.listen({ memory: need(this.#machine), devices: this.#devices });
    return this.#receiver.address;
  }

  async received(): Promise<HostCalls['received']['result']> {
    return need(this.#receiver).finished();
  }

  async migrate({ to, log, downtimeLimitMs, maxPasses }: HostCalls['migrate']['parameters']) {
    return migrate({
      to,
      memory: need(this.#machine),
      devices: this.#devices,
      trackers: this.#trackers(log),
      downtimeLimitMs,
      maxPasses,
      verify: 'report',
      onEvent: event => post({ kind: 'event', event }),
    });
  }

  /** Who drives a device stops before it. */
  get #devices(): DeviceHandle[] {
    return [need(this.#cpuDevice), need(this.#device)];
  }

  /** All that writes guest memory, each with its log, but for what is left out. */
  #trackers(log: boolean): Tracker[] {
    const trackers: Tracker[] = [];
    // Whoever logs on a device that nobody else migrates has died.
    if (log) trackers.push(new LoggingSession(need(this.#device).features, { name: DMA_LOG_NAME, takeOver: true }));
    if (this.#marks !== undefined) trackers.push(this.#marks);
    if (this.#cpuLog?.by === 'kernel') trackers.push(new CpuTracker(need(this.#machine).slots, { name: CPU_LOG_NAME }));
    return trackers;
  }

  async prove(): Promise<HostCalls['prove']['result']> {
    const [engine, cpus] = [need(this.#engine), need(this.#cpus)];
    const [{ running: engineRuns }, { running: cpusRun }] = [await engine.statistics(), await cpus.statistics()];
    await engine.stop();
    await cpus.stop();
    return {
      engine: { ...(await engine.statistics()), running: engineRuns, verify: await engine.verify() },
      cpus: { ...(await cpus.statistics()), running: cpusRun, verify: await cpus.verify() },
    };
  }

  async peakMemory(): Promise<number> {
    return this.#ownMemory.most;
  }
}

function need<T>(value: T | undefined): T {
  if (value === undefined) throw new VfioError('EINVAL', { operation: 'demo host', message: 'it is not booted' });
  return value;
}

function post(message: HostMessage): void {
  if (process.connected) process.send!(plain(message));
}

/** Errors lose their class on the channel; their words and errno are what the other side shows. */
function plain(value: unknown): unknown {
  if (value instanceof VfioError) return { errno: value.errno, message: value.message };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null || value.constructor !== Object) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

const host = new Host();
process.on('message', async ({ id, call, parameters }: HostRequest) => {
  try {
    const result = await (host[call] as (parameters: unknown) => Promise<unknown>)(parameters);
    post({ kind: 'result', id, result });
  } catch (error) {
    const { errno, message } = asVfioError(error, call);
    post({ kind: 'error', id, errno, message });
  }
});
// Ctrl-C reaches the whole group: the parent decides. Without a parent (it may have been killed) nobody else tidies up.
process.on('SIGINT', () => {});
process.on('disconnect', () => {
  const directory = process.argv[2];
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
  process.exit(1);
});
