import { VfioError } from '../../uapi/index.js';
import { COMPRESSIONS, type Compression } from '../stream/memory-encoder.js';
import { type ConvergenceLimits, ON_STALL, type OnStall } from './convergence.js';

const MAX_PASSES = 30;

/** How the passes of a migration go, and when they end. */
export interface PassOptions {
  /** Longest downtime wanted, milliseconds; default 300. */
  downtimeLimitMs?: number;
  /** Most passes while the machine runs; default 30, without limit for `onStall: 'wait'`. */
  maxPasses?: number;
  /** Longest time from the call to the machine's stop, milliseconds; default: without limit. */
  maxMs?: number;
  /** Most bytes sent before the machine stops; default: without limit. */
  maxBytes?: number;
  /**
   * What to do when the passes bring no progress: when the downtime to expect has not fallen by 10 % in three passes. `abort` (default): the
   * machine stays. `stop`: it is stopped and moved, however long that takes; the same when a limit is reached. `wait`: go on until it fits or
   * a limit is reached.
   */
  onStall?: OnStall;
  /**
   * Most bytes of memory per second, evenly; default: as fast as the link is. It holds for the last pass too, while the machine is stopped: what
   * is expected of the downtime counts with it. States of devices are not held back.
   */
  bandwidth?: number;
  /** Default `auto`: memory is compressed where measuring shows that it pays. */
  compression?: Compression;
}

/** The limits that options ask for, all of whose numbers and words make sense. @throws VfioError EINVAL */
export function checkPassOptions(options: PassOptions): ConvergenceLimits {
  const { downtimeLimitMs = 300, onStall = 'abort', compression = 'auto', bandwidth } = options;
  const unlimited = Number.POSITIVE_INFINITY;
  const { maxMs = unlimited, maxBytes = unlimited } = options;
  const { maxPasses = onStall === 'wait' ? unlimited : MAX_PASSES } = options;
  for (const [field, value] of Object.entries({ downtimeLimitMs, maxMs, maxBytes, bandwidth })) {
    if (value !== undefined && !(value > 0)) throw badOption(field, value);
  }
  const isWhole = Number.isInteger(maxPasses) || (maxPasses === unlimited && options.maxPasses === undefined);
  if (!isWhole || maxPasses < 1) throw badOption('maxPasses', maxPasses);
  if (!ON_STALL.includes(onStall)) throw badOption('onStall', onStall);
  if (!COMPRESSIONS.includes(compression)) throw badOption('compression', compression);
  return { downtimeLimitMs, maxPasses, maxMs, maxBytes, onStall };
}

function badOption(field: string, value: unknown): VfioError {
  return new VfioError('EINVAL', { operation: 'migrate', field, message: `${value}` });
}
