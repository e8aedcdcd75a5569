import type { Check } from '../check.js';
import { bitmapChecks } from './bitmap.js';
import { concurrencyChecks } from './concurrency.js';
import { conversionChecks } from './conversion.js';
import { disconnectChecks } from './disconnect.js';
import { migrationChecks } from './migration.js';
import { reportChecks } from './report.js';
import { requestChecks } from './request.js';
import { startChecks } from './start.js';
import { stopChecks } from './stop.js';

/** All checks, in the order in which they are run. */
export const checks: readonly Check[] = [
  ...requestChecks,
  ...startChecks,
  ...stopChecks,
  ...reportChecks,
  ...bitmapChecks,
  ...conversionChecks,
  ...concurrencyChecks,
  ...migrationChecks,
  ...disconnectChecks,
];
