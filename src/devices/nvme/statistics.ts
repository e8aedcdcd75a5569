/** What a controller counts since it was made, or, after a migration, since the first one was made. */
export interface NvmeStatistics {
  /** Read and Compare commands that succeeded. */
  readCommands: number;
  /** Write commands that succeeded. */
  writeCommands: number;
  /** Bytes that these reads moved from the disk. */
  bytesRead: number;
  /** Bytes that these writes moved to the disk. */
  bytesWritten: number;
  /** Flush commands that succeeded. */
  flushes: number;
  /** Commands, admin and NVM, that ended with another status than success. */
  errors: number;
  /** Of these, the ones that the disk failed. */
  mediaErrors: number;
  /** Admin commands that were completed. */
  adminCommands: number;
  /** Interrupts raised. */
  interrupts: number;
}

/** The names of the counters, in the order in which they migrate. */
export const STATISTICS_NAMES = [
  'readCommands',
  'writeCommands',
  'bytesRead',
  'bytesWritten',
  'flushes',
  'errors',
  'mediaErrors',
  'adminCommands',
  'interrupts',
] as const satisfies readonly (keyof NvmeStatistics)[];

/** All counters at 0. */
export function noStatistics(): NvmeStatistics {
  return {
    readCommands: 0,
    writeCommands: 0,
    bytesRead: 0,
    bytesWritten: 0,
    flushes: 0,
    errors: 0,
    mediaErrors: 0,
    adminCommands: 0,
    interrupts: 0,
  };
}
