import type { DeviceHandle } from '../device/index.js';
import type { IovaRange } from '../uapi/index.js';

/** What DMA a stimulus can make. */
export interface StimulusLimits {
  /** Addresses and lengths are multiples of this, in bytes: 1 for a device that writes single bytes, 512 for a disk of such sectors. */
  readonly alignment: number;
  /** Most bytes of one write. */
  readonly maxLength: number;
  /** Whether it can make the device write no bytes at all. Default: it cannot. */
  readonly emptyWrites?: boolean;
}

/**
 * A way to make a device do DMA, so that there is something to report.
 *
 * Errors of a stimulus are not the device's: the check that hit one could not tell.
 */
export interface DmaStimulus {
  /** For people: `'dma-engine'`, `'nvme'`. */
  readonly name: string;
  readonly limits: StimulusLimits;
  /** Where DMA has to be made, if it matters; bytes, multiples of 4096. Default: wherever the suite likes. */
  readonly windows?: readonly IovaRange[];
  /**
   * Makes ready for DMA to the windows, whose memory is mapped for the device already. Called for every handle on the device, and again after a
   * reset.
   * @returns the windows in which it can write: all, or the first ones
   */
  prepare(device: DeviceHandle, windows: readonly IovaRange[]): Promise<readonly IovaRange[]>;
  /**
   * Makes the device write `length` bytes at `iova`, whatever they are; done when they are written.
   * @param signal nobody waits any more: what is still to be written should not be
   */
  write(iova: bigint, length: number, signal?: AbortSignal): Promise<void>;
  /** Makes the device read, and write nothing in the windows. Missing: it cannot. */
  read?(iova: bigint, length: number, signal?: AbortSignal): Promise<void>;
  /** Lets go of what it holds. Idempotent. */
  close(): Promise<void>;
}
