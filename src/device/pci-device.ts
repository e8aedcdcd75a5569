import { DmaLog, type DmaLogOptions } from '../log/index.js';
import { DmaMap, type MaybePromise } from '../memory/index.js';
import type { Mapping } from '../native/index.js';
import {
  DeviceFlag,
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  PCI_NUM_REGIONS,
  PciIrq,
  PciRegion,
  RegionFlag,
  VfioError,
} from '../uapi/index.js';
import { BarMemories } from './bar-memories.js';
import type { Device, IoEventFd, RegionInfo } from './device.js';
import {
  type DeviceImage,
  decodeDeviceImage,
  deviceImageSize,
  encodeDeviceImage,
  encodeIdentity,
} from './device-image.js';
import { DmaPort } from './dma-port.js';
import { Interrupts } from './interrupts.js';
import { type IoEventSpec, IoEvents } from './io-events.js';
import { type MigratableModel, MigrationMachine } from './migration-machine.js';
import { type BarSpec, CONFIG_SPACE_SIZE, PciConfigSpace, type PciIdentity } from './pci-config-space.js';

/** What a PCI device is made of. */
export interface PciDeviceOptions extends PciIdentity {
  /** What messages and logs call it. */
  name: string;
  /** The BARs the author answers for. */
  bars: readonly BarSpec[];
  /** MSI-X vectors, and a BAR of their own for the table (not among `bars`). */
  msix?: { vectors: number; bar: number };
  /** Whether the device has INTx pin A; default true. */
  intx?: boolean;
  /** What its log can do; `false`: no DMA logging. */
  log?: DmaLogOptions | false;
  /** MIGRATION flags; default all three; 0: it cannot migrate. */
  migrationFlags?: number;
  /** Most DMA maps a client may make; see `DmaMap`. */
  maxDmaMaps?: number;
  /** Raised when what `saveState` gives changes its form; only the same number is taken at the other end. Default 1. */
  stateVersion?: number;
  /** Writes that clients may signal on eventfds; `onIoEvent` is told the index. */
  ioEventFds?: readonly IoEventSpec[];
  /**
   * `'enforced'`: without the bus master bit of the command register, which drivers set, no DMA. `'ignored'`: DMA always, for clients that
   * never set the bit, such as the sample client of the C reference. Default `'enforced'`.
   */
  busMaster?: 'enforced' | 'ignored';
}

const MSIX_ENTRY_SIZE = 16;

/**
 * What a device author extends: a PCI device whose configuration space, interrupts, DMA logging and migration are taken care of.
 *
 * The author answers for the BARs (`readRegister`, `writeRegister`), starts and stops work (`onRun`, `onQuiesce`), and gives and takes
 * its own state (`saveState`, `loadState`). All DMA goes through `dma`, so that all of it is logged.
 *
 * @example
 * class Stamp extends PciDevice {
 *   constructor() {
 *     super({ name: 'stamp', vendorId: 0x1b36, deviceId: 0x00f0, classCode: 0xff0000, bars: [{ index: 0, size: 4096 }] });
 *   }
 *   protected readRegister(_bar: number, _offset: number, into: Uint8Array) { into.fill(0); }
 *   protected async writeRegister(_bar: number, _offset: number, data: Uint8Array) {
 *     await this.dma.write(viewOf(data).getBigUint64(0, true), new TextEncoder().encode('hello'));
 *     this.raiseInterrupt(0);
 *   }
 * }
 */
export abstract class PciDevice implements Device {
  readonly name: string;
  readonly flags = DeviceFlag.PCI | DeviceFlag.RESET;
  readonly regions: readonly RegionInfo[];
  readonly interrupts: Interrupts;
  readonly dma: DmaPort;
  readonly migration: MigrationMachine | undefined;
  readonly hasLogging: boolean;
  readonly #config: PciConfigSpace;
  readonly #msixBar: number | undefined;
  /** The BAR of the MSI-X table: entries, and behind them a pending bit for each. */
  readonly #msixTable: Uint8Array;
  readonly #pendingOffset: number;
  readonly #identity: Uint8Array;
  readonly #barMemories: BarMemories;
  readonly #ioEvents: IoEvents;
  readonly #followsBusMaster: boolean;
  #resets = 0;

