import type { MaybePromise } from '../memory/index.js';
import type { DmaPort } from './dma-port.js';
import type { Interrupts } from './interrupts.js';
import type { MigrationMachine } from './migration-machine.js';

/** One region as GET_REGION_INFO tells it. A region that the device does not have has size 0 and no flags. */
export interface RegionInfo {
  /** Size in bytes. */
  size: number;
  /** RegionFlag bits. */
  flags: number;
}

/**
 * A device as the wires see it: what a vfio-user server or the in-process transport serves. Authors extend `PciDevice`, which is one.
 */
export interface Device {
  /** What messages and logs call it, such as `'dma-engine'`. */
  readonly name: string;
  /** DeviceFlag bits. */
  readonly flags: number;
  /** Regions by index. */
  readonly regions: readonly RegionInfo[];
  /** Interrupts by type. */
  readonly interrupts: Interrupts;
  /** The way to guest memory, with the map and the log behind it. */
  readonly dma: DmaPort;
  /** Migration state and data; `undefined` for a device that cannot migrate. */
  readonly migration: MigrationMachine | undefined;
  /** Whether the device offers DMA logging. */
  readonly hasLogging: boolean;

  /**
   * Reads `into.length` bytes of a region.
   * @throws VfioError EINVAL for a region or an interval that does not exist.
   */
  regionRead(region: number, offset: number, into: Uint8Array): MaybePromise<void>;

  /**
   * Writes to a region.
   * @throws VfioError EINVAL for a region or an interval that does not exist.
   */
  regionWrite(region: number, offset: number, data: Uint8Array): MaybePromise<void>;

  /**
   * Function level reset: registers as at power-on, migration state RUNNING. Interrupts, memory map and the DMA log stay: a guest that
   * resets its device in the middle of a migration must not lose the pages it wrote before (Linux keeps it too: kernel rows D48, D49).
   */
  reset(): MaybePromise<void>;

  /** The client is gone: interrupts and memory map are let go; registers, log and migration state stay. */
  disconnect(): void;
}
