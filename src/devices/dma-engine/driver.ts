import { setTimeout as delay } from 'node:timers/promises';
import type { DeviceHandle } from '../../device/index.js';
import { type ErrnoName, errnoName, PciRegion, VfioError, viewOf } from '../../uapi/index.js';
import { type WorkloadKindName, workloadKindNumbers } from '../workload/index.js';
import {
  COMMAND_BUSY,
  COMMAND_ERRNO_MASK,
  DMA_ENGINE_BAR,
  DMA_ENGINE_DEVICE_ID,
  DMA_ENGINE_MAGIC,
  DMA_ENGINE_VENDOR_ID,
  DMA_ENGINE_VERSION,
  DmaEngineCommand,
  DmaEngineRegister,
  EXPONENT_ONE,
  NO_PAGE,
  PageFault,
  WorkloadControl,
} from './registers.js';

/** A workload; see the registers of the same names for the limits. */
export interface WorkloadConfig {
  kind: WorkloadKindName;
  /** IOVA where the area begins. */
  base: bigint;
  /** Size of the area in bytes. */
  length: bigint;
  /** Pages per second. */
  rate: number;
  /** Bytes of one write. Default 4096. */
  pageSize?: number;
  /** Default 1. */
  seed?: number;
  /** Hot set: Zipf's exponent. Default 1. */
  exponent?: number;
  /** Rings: how many. Default 4. */
  rings?: number;
  /** Rings: most buffers in one burst. Default 32. */
  burst?: number;
  /** Every n-th write first checks what is in the page; 0: none does. Default 1. */
  checkInterval?: number;
}

/** A page that was not as it should be. */
export interface BadPage {
  /** Index in the workload's area. */
  page: number;
  /** What was wrong, such as `'STALE'`. */
  fault: keyof typeof PageFault;
  /** The generation (how often the page was written) that should have been there. */
  expectedGeneration: number;
  /** The generation that its header names. */
  foundGeneration: number;
}

/** What the workload did since it was configured. */
export interface WorkloadStatistics {
  /** Whether it writes pages now. */
  running: boolean;
  /** Why it stopped by itself, if it did. */
  errno: ErrnoName | undefined;
  pagesWritten: number;
  pagesChecked: number;
  checkErrors: number;
  firstBad: BadPage | undefined;
}

/** What VERIFY found. */
export interface VerifyResult {
  /** Pages compared: all that were ever written. */
  checked: number;
  /** Wrong ones. */
  bad: number;
  /** Wrong ones that hold an older generation or none: pages that a migration lost. */
  stale: number;
  /** Index of the first wrong one. */
  firstBad: number | undefined;
}

const COMMAND_REGISTER = 0x04;
const COMMAND_MEMORY_AND_BUS_MASTER = 0x6;
const FAULT_NAMES = Object.keys(PageFault) as (keyof typeof PageFault)[];

/**
 * A driver for the DMA engine over any {@link DeviceHandle}; it polls, so that it needs no interrupt. One command at a time.
 *
 * @example
 * const engine = await DmaEngineDriver.attach(device);
 * await engine.fill({ destination: 0x1000n, length: 4096n, pattern: 0xffn });
 * await engine.configureWorkload({ kind: 'hot-set', base: 0n, length: 1n << 26n, rate: 20_000 });
 * await engine.start();
 */
export class DmaEngineDriver {
  readonly #device: DeviceHandle;
  readonly #timeoutMs: number;

