import type { DeviceHandle } from '../device/index.js';
import { type IovaRange, isPowerOfTwo } from '../uapi/index.js';
import { StimulusError } from './deviation.js';

/** What DMA a stimulus can make. */
export interface StimulusLimits {
  /**
   * Addresses and lengths are multiples of this, in bytes, a power of two up to 4096: 1 for a device that writes single bytes, 512 for a disk of
   * such sectors.
   */
  readonly alignment: number;
  /** Most bytes of one write; at least {@link StimulusLimits.alignment}. */
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

/** Largest blocks that a stimulus may write, bytes: those of the pages that most checks speak of, or a write could not be kept to one. */
const MOST_ALIGNMENT = 4096;

/** @throws StimulusError for limits within which no check could write what it wants to, or no window to write to */
export function requireUsable({ name, limits }: DmaStimulus, windows: readonly IovaRange[]): void {
  const { alignment, maxLength } = limits;
  const isBlock = Number.isInteger(alignment) && alignment > 0 && isPowerOfTwo(BigInt(alignment));
  if (!isBlock || alignment > MOST_ALIGNMENT) {
    throw new StimulusError(
      `${name}: its alignment is ${alignment}, and should be a power of two, 1 to ${MOST_ALIGNMENT}`,
    );
  }
  if (!(maxLength >= alignment))
    throw new StimulusError(`${name}: it writes at most ${maxLength} bytes, less than a block`);
  if (windows.length === 0) throw new StimulusError(`${name}: it can write to no window`);
}
