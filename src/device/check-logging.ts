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

/** Checks START's ranges one by one, in the order in which they are read. */
export class RangeChecker {
  /** What was added, in the caller's order. */
  readonly ranges: IovaRange[] = [];
  readonly #profile: Profile;
  readonly #pageSize: bigint;
  /** Ranges that hold at least a byte: disjoint, sorted. */
  readonly #spans: { start: bigint; last: bigint }[] = [];
  /** Where ranges of length 0 stand, sorted. */
  readonly #empty: bigint[] = [];

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

  /** @throws VfioError EINVAL not aligned or overlapping; EOVERFLOW reaching 2^64 */
  add(range: IovaRange): void {
    const { iova, length } = range;
    const mask = this.#pageSize - 1n;
    // The kernel masks with page_size - 1 whatever the page size is, 0 (all bits) and 3 (bit 1) included.
    if (this.#profile.alignedRanges && ((iova & mask) !== 0n || (length & mask) !== 0n)) {
      throw invalid('EINVAL', 'ranges', `${text(range)} is not aligned to the page size ${this.#pageSize}`);
    }
    if (iova + length >= ADDRESS_LIMIT) throw invalid('EOVERFLOW', 'ranges', `${text(range)} reaches 2^64`);
    const last = BigInt.asUintN(64, iova + length - 1n);
    if (last < iova ? this.#isInsideSpan(iova) : this.#overlaps(iova, last)) {
      throw invalid('EINVAL', 'ranges', `${text(range)} overlaps another range`);
    }
    if (last < iova)
      this.#empty.splice(
        lowerBound(this.#empty.length, at => this.#empty[at]! >= iova),
        0,
        iova,
      );
    else this.#spans.splice(this.#firstSpanAbove(iova), 0, { start: iova, last });
    this.ranges.push(range);
  }

  #overlaps(start: bigint, last: bigint): boolean {
    const next = this.#firstSpanAbove(start);
    const before = this.#spans[next - 1];
    const after = this.#spans[next];
    if ((before !== undefined && before.last >= start) || (after !== undefined && after.start <= last)) return true;
    const empty = this.#empty[lowerBound(this.#empty.length, at => this.#empty[at]! > start)];
    return empty !== undefined && empty <= last;
  }

  #isInsideSpan(iova: bigint): boolean {
    const before = this.#spans[lowerBound(this.#spans.length, at => this.#spans[at]!.start >= iova) - 1];
    return before !== undefined && before.last >= iova;
  }

  #firstSpanAbove(iova: bigint): number {
    return lowerBound(this.#spans.length, at => this.#spans[at]!.start > iova);
  }
}

/** The first index below `count` at which `holds`, which holds from there on; `count` if nowhere. */
function lowerBound(count: number, holds: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
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
