import { type ProfileName, VfioError } from '../uapi/index.js';
import { Bench, type OpenDevice } from './bench.js';
import type { Check, CheckResult, Verdict } from './check.js';
import { checks as allChecks } from './checks/index.js';
import { Deviation } from './deviation.js';
import { unmetNeed } from './needs.js';
import { selectChecks } from './select.js';
import type { DmaStimulus } from './stimulus.js';

/** How {@link conform} runs. */
export interface ConformOptions {
  /** Makes the device do DMA; without one the checks that need it are not run. It is closed in the end. */
  stimulus?: DmaStimulus | undefined;
  /** Names of checks or groups; default: all. */
  only?: readonly string[] | undefined;
  /** How long a device may take for one answer before it counts as stuck, milliseconds; default 10000. */
  timeLimitMs?: number | undefined;
  /** Of all that is random, 32 bits; default 1. */
  seed?: number | undefined;
  /** Ends the run early. The device is left clean all the same. */
  signal?: AbortSignal | undefined;
  /** Before each check that is run. */
  onStart?: ((check: Check) => void) | undefined;
  /** After each check. */
  onResult?: ((result: CheckResult) => void) | undefined;
  /** Default: {@link checks}. */
  checks?: readonly Check[];
}

/** What became of a run. */
export interface ConformanceReport {
  /** The device, as its handle calls it. */
  readonly target: string;
  readonly profile: ProfileName;
  /** Name of the stimulus. */
  readonly stimulus: string | undefined;
  readonly seed: number;
  readonly results: readonly CheckResult[];
  /** How many of each verdict. */
  readonly counts: Readonly<Record<Verdict, number>>;
  /** Whether the run was ended early. */
  readonly interrupted: boolean;
  /** Why the device may not be as it was found; missing: it is neither logging nor stopped. */
  readonly leftBehind: string | undefined;
}

/**
 * Holds a device against the contract. It must be nobody else's meanwhile.
 *
 * Whatever happens, the device is left neither logging nor stopped, as long as it can be reached at all.
 *
 * @param open gives a handle on the device, each time it is called; the run closes them
 * @throws VfioError when the device cannot be reached in the beginning; EINVAL for a name in `only` that no check or group has
 */
export async function conform(open: OpenDevice, options: ConformOptions = {}): Promise<ConformanceReport> {
  const { stimulus, seed = 1, timeLimitMs = 10_000, signal } = options;
  const chosen = selectChecks(options.checks ?? allChecks, options.only);
  const bench = await Bench.open(open, { stimulus, seed, timeLimitMs, signal });
  const { target } = bench.device;
  const results: CheckResult[] = [];
  let gone = await cleanUp(bench);
  try {
    for (const check of chosen) {
      const whyNot = signal?.aborted ? ENDED_EARLY : (gone ?? unmetNeed(bench, check));
      const result = whyNot === undefined ? await takeCheck(bench, check, options) : notRun(check, whyNot);
      results.push(result);
      options.onResult?.(result);
      if (whyNot === undefined) gone = await cleanUp(bench);
    }
  } finally {
    gone = await cleanUp(bench);
    await bench.close();
  }
  return {
    target,
    profile: bench.profile.name,
    stimulus: stimulus?.name,
    seed,
    results,
    counts: countVerdicts(results),
    interrupted: signal?.aborted ?? false,
    leftBehind: gone,
  };
}

const ENDED_EARLY = 'the run was ended early';

function notRun(check: Check, seen: string): CheckResult {
  return { check, verdict: 'not run', seen, durationMs: 0 };
}

async function takeCheck(bench: Bench, check: Check, { signal, onStart }: ConformOptions): Promise<CheckResult> {
  onStart?.(check);
  const start = performance.now();
  const ended = (verdict: Verdict, seen: string): CheckResult => {
    return { check, verdict, seen: oneLine(seen), durationMs: performance.now() - start };
  };
  try {
    return ended('passed', await check.run(bench));
  } catch (error) {
    if (signal?.aborted) return ended('not run', ENDED_EARLY);
    // A refusal that no check is prepared for is the device's all the same.
    const isTheDevices = error instanceof Deviation || error instanceof VfioError;
    return ended(isTheDevices ? 'failed' : 'error', messageOf(error));
  }
}

/** @returns why the device cannot be brought back to where it was, if it cannot */
async function cleanUp(bench: Bench): Promise<string | undefined> {
  try {
    await bench.clean();
    return undefined;
  } catch (error) {
    return `the device could not be brought back: ${oneLine(messageOf(error))}`;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').trim();
}

function countVerdicts(results: readonly CheckResult[]): Record<Verdict, number> {
  const counts: Record<Verdict, number> = { passed: 0, failed: 0, 'not run': 0, error: 0 };
  for (const { verdict } of results) counts[verdict]++;
  return counts;
}
