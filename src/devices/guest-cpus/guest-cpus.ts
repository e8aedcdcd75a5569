import { PciDevice } from '../../device/index.js';
import type { SharedLog } from '../../log/index.js';
import type { CpuMemorySlot } from '../../tracker/index.js';
import { VfioError } from '../../uapi/index.js';
import { DMA_ENGINE_VENDOR_ID, type VerifyResult } from '../dma-engine/index.js';
import { createPageOrder, noCounters, type WorkloadProgress } from '../workload/index.js';
import { Cpu } from './cpu.js';
import { type CpuWorkload, MOST_CPUS, requireCpuWorkload, settingsOf } from './cpu-workload.js';
import { type CpusState, cpusStateSize, decodeCpusState, encodeCpusState } from './cpus-state.js';

/** Not registered, like the vendor's. */
const GUEST_CPUS_DEVICE_ID = 0xd3a1;
/** PCI class: a co-processor. */
const GUEST_CPUS_CLASS_CODE = 0x0b4000;

/** What the CPUs of a machine are. */
export interface GuestCpusOptions {
  /** How many, 1 to 64: a thread each. The other end of a migration must have as many. */
  cpus: number;
  /** The memory that they store into, through its own mapping: what a `CpuTracker` of the same slot sees. */
  slot: CpuMemorySlot;
  /** Where stores are marked, for each CPU: `MarkedTracker.share`. Default: nowhere, as the kernel sees them. */
  shareMarks?: () => SharedLog;
}

/** What the CPUs did since their workload began, on all machines. */
export interface CpuStatistics {
  /** Whether they store while the machine runs. */
  running: boolean;
  pagesWritten: number;
  /** Before a page is stored again, it is compared with what was stored last. */
  pagesChecked: number;
  checkErrors: number;
}

/**
 * The CPUs of a machine that has no VMM: threads of this process that write guest memory by plain stores, behind a device's back as real ones do. What they
 * write proves itself, as the DMA engine's pages do.
 *
 * They migrate as a device does, so that they go through the same states in the same order as all others: RUNNING lets them store, and whatever does not
 * run has seen their last byte. Their state is the workload, each CPU's place in it, and the table of what must be in each page; so they go on elsewhere
 * where they stopped, and notice each page that did not come along.
 *
 * @example
 * const cpus = await GuestCpus.create({ cpus: 2, slot: machine.slots[0] });
 * await cpus.configure({ kind: 'hot-set', base: 0, length: 1 << 26, rate: 5_000, seed: 1, exponent: 1 });
 * cpus.start();
 * await migrate({ to, memory: machine, devices: [new LocalDevice(cpus)], trackers: [new CpuTracker(machine.slots)] });
 */
export class GuestCpus extends PciDevice {
  readonly #cpus: readonly Cpu[];
  readonly #slot: CpuMemorySlot;
  /** The workload and, of CPUs that are paused, where each is. The tables are shared with the threads, and always as they are. */
  #state: CpusState | undefined;
  #running = true;

  private constructor(cpus: readonly Cpu[], slot: CpuMemorySlot) {
    super({
      name: 'guest-cpus',
      vendorId: DMA_ENGINE_VENDOR_ID,
      deviceId: GUEST_CPUS_DEVICE_ID,
      classCode: GUEST_CPUS_CLASS_CODE,
      bars: [],
      intx: false,
      // They write by no DMA.
      log: false,
    });
    this.#cpus = cpus;
    this.#slot = slot;
  }

  /**
   * Starts the threads, which do nothing yet.
   * @throws VfioError EINVAL for a number of CPUs that cannot be; EBADF for memory that is closed; EIO when a thread does not start
   */
  static async create({ cpus, slot, shareMarks }: GuestCpusOptions): Promise<GuestCpus> {
    if (!(Number.isInteger(cpus) && cpus >= 1 && cpus <= MOST_CPUS)) {
      throw new VfioError('EINVAL', {
        operation: 'GuestCpus',
        field: 'cpus',
        message: `${cpus}, 1 to ${MOST_CPUS} go`,
      });
    }
    const memory = slot.memory.mapping.share();
    const origin = (slot.offset ?? 0) - Number(slot.iova);
    const starts = Array.from({ length: cpus }, (_, index) =>
      Cpu.start(`CPU ${index}`, { memory, origin, marks: shareMarks?.() }),
    );
    const started = await Promise.allSettled(starts);
    const threads = started.flatMap(start => (start.status === 'fulfilled' ? [start.value] : []));
    const failed = started.find(start => start.status === 'rejected');
    if (failed === undefined) return new GuestCpus(threads, slot);
    await Promise.all(threads.map(cpu => cpu.end()));
    throw failed.reason;
  }

  /** How many there are. */
  get count(): number {
    return this.#cpus.length;
  }

  /**
   * Gives the CPUs a workload, at rest; one that they had is dropped.
   * @throws VfioError EINVAL for one that is out of its limits or of the memory; EIO when a CPU has died
   */
  async configure(workload: CpuWorkload): Promise<void> {
    const operation = 'GuestCpus.configure';
    requireCpuWorkload(workload, this.count, operation);
    if (!this.#holds(workload)) {
      throw new VfioError('EINVAL', { operation, field: 'base', message: 'the area is not in the memory' });
    }
    await this.#pause();
    this.#state = { workload: { ...workload }, started: false, progress: this.#beginnings(workload) };
    await this.#arm(this.#state);
  }

