import type { Keeping } from '../../src/bitmap/index.js';
import { DmaLog, type DmaLogOptions } from '../../src/log/index.js';

/** Every way to keep a log. The rules are the same in each. */
export const keepings: readonly Keeping[] = ['one-writer', 'exchange', 'generations'];

/** {@link DmaLog} kept in one way, whatever else is asked. */
export function logKept(keeping: Keeping): typeof DmaLog {
  return class extends DmaLog {
    constructor(options: DmaLogOptions = {}) {
      super({ ...options, keeping });
    }
  };
}

/** Starts logs of one class at 4 KiB, on ranges given as `[iova, length]`. */
export function logStarter(Log: typeof DmaLog): (...ranges: [iova: bigint, length: bigint][]) => DmaLog {
  return (...ranges) => {
    const log = new Log();
    log.start(
      4096n,
      ranges.map(([iova, length]) => ({ iova, length })),
    );
    return log;
  };
}
