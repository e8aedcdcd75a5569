/**
 * The three dialects of the device feature request. Every encoder and every check names the profile it speaks;
 * nothing guesses it (contract: "Three profiles").
 */

/** Feature indexes that every profile shares (linux/vfio.h). */
export const Feature = {
  /** VFIO_DEVICE_FEATURE_MIGRATION: what kind of migration the device can do. */
  MIGRATION: 1,
  /** VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: get or set the migration state. */
  MIG_DEVICE_STATE: 2,
  /** VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: how much a stop-copy would have to move. */
  MIG_DATA_SIZE: 9,
} as const;

/** Name of a {@link Profile}. */
export type ProfileName = 'rfc' | 'linux' | 'vfio-user';

/** One dialect of the device feature request: its numbers and its limits. */
export interface Profile {
  readonly name: ProfileName;
  /** Feature index of DMA_LOGGING_START. */
  readonly start: number;
  /** Feature index of DMA_LOGGING_STOP. */
  readonly stop: number;
  /** Feature index of DMA_LOGGING_REPORT. */
  readonly report: number;
  /** Whether ranges and bitmap travel behind a pointer (`rfc`, `linux`) or inline in the message (`vfio-user`). */
  readonly pointers: boolean;
  /** Whether MIG_DATA_SIZE exists. */
  readonly hasDataSize: boolean;
  /** Most ranges that START takes; more is E2BIG. `Infinity`: as many as the message holds. */
  readonly maxRanges: number;
  /** Whether START with no ranges means "log every write" instead of EINVAL. */
  readonly zeroRangesLogAll: boolean;
  /** Whether START's ranges must be multiples of its page size. */
  readonly alignedRanges: boolean;
  /** Smallest page size that REPORT takes, in bytes. */
  readonly minReportPageSize: bigint;
  /** Whether argsz is the size of the caller's buffer (ioctl) or the largest reply the caller takes (message). */
  readonly argszIsReplyLimit: boolean;
}

/** The request for comments of May 2022. It names no limit for ranges; 65536 bounds what is read from a caller's pointer. */
export const rfc: Profile = {
  name: 'rfc',
  start: 3,
  stop: 4,
  report: 5,
  pointers: true,
  hasDataSize: false,
  maxRanges: 65536,
  zeroRangesLogAll: false,
  alignedRanges: false,
  minReportPageSize: 1n,
  argszIsReplyLimit: false,
};

/** What Linux merged (6.1 and later). 256 ranges are what fits one 4 KiB page of 16-byte entries. */
export const linux: Profile = {
  name: 'linux',
  start: 6,
  stop: 7,
  report: 8,
  pointers: true,
  hasDataSize: true,
  maxRanges: 256,
  zeroRangesLogAll: false,
  alignedRanges: true,
  minReportPageSize: 4096n,
  argszIsReplyLimit: false,
};

/** The vfio-user protocol. */
export const vfioUser: Profile = {
  name: 'vfio-user',
  start: 6,
  stop: 7,
  report: 8,
  pointers: false,
  hasDataSize: true,
  maxRanges: Number.POSITIVE_INFINITY,
  zeroRangesLogAll: true,
  alignedRanges: false,
  minReportPageSize: 1n,
  argszIsReplyLimit: true,
};

/** The profiles by name. */
export const profiles: Readonly<Record<ProfileName, Profile>> = { rfc, linux, 'vfio-user': vfioUser };

/** The name of a feature index in a profile, as error messages and traces use it: `'DMA_LOGGING_START'`, `'feature 127'`. */
export function featureName(profile: Profile, index: number): string {
  switch (index) {
    case profile.start:
      return 'DMA_LOGGING_START';
    case profile.stop:
      return 'DMA_LOGGING_STOP';
    case profile.report:
      return 'DMA_LOGGING_REPORT';
    case Feature.MIGRATION:
      return 'MIGRATION';
    case Feature.MIG_DEVICE_STATE:
      return 'MIG_DEVICE_STATE';
  }
  return profile.hasDataSize && index === Feature.MIG_DATA_SIZE ? 'MIG_DATA_SIZE' : `feature ${index}`;
}