  #holds({ base, length }: CpuWorkload): boolean {
    const { iova, length: memoryLength } = this.#slot;
    return BigInt(base) >= iova && BigInt(base) + BigInt(length) <= iova + memoryLength;
  }

  #beginnings(workload: CpuWorkload): WorkloadProgress[] {
    return this.#cpus.map((_, index) => {
      const settings = settingsOf(workload, this.count, index);
      return {
        order: createPageOrder(settings).save(),
        generations: sharedTable(settings.pages),
        counters: noCounters(),
      };
    });
  }

  async #arm({ workload, progress }: CpusState): Promise<void> {
    const rate = workload.rate / this.count;
    await Promise.all(
      this.#cpus.map((cpu, index) =>
        cpu.ask('arm', { settings: settingsOf(workload, this.count, index), rate, progress: progress[index]! }),
      ),
    );
  }

  /** Lets the CPUs store, while the machine runs. @throws VfioError EINVAL without a workload */
  start(): void {
    const state = this.#requireState('start');
    state.started = true;
    this.#follow();
  }

  /** The CPUs store nothing any more when this is done; they go on when they are started again. */
  async stop(): Promise<void> {
    if (this.#state === undefined) return;
    this.#state.started = false;
    await this.#pause();
  }

  /** What the CPUs did so far. @throws VfioError EIO when one has died */
  async statistics(): Promise<CpuStatistics> {
    const statistics = { running: this.#state?.started ?? false, pagesWritten: 0, pagesChecked: 0, checkErrors: 0 };
    for (const counters of await Promise.all(this.#cpus.map(cpu => cpu.ask('count')))) {
      statistics.pagesWritten += counters?.pagesWritten ?? 0;
      statistics.pagesChecked += counters?.pagesChecked ?? 0;
      statistics.checkErrors += counters?.checkErrors ?? 0;
    }
    return statistics;
  }

  /**
   * Lets each CPU check every page that it ever wrote against what it wrote last.
   * @returns the first bad page by its index in the whole area
   * @throws VfioError EINVAL without a workload; EIO when a CPU has died
   */
  async verify(): Promise<VerifyResult> {
    const { workload } = this.#requireState('verify');
    const whole: VerifyResult = { checked: 0, bad: 0, stale: 0, firstBad: undefined };
    const parts = await Promise.all(this.#cpus.map(cpu => cpu.ask('verify')));
    for (const [index, part] of parts.entries()) {
      if (part === undefined) continue;
      whole.checked += part.checked;
      whole.bad += part.bad;
      whole.stale += part.stale;
      if (part.firstBad === undefined) continue;
      const { base, pageSize } = settingsOf(workload, this.count, index);
      whole.firstBad ??= (base - workload.base) / pageSize + part.firstBad;
    }
    return whole;
  }

  #requireState(operation: string): CpusState {
    if (this.#state !== undefined) return this.#state;
    throw new VfioError('EINVAL', { operation: `GuestCpus.${operation}`, message: 'no workload is configured' });
  }

  /** Tells the threads to run if they should. */
  #follow(): void {
    if (!this.#running || this.#state?.started !== true) return;
    for (const cpu of this.#cpus) cpu.ask('run').catch(() => {});
  }

  /** Done when every thread has stored its last byte, and has said where it is. */
  async #pause(): Promise<void> {
    const places = await Promise.all(this.#cpus.map(cpu => cpu.ask('pause')));
    const state = this.#state;
    if (state === undefined) return;
    state.progress = state.progress.map((progress, index) => ({ ...progress, ...places[index] }));
  }

  protected override onRun(): void {
    this.#requireAlive();
    this.#running = true;
    this.#follow();
  }

  protected override async onQuiesce(): Promise<void> {
    this.#running = false;
    try {
      await this.#pause();
    } catch (error) {
      this.#requireAlive();
      throw error;
    }
  }

  /** No VfioError: a machine that has lost a CPU has failed, and does not go on running. */
  #requireAlive(): void {
    const dead = this.#cpus.find(({ failure }) => failure !== undefined);
    if (dead !== undefined) throw new Error('a CPU has died', { cause: dead.failure });
  }

  protected override async onReset(): Promise<void> {
    this.#state = undefined;
    await Promise.all(this.#cpus.map(cpu => cpu.ask('disarm')));
  }

  protected override saveState(): Uint8Array {
    return encodeCpusState(this.count, this.#state);
  }

  protected override stateSize(): number {
    return cpusStateSize(this.#state);
  }

  protected override loadState(bytes: Uint8Array): void {
    const state = decodeCpusState(bytes, this.count, workload => this.#holds(workload));
    this.#requireAlive();
    if (state === undefined) {
      for (const cpu of this.#cpus) cpu.ask('disarm').catch(() => {});
    } else {
      state.progress = state.progress.map(progress => ({ ...progress, generations: shared(progress.generations) }));
      // The threads take messages in order: they have it before they are told to run. One that dies on it is found then.
      this.#arm(state).catch(() => {});
    }
    this.#state = state;
  }

  /** There are no BARs. */
  protected override readRegister(): void {}
  protected override writeRegister(): void {}

  /** Ends the threads: the device is over. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#cpus.map(cpu => cpu.end()));
    this.close();
  }
}

function sharedTable(pages: number): Uint32Array {
  return new Uint32Array(new SharedArrayBuffer(pages * Uint32Array.BYTES_PER_ELEMENT));
}

function shared(table: Uint32Array): Uint32Array {
  const copy = sharedTable(table.length);
  copy.set(table);
  return copy;
}
