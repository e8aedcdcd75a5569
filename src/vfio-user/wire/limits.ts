import { DEFAULT_MAX_REGIONS } from '../../memory/index.js';
import { MAX_MESSAGE_FDS } from '../../native/index.js';
import { VfioError } from '../../uapi/index.js';

/**
 * What one side of a connection takes, told to the other in VERSION. Every limit is the *receiver's*.
 */
export interface VfioUserLimits {
  /** Most descriptors with one message (`max_msg_fds`), 1 to 253; more are closed. */
  readonly maxMessageFds: number;
  /**
   * Most bytes of data in one message (`max_data_xfer_size`), 4096 to 2^30: region data, migration data, a feature reply with its bitmap.
   */
  readonly maxDataTransfer: number;
  /** Most DMA regions at a time (`max_dma_maps`). */
  readonly maxDmaMaps: number;
}

/** What a peer takes that does not say (vfio-user 0.9.x, "VERSION"). */
export const PROTOCOL_LIMITS: VfioUserLimits = {
  maxMessageFds: 1,
  maxDataTransfer: 1024 * 1024,
  maxDmaMaps: DEFAULT_MAX_REGIONS,
};

/** What is taken here unless told otherwise. 16 MiB is the bitmap of 512 GiB at 4 KiB pages in one reply. */
export const OWN_LIMITS: VfioUserLimits = {
  maxMessageFds: 16,
  maxDataTransfer: 16 * 1024 * 1024,
  maxDmaMaps: DEFAULT_MAX_REGIONS,
};

/** Room for the structures around a message's data: the largest is a feature request's, 32 bytes. */
export const STRUCTURE_ROOM = 4096;

/** Most bytes of a VERSION's payload, in front of which nothing is agreed yet: 8 KiB of JSON hold every known key forty times over. */
export const MAX_VERSION_PAYLOAD = 8192;

/** The least `max_data_xfer_size` that is worth talking about: a server that takes none would keep its client asking for ever. */
export const LEAST_DATA_TRANSFER = 64;

/** How many bytes may wait to be sent to a server before its next command is served. */
export const MAX_REPLIES_QUEUED = 64 * 1024;

/** How many bytes of requests without replies may wait to be sent before their sender is held up. */
export const MAX_POSTED_QUEUED = 1024 * 1024;

/** How long a server's session may keep the event loop to itself, milliseconds. */
export const TURN_MS = 5;

/** How long a connection that is to end waits for its last reply to leave, milliseconds. */
export const LINGER_MS = 1000;

/**
 * Most bytes of data that the client sends in one message. The C reference drops a request that does not arrive in one piece; up to 32 KiB
 * always did, and a device's state moves at that size as quickly as at any other.
 */
export const MAX_REQUEST_DATA = 32 * 1024;

/**
 * Limits with the defaults filled in.
 * @throws VfioError EINVAL
 */
export function completeLimits(partial: Partial<VfioUserLimits>, operation: string): VfioUserLimits {
  const limits = {
    maxMessageFds: partial.maxMessageFds ?? OWN_LIMITS.maxMessageFds,
    maxDataTransfer: partial.maxDataTransfer ?? OWN_LIMITS.maxDataTransfer,
    maxDmaMaps: partial.maxDmaMaps ?? OWN_LIMITS.maxDmaMaps,
  };
  requireWithin(operation, 'maxMessageFds', limits.maxMessageFds, 1, MAX_MESSAGE_FDS);
  requireWithin(operation, 'maxDataTransfer', limits.maxDataTransfer, 4096, 2 ** 30);
  requireWithin(operation, 'maxDmaMaps', limits.maxDmaMaps, 1, 2 ** 32);
  return limits;
}

function requireWithin(operation: string, field: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw new VfioError('EINVAL', { operation, field, message: `${value} is not within ${least} and ${most}` });
}
