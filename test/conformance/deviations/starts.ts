import { type ErrnoName, type IovaRange, VfioError } from '../../../src/uapi/index.js';
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

/** Ranges must ascend. */
export class WantsAscendingRanges extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const isSorted = ranges === 'everything' || ranges.every(({ iova }, at) => at === 0 || ranges[at - 1]!.iova < iova);
    if (!isSorted) throw refused('EINVAL', 'not in order');
    return super.start(pageSizeHint, ranges);
  }
}

/** More than 64 ranges are refused, where they should be merged (rule 11). */
export class Takes64Ranges extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    if (ranges.length > 64 && ranges !== 'everything') throw refused('E2BIG', 'more than 64 ranges');
    return super.start(pageSizeHint, ranges);
  }
}

/** A range of 512 GiB is said to reach 2^64. */
export class OverflowsEarly extends PlainLog {
  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const isLarge = ranges !== 'everything' && ranges.some(({ length }) => length >= 1n << 39n);
    if (isLarge) throw refused('EOVERFLOW', 'too large');
    return super.start(pageSizeHint, ranges);
  }
}

/** What a START takes is given back by a report alone: after 40 without one there is no memory left. */
export class LeaksUnreportedLogs extends PlainLog {
  #leaked = 0;

  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    if (this.#leaked > 40) throw refused('ENOMEM', 'no memory');
    const pageSize = super.start(pageSizeHint, ranges);
    this.#leaked++;
    return pageSize;
  }

  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    this.#leaked = 0;
    super.report(iova, length, pageSize, bitmap);
  }
}

/** STARTs and STOPs are counted, stray ones with them: a START after one too many STOPs logs nothing. */
export class CountsStops extends PlainLog {
  #depth = 0;

  override start(pageSizeHint: bigint, ranges: readonly IovaRange[] | 'everything'): bigint {
    const pageSize = super.start(pageSizeHint, ranges);
    if (++this.#depth <= 0) super.stop();
    return pageSize;
  }

  override stop(): void {
    this.#depth--;
    super.stop();
  }
}

function refused(errno: ErrnoName, message: string): VfioError {
  return new VfioError(errno, { operation: 'DMA_LOGGING_START', message });
}
