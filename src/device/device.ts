import type { MaybePromise } from '../memory/index.js';
import type { DmaPort } from './dma-port.js';
import type { Interrupts } from './interrupts.js';
import type { MigrationMachine } from './migration-machine.js';

/** An interval of a region, bytes from the region's start. */
export interface RegionArea {
  readonly offset: number;
  readonly size: number;
}

/** How a client reaches a region, or areas of it, without asking. */
export interface RegionMapping {
  /** A memory file, sealed against shrinking; it stays the device's. */
  readonly fd: number;
  /** Where the region's byte 0 lies in the file, bytes, a multiple of 4096. */
  readonly offset: number;
  /** What may be mapped: page-aligned, ascending, apart from each other. */
  readonly areas: readonly RegionArea[];
}

/** One region as GET_REGION_INFO tells it. A region that the device does not have has size 0 and no flags. */
export interface RegionInfo {
  /** Size in bytes. */
  size: number;
  /** RegionFlag bits READ and WRITE; what follows from `mapping` is added where it is told. */
  flags: number;
  /** Missing where every access is a message. */
  mapping?: RegionMapping;
}

/** Writes of a region that a client may signal on an eventfd, instead of sending them. */
export interface IoEventFd extends RegionArea {
  /** The eventfd; it stays the device's. */
  readonly fd: number;
  /** The one value that a write must have; missing: any. */
  readonly match?: bigint;
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

  /**
   * The eventfds of a region, made when they are first asked for; a device without the method has none.
   * @throws VfioError EMFILE, ENFILE
   */
  regionIoFds?(region: number): readonly IoEventFd[];

  /**
   * Whether the device works by itself on the event loop just now, beside what it was asked to: then a server that has the thread for
   * itself leaves the loop running. A device without it never does.
   */
  readonly busy?: boolean;

  /** The client is gone: interrupts and memory map are let go; registers, log and migration state stay. */
  disconnect(): void;
}
