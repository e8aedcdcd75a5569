import {
  ADDRESS_LIMIT,
  type IovaRange,
  isPowerOfTwo,
  type LoggingReport,
  type Profile,
  VfioError,
} from '../uapi/index.js';

/*
 * What is checked of START and REPORT before the log is asked (Linux: vfio_main.c; measured in kernel.md).
 *
 * Linux finds overlaps with an interval tree over [iova, iova + length - 1], computed modulo 2^64. So a range of length 0 at X spans
 * [X, X - 1]: it overlaps nothing but a range that has X inside and not as its first byte (rows B26 to B29).
 */

/**
 * Checks START's ranges in the order in which they are read, and all of them for overlap in one go: a message may hold a million.
 *
 * Linux meets an overlap when it reads the second of the two. So an error at range i is only answered when no two before it overlap.
 */
export class RangeChecker {
  readonly #ranges: IovaRange[] = [];
  readonly #profile: Profile;
  readonly #pageSize: bigint;

  /**
   * @param pageSize START's hint
   * @param count START's number of ranges; checked before any range is read
   * @throws VfioError EINVAL for 0 ranges where that has no meaning; E2BIG for too many
   */
  constructor(profile: Profile, pageSize: bigint, count: number) {
    if (count === 0 && !profile.zeroRangesLogAll) throw invalid('EINVAL', 'num_ranges', 'at least one range is needed');
    if (count > profile.maxRanges) {
      throw invalid('E2BIG', 'num_ranges', `${count} ranges, at most ${profile.maxRanges} are taken`);
    }
    this.#profile = profile;
    this.#pageSize = pageSize;
  }

  /** Reads the next range. @throws VfioError EINVAL not aligned, or two before overlap; EOVERFLOW reaching 2^64; what `read` throws */
  add(read: () => IovaRange): void {
    try {
      const range = read();
      this.#checkOne(range);
      this.#ranges.push(range);
    } catch (error) {
      this.finish();
      throw error;
    }
  }

  #checkOne(range: IovaRange): void {
    const { iova, length } = range;
    const mask = this.#pageSize - 1n;
    // The kernel masks with page_size - 1 whatever the page size is, 0 (all bits) and 3 (bit 1) included.
    if (this.#profile.alignedRanges && ((iova & mask) !== 0n || (length & mask) !== 0n)) {
      throw invalid('EINVAL', 'ranges', `${text(range)} is not aligned to the page size ${this.#pageSize}`);
    }
    if (iova + length >= ADDRESS_LIMIT) throw invalid('EOVERFLOW', 'ranges', `${text(range)} reaches 2^64`);
  }

  /** All ranges, in the caller's order. @throws VfioError EINVAL when two overlap */
  finish(): IovaRange[] {
    const spans = this.#ranges.filter(range => !isEmpty(range));
    // Intervals are disjoint if and only if starts and ends, each sorted by themselves, take turns.
    const starts = BigUint64Array.from(spans, range => range.iova).sort();
    const lasts = BigUint64Array.from(spans, lastOf).sort();
    const overlaps = starts.some((start, index) => index > 0 && start <= lasts[index - 1]!);
    if (overlaps || this.#ranges.some(range => isEmpty(range) && isInside(range.iova, starts, lasts))) {
      throw invalid('EINVAL', 'ranges', 'two ranges overlap');
    }
    return this.#ranges;
  }
}

/** The last byte, modulo 2^64 as Linux computes it: {0, 0} is the whole address space. */
function lastOf({ iova, length }: IovaRange): bigint {
  return BigInt.asUintN(64, iova + length - 1n);
}

function isEmpty(range: IovaRange): boolean {
  return lastOf(range) < range.iova;
}

/** Whether an address lies in a span and is not its first byte. Spans are disjoint and sorted. */
function isInside(address: bigint, starts: BigUint64Array, lasts: BigUint64Array): boolean {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (starts[middle]! >= address) high = middle;
    else low = middle + 1;
  }
  return low > 0 && lasts[low - 1]! >= address;
}

/** Checks REPORT's interval and page size. @throws VfioError EINVAL for the page size; EOVERFLOW for an interval that reaches 2^64 */
export function checkReport(profile: Profile, { iova, length, pageSize }: LoggingReport): void {
  const operation = 'DMA_LOGGING_REPORT';
  if (pageSize < profile.minReportPageSize || !isPowerOfTwo(pageSize)) {
    throw new VfioError('EINVAL', {
      operation,
      field: 'page_size',
      message: `${pageSize} is not a power of two of at least ${profile.minReportPageSize}`,
    });
  }
  if (iova + length >= ADDRESS_LIMIT) {
    throw new VfioError('EOVERFLOW', { operation, field: 'length', message: `${text({ iova, length })} reaches 2^64` });
  }
}

function invalid(errno: 'EINVAL' | 'E2BIG' | 'EOVERFLOW', field: string, message: string): VfioError {
  return new VfioError(errno, { operation: 'DMA_LOGGING_START', field, message });
}

function text({ iova, length }: IovaRange): string {
  return `0x${iova.toString(16)} + 0x${length.toString(16)}`;
}