  protected constructor(options: PciDeviceOptions) {
    this.name = options.name;
    const vectors = options.msix?.vectors ?? 0;
    const hasIntx = options.intx ?? true;
    const pendingOffset = vectors * MSIX_ENTRY_SIZE;
    this.#pendingOffset = pendingOffset;
    this.#msixBar = options.msix?.bar;
    this.#msixTable = new Uint8Array(nextPowerOfTwo(Math.max(4096, pendingOffset + Math.ceil(vectors / 64) * 8)));
    const bars = [...options.bars];
    if (options.msix) bars.push({ index: options.msix.bar, size: this.#msixTable.length });
    this.#config = new PciConfigSpace(
      options,
      bars,
      hasIntx,
      options.msix && { ...options.msix, tableOffset: 0, pendingOffset },
    );
    this.#ioEvents = new IoEvents(options.ioEventFds ?? [], index => this.onIoEvent(index));
    this.#barMemories = new BarMemories(options.name, bars);
    this.regions = regionInfos(bars, this.#barMemories);
    this.interrupts = new Interrupts({ [PciIrq.INTX]: hasIntx ? 1 : 0, [PciIrq.MSIX]: vectors });
    this.hasLogging = options.log !== false;
    this.dma = new DmaPort(new DmaMap(options.maxDmaMaps), new DmaLog(options.log || {}));
    this.#followsBusMaster = options.busMaster !== 'ignored';
    this.dma.busMaster = !this.#followsBusMaster;
    this.#identity = encodeIdentity(options, options.stateVersion ?? 1);
    const migrationFlags = options.migrationFlags ?? MIGRATION_STOP_COPY | MIGRATION_P2P | MIGRATION_PRE_COPY;
    this.migration = migrationFlags === 0 ? undefined : new MigrationMachine(this.#migratable(), migrationFlags);
  }

  /** Reads a BAR's registers. `into` lies inside the BAR; any length and alignment may come. */
  protected abstract readRegister(bar: number, offset: number, into: Uint8Array): MaybePromise<void>;
  /** Writes a BAR's registers, as {@link PciDevice.readRegister}. `data` is only valid until the call returns. */
  protected abstract writeRegister(bar: number, offset: number, data: Uint8Array): MaybePromise<void>;
  /** One of `ioEventFds` was signalled, once or more often since the last call. What it throws becomes a process warning. */
  protected onIoEvent(_index: number): MaybePromise<void> {}
  /** Registers as at power-on. */
  protected onReset(): MaybePromise<void> {}
  /** The device may work by itself from now on. */
  protected onRun(): void {}
  /** The device must start nothing any more; done when its own work is at rest. DMA in flight is waited for in any case. */
  protected onQuiesce(): MaybePromise<void> {}
  /**
   * The author's own state. To tell its size (`stateSize`) it may also be asked for while the device runs: it must change nothing.
   */
  protected saveState(): Uint8Array {
    return new Uint8Array(0);
  }
  /** How many bytes `saveState` would give. Worth answering more cheaply where a state is large. */
  protected stateSize(): number {
    return this.saveState().length;
  }
  /**
   * Takes what `saveState` gave at the other end.
   * @throws VfioError EINVAL, with nothing changed.
   */
  protected loadState(state: Uint8Array): void {
    if (state.length !== 0) throw new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE', message: 'unexpected state' });
  }

  /**
   * Raises MSI-X vector `vector` if the driver uses MSI-X; else asserts INTx, until {@link PciDevice.clearInterrupt}. A vector that is enabled
   * but has no trigger yet (its client is just coming back) is pending until it gets one.
   *
   * Vectors are masked by the VMM, which owns the MSI-X table that the guest sees (Linux vfio-pci); the table here only keeps its bytes.
   */
  protected raiseInterrupt(vector: number): void {
    if (this.#config.msixEnabled) {
      this.interrupts.raiseOrKeep(PciIrq.MSIX, vector);
      return;
    }
    if (this.interrupts.isEnabled(PciIrq.MSIX)) {
      this.interrupts.raise(PciIrq.MSIX, vector);
      return;
    }
    this.#config.interruptStatus = true;
    if (!this.#config.intxDisabled) this.interrupts.setIntxLevel(true);
  }

  /**
   * The memory of a BAR's `mappable` areas, offsets as in the BAR. A client that has mapped it changes it at any moment, unseen.
   * @throws VfioError EINVAL for a BAR without such areas
   */
  protected barMemory(bar: number): Mapping {
    return this.#barMemories.require(bar).mapping;
  }

  /** Deasserts INTx. */
  protected clearInterrupt(): void {
    this.#config.interruptStatus = false;
    this.interrupts.setIntxLevel(false);
  }

  regionRead(region: number, offset: number, into: Uint8Array): MaybePromise<void> {
    this.#checkAccess('REGION_READ', region, offset, into.length);
    if (region === PciRegion.CONFIG) return this.#config.read(offset, into);
    if (region === this.#msixBar) {
      this.#msixTable.set(this.interrupts.pending(PciIrq.MSIX), this.#pendingOffset);
      into.set(this.#msixTable.subarray(offset, offset + into.length));
      return undefined;
    }
    const memory = this.#barMemories.find(region);
    if (memory === undefined) return this.readRegister(region, offset, into);
    return memory.read(offset, into, (at, from, to) => this.readRegister(region, at, into.subarray(from, to)));
  }

  regionWrite(region: number, offset: number, data: Uint8Array): MaybePromise<void> {
    this.#checkAccess('REGION_WRITE', region, offset, data.length);
    if (region === PciRegion.CONFIG) {
      this.#config.write(offset, data);
      this.#followCommand();
      return undefined;
    }
    if (region === this.#msixBar) {
      this.#msixTable.set(data, offset);
      return undefined;
    }
    const memory = this.#barMemories.find(region);
    if (memory === undefined) return this.writeRegister(region, offset, data);
    return memory.write(offset, data, (at, from, to) => this.writeRegister(region, at, data.subarray(from, to)));
  }

  /** Whether eventfds are watched, which takes the event loop. An author whose device works by itself adds to it. */
  get busy(): boolean {
    return this.#ioEvents.open;
  }

  regionIoFds(region: number): readonly IoEventFd[] {
    return this.#ioEvents.ofBar(region);
  }

  #checkAccess(operation: string, region: number, offset: number, count: number): void {
    const size = this.regions[region]?.size ?? 0;
    if (size === 0) {
      throw new VfioError('EINVAL', { operation, field: 'region', message: `${this.name} has no region ${region}` });
    }
    if (!(offset >= 0 && offset + count <= size)) {
      throw new VfioError('EINVAL', { operation, field: 'offset', message: `${offset} + ${count} is beyond ${size}` });
    }
  }

  #followCommand(): void {
    if (this.#followsBusMaster) this.dma.busMaster = this.#config.busMaster;
    this.interrupts.setIntxLevel(this.#config.interruptStatus && !this.#config.intxDisabled);
  }

  async reset(): Promise<void> {
    this.dma.stop('the device is being reset');
    try {
      await this.onQuiesce();
      await this.dma.idle();
      this.#config.reset();
      this.#msixTable.fill(0);
      this.#barMemories.reset();
      this.#ioEvents.discard();
      this.interrupts.clearPending();
      this.clearInterrupt();
      this.#followCommand();
      await this.onReset();
    } catch (error) {
      this.migration?.fail();
      throw error;
    }
    this.migration?.reset();
    this.#resets++;
    this.dma.start();
    this.onRun();
  }

  disconnect(): void {
    this.interrupts.disconnect();
    this.dma.map.unmapAll();
    this.#ioEvents.close();
  }

  /** Lets go of everything, memory files included: the device is over. A second call does nothing. */
  close(): void {
    this.disconnect();
    this.#barMemories.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #migratable(): MigratableModel {
    return {
      run: () => {
        this.dma.start();
        // What was pending when the device was saved is delivered only where it runs.
        this.#followCommand();
        this.interrupts.deliverKept(PciIrq.MSIX);
        this.onRun();
      },
      quiesce: () => this.#quiesce(),
      savePrecopy: () => this.#identity,
      saveStopped: () =>
        encodeDeviceImage({
          config: this.#config.save(),
          msixTable: this.#msixTable,
          pending: this.interrupts.pending(PciIrq.MSIX),
          barMemory: this.#barMemories.save(),
          state: this.saveState(),
        }),
      load: bytes => this.#load(bytes),
      stoppedSize: () =>
        deviceImageSize(
          CONFIG_SPACE_SIZE,
          this.#msixTable.length,
          this.interrupts.pending(PciIrq.MSIX).length,
          this.#barMemories.size,
        ) + this.stateSize(),
      fail: () => this.dma.stop('the device has failed'),
    };
  }

  async #quiesce(): Promise<void> {
    const resets = this.#resets;
    this.#ioEvents.lookNow();
    await this.onQuiesce();
    // A reset that came between has the device running again.
    if (resets !== this.#resets) return;
    // First nothing new, then what is in flight: the other way round a DMA could begin between the two.
    this.dma.stop('the device is stopped for migration');
    await this.dma.idle();
  }

  #load(bytes: Uint8Array): void {
    const image = decodeDeviceImage(bytes, this.#identity);
    if (!this.#config.accepts(image.config) || !this.#fits(image)) {
      throw new VfioError('EINVAL', {
        operation: 'MIG_DATA_WRITE',
        field: 'config',
        message: `the state is of another device than ${this.name}`,
      });
    }
    this.loadState(image.state);
    this.#config.load(image.config);
    this.#msixTable.set(image.msixTable);
    this.#barMemories.load(image.barMemory);
    this.interrupts.keep(PciIrq.MSIX, image.pending);
  }

  #fits({ msixTable, pending, barMemory }: DeviceImage): boolean {
    return (
      msixTable.length === this.#msixTable.length &&
      pending.length === this.interrupts.pending(PciIrq.MSIX).length &&
      barMemory.length === this.#barMemories.size
    );
  }
}

function regionInfos(bars: readonly BarSpec[], memories: BarMemories): RegionInfo[] {
  const regions = Array.from({ length: PCI_NUM_REGIONS }, (): RegionInfo => ({ size: 0, flags: 0 }));
  const access = RegionFlag.READ | RegionFlag.WRITE;
  for (const { index, size } of bars) {
    const mapping = memories.find(index)?.regionMapping;
    regions[index] = { size, flags: access, ...(mapping === undefined ? {} : { mapping }) };
  }
  regions[PciRegion.CONFIG] = { size: CONFIG_SPACE_SIZE, flags: access };
  return regions;
}

function nextPowerOfTwo(value: number): number {
  return 2 ** Math.ceil(Math.log2(value));
}
