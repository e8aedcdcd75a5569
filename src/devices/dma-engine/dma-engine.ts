import { PciDevice } from '../../device/index.js';
import type { DmaLogOptions } from '../../log/index.js';
import type { MaybePromise } from '../../memory/index.js';
import { asVfioError, VfioError, viewOf } from '../../uapi/index.js';
import { PAGES_PER_LOOK, Pacer, TICK_BUDGET_MS, TICK_MS, Workload } from '../workload/index.js';
import { CommandUnit } from './command-unit.js';
import { decodeState, encodeState, writeCounters } from './engine-state.js';
import { readSettings } from './read-settings.js';
import { RegisterBlock } from './register-block.js';
import {
  COMMAND_BUSY,
  DMA_ENGINE_BAR,
  DMA_ENGINE_BAR_SIZE,
  DMA_ENGINE_CLASS_CODE,
  DMA_ENGINE_DEVICE_ID,
  DMA_ENGINE_MSIX_BAR,
  DMA_ENGINE_VECTORS,
  DMA_ENGINE_VENDOR_ID,
  DmaEngineInterrupt,
  DmaEngineRegister,
  WorkloadControl,
} from './registers.js';

/** What may differ from one DMA engine to another. */
export interface DmaEngineOptions {
  /** What messages and logs call it. Default `'dma-engine'`. */
  name?: string;
  /** What its log can do; `false`: no DMA logging. */
  log?: DmaLogOptions | false;
  /** MIGRATION flags; default all three; 0: it cannot migrate. */
  migrationFlags?: number;
  /** Most DMA maps a client may make. */
  maxDmaMaps?: number;
}

const { INTERRUPT_STATUS, COMMAND, COMMAND_STATUS, COMPLETIONS, REFUSED_COMMANDS } = DmaEngineRegister;
const { WORKLOAD_CONTROL, WORKLOAD_STATUS, WORKLOAD_RATE, CHECK_INTERVAL } = DmaEngineRegister;

/** Words that software may write while no command runs: SOURCE, DESTINATION, LENGTH, PATTERN. */
const COMMAND_WORDS = wordsBetween(DmaEngineRegister.SOURCE, COMMAND);
/** Words that software may write at any time. */
const LIVE_WORDS: ReadonlySet<number> = new Set([WORKLOAD_RATE, CHECK_INTERVAL]);
/** Words that, but for the above, software may write while no workload is armed. */
const WORKLOAD_WORDS = wordsBetween(DmaEngineRegister.WORKLOAD_KIND, CHECK_INTERVAL);

/** Chunks of a command between two turns of the event loop: 1 MiB. */
const CHUNKS_PER_TURN = 16;

/**
 * A PCI device that writes guest memory: by command (copy, fill, scatter), and by itself, as a workload with a rate and a pattern. It checks
 * its own memory, so that it tells when a migration has lost a page. Its registers are described in registers.ts; `DmaEngineDriver` drives it.
 *
 * Everything that it writes goes through its DMA port, and is logged there. It migrates with all it knows: a command goes on at the next
 * chunk, a workload with the next page of the same sequence.
 */
export class DmaEngine extends PciDevice {
  readonly #block = new RegisterBlock();
  readonly #commands = new CommandUnit(this.dma, this.#block, () => this.#workload);
  #workload: Workload | undefined;
  #running = true;
  #commandLoop: Promise<void> | undefined;
  #batch: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #pacer = new Pacer(0);

  constructor(options: DmaEngineOptions = {}) {
    super({
      name: 'dma-engine',
      ...options,
      vendorId: DMA_ENGINE_VENDOR_ID,
      deviceId: DMA_ENGINE_DEVICE_ID,
      classCode: DMA_ENGINE_CLASS_CODE,
      bars: [{ index: DMA_ENGINE_BAR, size: DMA_ENGINE_BAR_SIZE }],
      msix: { vectors: DMA_ENGINE_VECTORS, bar: DMA_ENGINE_MSIX_BAR },
    });
  }

