import type { DmaLog } from '../../src/log/index.js';

const PAGE = 4096;
const ROUNDS = 400;

/** Pages that {@link trackAndReport} speaks of. */
export const TRACKED_PAGES = 2 ** 16;

/**
 * Records every page whose number is `number` modulo `trackers`, a part in each round, and reports after each round what was
 * recorded: so every word of the bitmap gets bits of every tracker, at about the same time.
 */
export function trackAndReport(log: DmaLog, bitmap: Uint32Array, number: number, trackers: number): void {
  const length = BigInt(TRACKED_PAGES * PAGE);
  log.start(4096n, [{ iova: 0n, length }]);
  for (let round = 0; round < ROUNDS; round++) {
    for (let page = round * trackers + number; page < TRACKED_PAGES; page += ROUNDS * trackers) {
      log.record(page * PAGE, 1);
    }
    log.reportShared(0n, length, 4096n, bitmap);
  }
}
