import type { IovaRange } from '../../../src/uapi/index.js';
import { PlainLog } from './plain-log.js';

/* Logs that begin otherwise than START says (contract "Three profiles", rule 7). */

const SIZES = { pageSizes: [4096n, 65536n, 2n ** 21n] };

/** The hint is given back as it came, and 4 KiB are logged (mtty; libvfio-user takes any hint as it is). */
export class AnswersHint extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    super.start(pageSizeHint, ranges);
    return pageSizeHint;
  }
}

/** Hints that it cannot do are refused. */
export class RefusesOtherSizes extends PlainLog {
  constructor() {
    super(SIZES);
  }

  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const chosen = super.start(pageSizeHint, ranges);
    if (chosen === pageSizeHint) return chosen;
    super.stop();
    // As the real log refuses what it does not know.
    return super.start(0n, ranges);
  }
}

/** Of two sizes, the other one. */
export class TakesOtherSize extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    return super.start(pageSizeHint <= 16384n ? 65536n : 4096n, ranges);
  }
}

/** What was written before START is in the log, too. */
export class BeginsWithThePast extends PlainLog {
  readonly #past: [bigint, bigint][] = [];

  override record(iova: number | bigint, length: number): void {
    this.#past.push([BigInt(iova), BigInt(length)]);
    super.record(iova, length);
  }

  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const pageSize = super.start(pageSizeHint, ranges);
    for (const [iova, length] of this.#past.splice(0)) this.pretend(iova, length);
    return pageSize;
  }
}

/** A write of no bytes marks its page. */
export class MarksEmptyWrites extends PlainLog {
  override record(iova: number | bigint, length: number): void {
    super.record(iova, Math.max(length, 1));
  }
}
