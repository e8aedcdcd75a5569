/** Exit codes of the whole command line. */
export const ExitCode = {
  DONE: 0,
  FAILURE: 1,
  USAGE: 2,
  /** The pass limit was reached; the machine runs on at the source. */
  NOT_CONVERGED: 3,
  /** A check failed: verification, conformance. */
  CHECK_FAILED: 4,
  /** Migration failed, and the source runs on. */
  RUNS_AT_SOURCE: 5,
  /** Ended by SIGINT. */
  INTERRUPTED: 130,
} as const;
