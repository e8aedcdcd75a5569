/*
 * Where the boundaries of log pages fall among the bits of a report, without BigInt per page and without rounding.
 *
 * Boundary p lies `offset + p * pageSize` bytes behind the report's start; that sum divided by the report page size is
 * its bit. In units of the smaller of the two page sizes one of the factors is 1 and the division stays exact:
 *   bit(p) = floor((units + p * multiply) / divide), units = floor(offset / unit).
 * `units` may be beyond what a number holds, so it is split at the next report bit: units = pivot * divide - back, and
 *   bit(p) = pivot + floor((p * multiply - back) / divide).
 * If `back`, at most `divide`, is too large for a number to hold exactly, then no boundary of a segment reaches the
 * pivot, and the rounded quotient lies in [-1, 0) as the exact one does.
 *
 * Worked example: log pages of 4 KiB, report pages of 16 KiB, offset 0x9000: units 9, divide 4, pivot 3, back 3.
 * Boundary 0 is in bit 3 + floor(-3 / 4) = 2, boundary 3 in bit 3 + floor(0 / 4) = 3.
 */

/** A map from log page boundaries to report bits. */
export class BitScale {
  readonly #multiply: number;
  readonly #divide: number;
  readonly #pivot: number;
  readonly #back: number;

  /** `offset`: where boundary 0 lies behind the report's start, bytes, not negative. Page sizes are powers of two. */
  constructor(offset: bigint, pageSize: bigint, reportPageSize: bigint) {
    const unit = pageSize < reportPageSize ? pageSize : reportPageSize;
    const units = offset / unit;
    const divide = reportPageSize / unit;
    const pivot = units / divide + 1n;
    this.#multiply = Number(pageSize / unit);
    this.#divide = Number(divide);
    this.#pivot = Number(pivot);
    this.#back = Number(pivot * divide - units);
  }

  /** The report bit in which boundary `page` (0 or above) falls. Exact for every bit that a bitmap can hold. */
  bitAt(page: number): number {
    return this.#pivot + Math.floor((page * this.#multiply - this.#back) / this.#divide);
  }
}