  private constructor(device: DeviceHandle, timeoutMs: number) {
    this.#device = device;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Checks that the device is a DMA engine, and switches memory access and bus mastering on.
   * @param options `timeoutMs`: how long a command may take, milliseconds; default 60000
   * @throws VfioError ENODEV for another device
   */
  static async attach(device: DeviceHandle, options: { timeoutMs?: number } = {}): Promise<DmaEngineDriver> {
    const config = viewOf(await device.regionRead(PciRegion.CONFIG, 0, 8));
    const driver = new DmaEngineDriver(device, options.timeoutMs ?? 60_000);
    const isEngine =
      config.getUint16(0, true) === DMA_ENGINE_VENDOR_ID &&
      config.getUint16(2, true) === DMA_ENGINE_DEVICE_ID &&
      (await driver.#read32(DmaEngineRegister.MAGIC)) === DMA_ENGINE_MAGIC &&
      (await driver.#read32(DmaEngineRegister.VERSION)) === DMA_ENGINE_VERSION;
    if (!isEngine) {
      throw new VfioError('ENODEV', { operation: 'attach', message: `${device.target} is no DMA engine` });
    }
    await driver.enableBusMaster();
    return driver;
  }

  /** Switches memory access and bus mastering on in the PCI command register. A reset switches them off. */
  async enableBusMaster(): Promise<void> {
    const bytes = await this.#device.regionRead(PciRegion.CONFIG, COMMAND_REGISTER, 2);
    const view = viewOf(bytes);
    view.setUint16(0, view.getUint16(0, true) | COMMAND_MEMORY_AND_BUS_MASTER, true);
    await this.#device.regionWrite(PciRegion.CONFIG, COMMAND_REGISTER, bytes);
  }

  /** Copies `length` bytes, right also where the two overlap. @throws VfioError with the command's errno */
  async copy(command: { source: bigint; destination: bigint; length: bigint }): Promise<void> {
    await this.#write64(DmaEngineRegister.SOURCE, command.source);
    await this.#write64(DmaEngineRegister.DESTINATION, command.destination);
    await this.#write64(DmaEngineRegister.LENGTH, command.length);
    await this.#run(DmaEngineCommand.COPY, 'COPY');
  }

  /** Fills `length` bytes with the 8 bytes of `pattern`, repeated. @throws VfioError with the command's errno */
  async fill(command: { destination: bigint; length: bigint; pattern: bigint }): Promise<void> {
    await this.#write64(DmaEngineRegister.DESTINATION, command.destination);
    await this.#write64(DmaEngineRegister.LENGTH, command.length);
    await this.#write64(DmaEngineRegister.PATTERN, command.pattern);
    await this.#run(DmaEngineCommand.FILL, 'FILL');
  }

  /**
   * Writes what a list in guest memory says; `encodeScatterList` makes one.
   * @param command `list`: its IOVA; `entries`: how many
   * @throws VfioError with the command's errno
   */
  async scatter(command: { list: bigint; entries: number }): Promise<void> {
    await this.#write64(DmaEngineRegister.SOURCE, command.list);
    await this.#write64(DmaEngineRegister.LENGTH, BigInt(command.entries));
    await this.#run(DmaEngineCommand.SCATTER, 'SCATTER');
  }

  /**
   * Checks every page that the workload ever wrote against what it wrote last; the workload may run meanwhile.
   * @throws VfioError EINVAL when no workload is configured
   */
  async verify(): Promise<VerifyResult> {
    await this.#run(DmaEngineCommand.VERIFY, 'VERIFY');
    const firstBad = await this.#read32(DmaEngineRegister.VERIFY_FIRST_BAD);
    return {
      checked: await this.#readCount(DmaEngineRegister.VERIFY_CHECKED),
      bad: await this.#readCount(DmaEngineRegister.VERIFY_BAD),
      stale: await this.#readCount(DmaEngineRegister.VERIFY_STALE),
      firstBad: firstBad === NO_PAGE ? undefined : firstBad,
    };
  }

  /**
   * Arms a workload, at rest; one that was there is dropped, with what it knew of the pages.
   * @throws VfioError EINVAL when the device does not take it
   */
  async configureWorkload(config: WorkloadConfig): Promise<void> {
    await this.#write32(DmaEngineRegister.WORKLOAD_CONTROL, 0);
    await this.#write32(DmaEngineRegister.WORKLOAD_KIND, workloadKindNumbers[config.kind]);
    await this.#write32(DmaEngineRegister.WORKLOAD_PAGE_SIZE, config.pageSize ?? 4096);
    await this.#write64(DmaEngineRegister.WORKLOAD_BASE, config.base);
    await this.#write64(DmaEngineRegister.WORKLOAD_LENGTH, config.length);
    await this.#write32(DmaEngineRegister.WORKLOAD_RATE, config.rate);
    await this.#write32(DmaEngineRegister.WORKLOAD_SEED, config.seed ?? 1);
    const exponent = Math.round((config.exponent ?? 1) * EXPONENT_ONE);
    await this.#write32(DmaEngineRegister.WORKLOAD_EXPONENT, exponent);
    await this.#write32(DmaEngineRegister.WORKLOAD_RINGS, config.rings ?? 4);
    await this.#write32(DmaEngineRegister.WORKLOAD_BURST, config.burst ?? 32);
    await this.#write32(DmaEngineRegister.CHECK_INTERVAL, config.checkInterval ?? 1);
    await this.#control(WorkloadControl.ARM);
  }

  /** Lets the configured workload run. @throws VfioError EINVAL when none is configured */
  async start(): Promise<void> {
    if ((await this.#read32(DmaEngineRegister.WORKLOAD_CONTROL)) === 0) {
      throw new VfioError('EINVAL', { operation: 'WORKLOAD', message: 'no workload is configured' });
    }
    await this.#control(WorkloadControl.ARM | WorkloadControl.RUN);
  }

  /** Brings the workload to rest; it goes on where it was when it is started again. */
  async stop(): Promise<void> {
    if ((await this.#read32(DmaEngineRegister.WORKLOAD_CONTROL)) !== 0) await this.#control(WorkloadControl.ARM);
  }

  /** Changes the workload's rate, pages per second, while it runs or not. */
  async setRate(rate: number): Promise<void> {
    await this.#write32(DmaEngineRegister.WORKLOAD_RATE, rate);
  }

  /** What the workload did so far. */
  async statistics(): Promise<WorkloadStatistics> {
    const control = await this.#read32(DmaEngineRegister.WORKLOAD_CONTROL);
    const errno = await this.#read32(DmaEngineRegister.WORKLOAD_STATUS);
    return {
      running: (control & WorkloadControl.RUN) !== 0,
      errno: errno === 0 ? undefined : errnoName(errno),
      pagesWritten: await this.#readCount(DmaEngineRegister.PAGES_WRITTEN),
      pagesChecked: await this.#readCount(DmaEngineRegister.PAGES_CHECKED),
      checkErrors: await this.#readCount(DmaEngineRegister.CHECK_ERRORS),
      firstBad: await this.#firstBad(),
    };
  }

  async #firstBad(): Promise<BadPage | undefined> {
    const view = viewOf(await this.#device.regionRead(DMA_ENGINE_BAR, DmaEngineRegister.FIRST_BAD_PAGE, 16));
    const page = view.getUint32(0, true);
    if (page === NO_PAGE) return undefined;
    return {
      page,
      fault: FAULT_NAMES[view.getUint32(4, true)] ?? 'BODY',
      expectedGeneration: view.getUint32(8, true),
      foundGeneration: view.getUint32(12, true),
    };
  }

  async #control(value: number): Promise<void> {
    await this.#write32(DmaEngineRegister.WORKLOAD_CONTROL, value);
    if ((await this.#read32(DmaEngineRegister.WORKLOAD_CONTROL)) === value) return;
    const errno = errnoName(await this.#read32(DmaEngineRegister.WORKLOAD_STATUS));
    throw new VfioError(errno, { operation: 'WORKLOAD', message: 'the engine does not take this workload' });
  }

  async #run(command: number, operation: string): Promise<void> {
    await this.#write32(DmaEngineRegister.COMMAND, command);
    const deadline = performance.now() + this.#timeoutMs;
    for (;;) {
      const status = await this.#read32(DmaEngineRegister.COMMAND_STATUS);
      if ((status & COMMAND_BUSY) === 0) {
        const errno = status & COMMAND_ERRNO_MASK;
        if (errno !== 0) throw new VfioError(errnoName(errno), { operation, message: 'the command failed' });
        return;
      }
      if (performance.now() > deadline) {
        throw new VfioError('ETIMEDOUT', { operation, message: `still running after ${this.#timeoutMs} ms` });
      }
      await delay(1);
    }
  }

  async #read32(register: number): Promise<number> {
    return viewOf(await this.#device.regionRead(DMA_ENGINE_BAR, register, 4)).getUint32(0, true);
  }

  async #readCount(register: number): Promise<number> {
    return Number(viewOf(await this.#device.regionRead(DMA_ENGINE_BAR, register, 8)).getBigUint64(0, true));
  }

  async #write32(register: number, value: number): Promise<void> {
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, value, true);
    await this.#device.regionWrite(DMA_ENGINE_BAR, register, bytes);
  }

  async #write64(register: number, value: bigint): Promise<void> {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setBigUint64(0, value, true);
    await this.#device.regionWrite(DMA_ENGINE_BAR, register, bytes);
  }
}
