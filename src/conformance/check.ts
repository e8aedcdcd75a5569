import type { ProfileName } from '../uapi/index.js';
import type { Bench } from './bench.js';

/** The groups of checks, in the order in which they are run: what later ones build on comes first. */
export const checkGroups = [
  'request',
  'start',
  'stop',
  'report',
  'bitmap',
  'conversion',
  'concurrency',
  'migration',
  'disconnect',
] as const;

/** A group of checks. */
export type CheckGroup = (typeof checkGroups)[number];

/**
 * What a check cannot do without; one whose needs are not met is reported as not run.
 *
 * - `logging`: the device says that it has DMA logging.
 * - `dma`: a stimulus that makes the device write memory; `dma-read`: one that makes it read, too.
 * - `second window`: the stimulus reaches the second of {@link Bench.windows} also, across 64 GiB of IOVA from the first.
 * - `empty write`: the stimulus makes writes of no bytes, too.
 * - `migration`, `p2p`, `pre-copy`: the device says that it has these states.
 * - `reset`: the device says that it can be reset.
 * - `vfio-user wire`: the device is behind a socket, so that its replies can be looked at as they come.
 * - `user space`: the device is not behind the kernel, which what is asked would bring down with it.
 */
export type Need =
  | 'logging'
  | 'dma'
  | 'dma-read'
  | 'empty write'
  | 'second window'
  | 'migration'
  | 'p2p'
  | 'pre-copy'
  | 'reset'
  | 'user space'
  | 'vfio-user wire';

/** One rule of the contract, and how to find out whether a device keeps it. */
export interface Check {
  /** `group/rule`: `'report/clears-only-the-interval'`. Unique, and stable: people refer to it. */
  readonly name: string;
  readonly group: CheckGroup;
  /** What a device must do, in one sentence. */
  readonly demand: string;
  /** Where that is demanded: `'contract rule 3'`, `'linux/vfio.h'`, `'docs/kernel.md row C12'`. */
  readonly source: string;
  /** Default: `['logging']`. */
  readonly needs?: readonly Need[];
  /** The dialects that demand it; default: all. */
  readonly profiles?: readonly ProfileName[];
  /**
   * Finds out. The device is clean when it begins: not logging, RUNNING. What it leaves behind is cleaned up.
   * @returns what was seen, for people: the check has passed
   * @throws Deviation: the check has failed. VfioError: so it has, by an answer of the device that no check is prepared for. Anything else: it
   *   could not tell.
   */
  run(bench: Bench): Promise<string>;
}

/** How a check ended: `error` when it could not tell. */
export type Verdict = 'passed' | 'failed' | 'not run' | 'error';

/** One check's end. */
export interface CheckResult {
  readonly check: Check;
  readonly verdict: Verdict;
  /** What was seen, or why the check was not run. One line. */
  readonly seen: string;
  readonly durationMs: number;
}
