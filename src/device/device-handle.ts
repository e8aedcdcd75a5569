import type { DmaRegionSpec, GuestMemory } from '../memory/index.js';
import type { PrecopyInfo } from '../uapi/index.js';
import type { FeatureClient } from './feature-client.js';
import type { IrqInfo } from './interrupts.js';

/** How much and what of a device's regions and interrupts a host sees. */
export interface DeviceDescription {
  /** DeviceFlag bits. */
  flags: number;
  regions: number;
  irqs: number;
}

/** One region as a host sees it. */
export interface RegionDescription {
  /** Size in bytes; 0 for a region that the device does not have. */
  size: number;
  /** RegionFlag bits. */
  flags: number;
}

/**
 * A host's hold on a device, whatever wire it hangs on. What the tracker and the migration are written against.
 *
 * Every call throws VfioError: the device's own errno, or ECONNRESET when the device is gone.
 */
export interface DeviceHandle {
  /** Where the device is, for people: `'vfio-user:/run/dev.sock'`, `'local:dma-engine'`. */
  readonly target: string;
  /** DMA logging and migration. */
  readonly features: FeatureClient;
  /** Number of regions and interrupt types. */
  info(): Promise<DeviceDescription>;
  /** What a region is. @throws VfioError EINVAL for one that does not exist */
  getRegionInfo(region: number): Promise<RegionDescription>;
  /** Reads `count` bytes of a region. */
  regionRead(region: number, offset: number, count: number): Promise<Uint8Array>;
  /** Writes to a region. */
  regionWrite(region: number, offset: number, data: Uint8Array): Promise<void>;
  /**
   * Lets the device reach memory by DMA, until it is unmapped or the handle is closed; the memory must be there for as long.
   * @param region whole pages of 4096 bytes
   * @param offset where the region begins in `memory`, bytes, a multiple of 4096; default 0
   * @throws VfioError EINVAL for what is not whole pages or beyond the memory; EEXIST when it overlaps another region; ENOSPC, ENOMEM when
   *   the device takes no more
   */
  mapMemory(region: DmaRegionSpec, memory: GuestMemory, offset?: bigint): Promise<void>;
  /**
   * Takes one region away from the device, or several whole ones; DMA into it has landed or been refused then. What was written stays in the
   * device's log until it is reported (contract rule 10).
   * @throws VfioError EINVAL for anything but whole regions; nothing is unmapped then
   */
  unmapMemory(iova: bigint, length: bigint): Promise<void>;
  /** What an interrupt type is. @throws VfioError EINVAL for one that does not exist */
  getIrqInfo(type: number): Promise<IrqInfo>;
  /**
   * Gives interrupt vectors `start`… their eventfds; `undefined` takes one away.
   * @param eventfds stay the caller's, who may close them when the call has returned its promise
   * @throws VfioError EINVAL for vectors that do not exist, or what is no eventfd
   */
  setIrqTriggers(type: number, start: number, eventfds: readonly (number | undefined)[]): Promise<void>;
  /** Unmasks vectors: INTx masks itself when it is delivered, and comes again while it is asserted. */
  unmaskIrqs(type: number, start: number, count: number): Promise<void>;
  /** The next bytes of the device's migration data, at most `limit`; none: all that there is for now. */
  readMigrationData(limit: number): Promise<Uint8Array>;
  /** Gives the device more of its migration data. */
  writeMigrationData(data: Uint8Array): Promise<void>;
  /**
   * What of its state the device still has to offer before it is stopped (linux/vfio.h, VFIO_MIG_GET_PRECOPY_INFO); `undefined` where the wire or
   * the device cannot say.
   * @throws VfioError EINVAL outside of PRE_COPY and PRE_COPY_P2P, from those that can say
   */
  precopyInfo(): Promise<PrecopyInfo | undefined>;
  /** Resets the device. */
  reset(): Promise<void>;
  /** Lets go of the device; it keeps its state. Idempotent. */
  close(): Promise<void>;
}
