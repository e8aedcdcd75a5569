import type { Check } from '../check.js';

/** All checks, in the order in which they are run. */
export const checks: readonly Check[] = [];