  protected override readRegister(_bar: number, offset: number, into: Uint8Array): void {
    if (this.#workload !== undefined) writeCounters(this.#block, this.#workload.counters);
    into.set(this.#block.bytes.subarray(offset, offset + into.length));
  }

  protected override writeRegister(_bar: number, offset: number, data: Uint8Array): void {
    if ((data.length !== 4 && data.length !== 8) || offset % data.length !== 0) return;
    const view = viewOf(data);
    for (let at = 0; at < data.length; at += 4) this.#writeWord(offset + at, view.getUint32(at, true));
  }

  #writeWord(register: number, value: number): void {
    switch (register) {
      case INTERRUPT_STATUS:
        this.#clearStatus(value);
        break;
      case COMMAND:
        this.#startCommand(value);
        break;
      case WORKLOAD_CONTROL:
        this.#controlWorkload(value);
        break;
      default:
        if (this.#isWritable(register)) this.#block.setU32(register, value);
        if (register === CHECK_INTERVAL && this.#workload !== undefined) this.#workload.checkInterval = value;
    }
  }

  #isWritable(register: number): boolean {
    if (LIVE_WORDS.has(register)) return true;
    if (COMMAND_WORDS.has(register)) return !this.#isBusy;
    return WORKLOAD_WORDS.has(register) && this.#workload === undefined;
  }

  #clearStatus(bits: number): void {
    const left = this.#block.u32(INTERRUPT_STATUS) & ~bits;
    this.#block.setU32(INTERRUPT_STATUS, left);
    if (left === 0) this.clearInterrupt();
  }

  #interrupt(bit: number): void {
    this.#block.setU32(INTERRUPT_STATUS, this.#block.u32(INTERRUPT_STATUS) | bit);
    this.raiseInterrupt(Math.log2(bit));
  }

