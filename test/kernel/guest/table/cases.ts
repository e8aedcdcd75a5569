import type { Outcome } from './raw-device.js';

/** What to do for each row, by its number; each is done once, in the order of the numbers, and leaves what the next needs. */
export type Cases = Record<string, () => Outcome>;
