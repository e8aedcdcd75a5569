import { VfioError } from '../../uapi/index.js';
import { COMPRESSIONS } from '../stream/memory-encoder.js';
import { type ConvergenceLimits, ON_STALL } from './convergence.js';
import type { MigrateOptions } from './migrate.js';

const MAX_PASSES = 30;

/** The limits that options ask for, all of whose numbers and words make sense. @throws VfioError EINVAL */
export function checkOptions(options: MigrateOptions): ConvergenceLimits {
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
