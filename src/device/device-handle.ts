import type { FeatureClient } from './feature-client.js';

/** How much and what of a device's regions and interrupts a host sees. */
export interface DeviceDescription {
  /** DeviceFlag bits. */
  flags: number;
  regions: number;
  irqs: number;
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
  /** Reads `count` bytes of a region. */
  regionRead(region: number, offset: number, count: number): Promise<Uint8Array>;
  /** Writes to a region. */
  regionWrite(region: number, offset: number, data: Uint8Array): Promise<void>;
  /** The next bytes of the device's migration data, at most `limit`; none: all that there is for now. */
  readMigrationData(limit: number): Promise<Uint8Array>;
  /** Gives the device more of its migration data. */
  writeMigrationData(data: Uint8Array): Promise<void>;
  /** Resets the device. */
  reset(): Promise<void>;
  /** Lets go of the device; it keeps its state. Idempotent. */
  close(): Promise<void>;
}
