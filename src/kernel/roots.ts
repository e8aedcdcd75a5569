/** Where the file systems of the kernel are mounted. Tests give made-up trees. */
export interface Roots {
  /** Usually `/sys`. */
  readonly sys: string;
  /** Usually `/dev`. */
  readonly dev: string;
  /** Usually `/proc`. */
  readonly proc: string;
}

/** Where they are on every system. */
export const SYSTEM_ROOTS: Roots = { sys: '/sys', dev: '/dev', proc: '/proc' };