  get #isBusy(): boolean {
    return this.#block.u32(COMMAND_STATUS) === COMMAND_BUSY;
  }

  #startCommand(command: number): void {
    if (this.#isBusy) {
      this.#block.setU32(REFUSED_COMMANDS, this.#block.u32(REFUSED_COMMANDS) + 1);
      return;
    }
    this.#commands.begin(command);
    this.#block.setU32(COMMAND_STATUS, COMMAND_BUSY);
    if (this.#running) this.#commandLoop = this.#runCommand();
  }

  /** Goes on with the command until it ends or the device stops. Never rejects. */
  async #runCommand(): Promise<void> {
    // What gets the interrupt may start the next command from within: that one's loop must not begin inside of this one's start.
    await Promise.resolve();
    try {
      for (let chunk = 1; this.#running; chunk++) {
        const advanced = this.#commands.advance();
        const ended = advanced instanceof Promise ? await advanced : advanced;
        if (ended) return this.#endCommand(0);
        if (chunk % CHUNKS_PER_TURN === 0) await nextTurn();
      }
      return undefined;
    } catch (error) {
      return this.#endCommand(asVfioError(error, 'COMMAND').number);
    }
  }

  #endCommand(errno: number): void {
    this.#block.setU32(COMMAND_STATUS, errno);
    this.#block.setU32(COMPLETIONS, this.#block.u32(COMPLETIONS) + 1);
    this.#interrupt(DmaEngineInterrupt.COMMAND);
  }

  #controlWorkload(control: number): void {
    try {
      const arm = requireControl(control);
      if (arm) this.#workload ??= this.#armWorkload();
      else this.#dropWorkload();
      this.#block.setU32(WORKLOAD_CONTROL, control);
      this.#block.setU32(WORKLOAD_STATUS, 0);
      this.#followControl();
    } catch (error) {
      this.#block.setU32(WORKLOAD_STATUS, asVfioError(error, 'WORKLOAD', 'ENOMEM').number);
    }
  }

  #armWorkload(): Workload {
    const workload = new Workload(this.dma, readSettings(this.#block), this.#block.u32(CHECK_INTERVAL));
    this.#watch(workload);
    return workload;
  }

  #watch(workload: Workload): void {
    workload.onFirstBad = () => this.#interrupt(DmaEngineInterrupt.CHECK_ERROR);
  }

  /** The counters stay in their registers until another workload is armed. */
  #dropWorkload(): void {
    if (this.#workload === undefined) return;
    writeCounters(this.#block, this.#workload.counters);
    this.#workload.resting = true;
    this.#workload = undefined;
  }

  get #isWorkloadDue(): boolean {
    return this.#running && (this.#block.u32(WORKLOAD_CONTROL) & WorkloadControl.RUN) !== 0;
  }

  /** The timer runs while the device does and RUN is set. */
  #followControl(): void {
    const isDue = this.#isWorkloadDue;
    if (this.#workload !== undefined) this.#workload.resting = !isDue;
    if (isDue === (this.#timer !== undefined)) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (!isDue) return;
    this.#pacer = new Pacer(performance.now());
    // A workload alone keeps no process alive.
    this.#timer = setInterval(() => this.#tick(), TICK_MS).unref();
  }

  #tick(): void {
    const now = performance.now();
    let due = this.#pacer.due(now, this.#block.u32(WORKLOAD_RATE));
    while (due > 0 && this.#batch === undefined && this.#timer !== undefined) {
      const count = Math.min(due, PAGES_PER_LOOK);
      const batch = this.stepWorkload(count);
      if (batch !== undefined) return;
      due -= count;
      if (performance.now() - now > TICK_BUDGET_MS) return;
    }
  }

  /**
   * Writes the next `pages` pages of the workload now, whatever the rate and the clock say: for tests, and to replay. A write that fails
   * stops the workload, with the errno in WORKLOAD_STATUS. Unless the workload runs, and the device does, nothing happens.
   */
  stepWorkload(pages: number): MaybePromise<void> {
    const workload = this.#workload;
    if (workload === undefined || !this.#isWorkloadDue) return undefined;
    try {
      const written = workload.write(pages);
      if (written === undefined) return undefined;
      const batch = written
        .catch(error => this.#failWorkload(workload, error))
        .finally(() => {
          if (this.#batch === batch) this.#batch = undefined;
        });
      this.#batch = batch;
      return batch;
    } catch (error) {
      this.#failWorkload(workload, error);
      return undefined;
    }
  }

  #failWorkload(workload: Workload, error: unknown): void {
    if (workload !== this.#workload) return;
    this.#block.setU32(WORKLOAD_CONTROL, WorkloadControl.ARM);
    this.#block.setU32(WORKLOAD_STATUS, asVfioError(error, 'WORKLOAD').number);
    this.#followControl();
  }

  protected override onReset(): void {
    this.#workload = undefined;
    this.#block.reset();
  }

  protected override onRun(): void {
    this.#running = true;
    this.#followControl();
    if (this.#isBusy) this.#commandLoop = this.#runCommand();
  }

  protected override async onQuiesce(): Promise<void> {
    this.#running = false;
    this.#followControl();
    await this.#commandLoop;
    await this.#batch;
  }

  protected override saveState(): Uint8Array {
    if (this.#workload !== undefined) writeCounters(this.#block, this.#workload.counters);
    return encodeState(this.#block, this.#workload?.progress);
  }

  protected override loadState(bytes: Uint8Array): void {
    const { block, progress } = decodeState(bytes);
    const workload = progress && new Workload(this.dma, readSettings(block), block.u32(CHECK_INTERVAL), progress);
    // Nothing fails from here on.
    this.#block.bytes.set(block.bytes);
    this.#workload = workload;
    if (workload !== undefined) this.#watch(workload);
  }
}

/** Whether a value of WORKLOAD_CONTROL arms. @throws VfioError EINVAL for one that is not in the table */
function requireControl(control: number): boolean {
  if (control === 0) return false;
  if (control === WorkloadControl.ARM || control === (WorkloadControl.ARM | WorkloadControl.RUN)) return true;
  throw new VfioError('EINVAL', { operation: 'WORKLOAD', field: 'control', message: `0x${control.toString(16)}` });
}

function wordsBetween(first: number, end: number): ReadonlySet<number> {
  return new Set(Array.from({ length: (end - first) / 4 }, (_, index) => first + 4 * index));
}

function nextTurn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve));
}
