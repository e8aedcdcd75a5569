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
