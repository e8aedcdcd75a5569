import type { Check } from '../check.js';
import { bitmapChecks } from './bitmap.js';
import { concurrencyChecks } from './concurrency.js';
import { conversionChecks } from './conversion.js';
import { disconnectChecks } from './disconnect.js';
import { migrationChecks } from './migration.js';

/** All checks, in the order in which they are run. */
export const checks: readonly Check[] = [
  ...bitmapChecks,
  ...conversionChecks,
  ...concurrencyChecks,
  ...migrationChecks,
  ...disconnectChecks,
];
