import type { IovaRange } from '../uapi/index.js';
import { Deviation } from './deviation.js';

/** `[start, end)`, bytes of IOVA. */
interface Interval {
  start: bigint;
  end: bigint;
}

/** The interval and page size of a report, bytes. */
export interface ReportInterval extends IovaRange {
  pageSize: bigint;
}

/**
 * What a log must, and what it may, hold: naive on purpose, and nothing of the log engine's.
 *
 * A report *must* have the bits of all bytes that were written in the ranges and not reported since (contract rules 1 to 3). It *may* have those
 * of the log pages around them: a log page is marked whole, and its bit is kept while a report covers only a part of it (rule 4). Ranges are
 * rounded outwards to log pages, and a device may merge several, so that it logs the gaps as well (rule 11).
 *
 * Example: log page 64 KiB, one byte written at 0x12345, a report of 4 KiB pages from 0x10000: bit 2 must be set, bits 0 to 15 may be. After a
 * report of 0x10000-0x13000, nothing must be set any more, and bits 0 to 15 still may be.
 */
export class ExpectedLog {
  readonly #ranges: readonly Interval[];
  readonly #pageSize: bigint;
  /** Whether log pages may be counted from a range's start instead of from 0. */
  readonly #oddPages: boolean;
  #must: Interval[] = [];
  #may: Interval[] = [];

  /**
   * @param ranges none: everything is logged
   * @param pageSize the log page that the device chose, bytes
   */
  constructor(ranges: readonly IovaRange[], pageSize: bigint) {
    this.#ranges = ranges.length === 0 ? [{ start: 0n, end: 1n << 64n }] : ranges.map(intervalOf);
    this.#pageSize = pageSize;
    this.#oddPages = this.#ranges.some(({ start }) => start % pageSize !== 0n);
  }

  /** A write by DMA. */
  write(iova: bigint, length: number): void {
    if (length === 0) return;
    const written = { start: iova, end: iova + BigInt(length) };
    for (const range of this.#ranges) this.#must.push(...intersection(written, range));
    const first = this.#ranges.reduce((least, { start }) => (start < least ? start : least), this.#ranges[0]!.start);
    const last = this.#ranges.reduce((most, { end }) => (end > most ? end : most), this.#ranges[0]!.end);
    const around = intersection(this.#roundedOut(written), this.#roundedOut({ start: first, end: last }));
    this.#may.push(...around);
  }

  #roundedOut({ start, end }: Interval): Interval {
    const size = this.#pageSize;
    if (this.#oddPages) return { start: start - size, end: end + size };
    return { start: start - (start % size), end: ((end + size - 1n) / size) * size };
  }

  /**
   * Holds a report's bitmap against what was written, and takes the interval as reported.
   * @param bitmap little-endian bits, exactly as they came
   * @returns what was seen, for people
   * @throws Deviation for a bit that is missing or too much
   */
  report(asked: ReportInterval, bitmap: Uint8Array): string {
    const seen = this.peek(asked, bitmap);
    const { start, end } = intervalOf(asked);
    const size = this.#pageSize;
    const cleared = this.#oddPages
      ? { start: start + size, end: end - size }
      : { start: ((start + size - 1n) / size) * size, end: end - (end % size) };
    this.#must = without(this.#must, { start, end });
    this.#may = without(this.#may, cleared);
    return seen;
  }

  /** {@link ExpectedLog.report} that takes nothing as reported. */
  peek(asked: ReportInterval, bitmap: Uint8Array): string {
    const must = this.#bitsOf(this.#must, asked);
    const may = this.#bitsOf(this.#may, asked);
    for (const [first, last] of must) {
      for (let bit = first; bit <= last; bit++) {
        if (!isSet(bitmap, bit)) throw new Deviation(`${bitText(asked, bit)} is missing: a written page is lost`);
      }
    }
    let count = 0;
    for (const bit of setBits(bitmap)) {
      count++;
      const allowed = may.some(([first, last]) => bit >= first && bit <= last);
      if (!allowed) throw new Deviation(`${bitText(asked, bit)} is set, and nothing was written there`);
    }
    return `${count} of ${(asked.length + asked.pageSize - 1n) / asked.pageSize} bits set, as expected`;
  }

  #bitsOf(intervals: readonly Interval[], asked: ReportInterval): [number, number][] {
    return intervals
      .flatMap(interval => intersection(interval, intervalOf(asked)))
      .map(({ start, end }) => [
        Number((start - asked.iova) / asked.pageSize),
        Number((end - 1n - asked.iova) / asked.pageSize),
      ]);
  }
}

function intervalOf({ iova, length }: IovaRange): Interval {
  return { start: iova, end: iova + length };
}

function intersection(one: Interval, other: Interval): Interval[] {
  const start = one.start > other.start ? one.start : other.start;
  const end = one.end < other.end ? one.end : other.end;
  return start < end ? [{ start, end }] : [];
}

function without(intervals: readonly Interval[], hole: Interval): Interval[] {
  if (hole.start >= hole.end) return [...intervals];
  return intervals
    .flatMap(({ start, end }) => [
      { start, end: end < hole.start ? end : hole.start },
      { start: start > hole.end ? start : hole.end, end },
    ])
    .filter(({ start, end }) => start < end);
}

/** Whether bit `bit` of a bitmap is set; bits beyond its end are not. */
export function isSet(bitmap: Uint8Array, bit: number): boolean {
  return (((bitmap[Math.floor(bit / 8)] ?? 0) >>> (bit % 8)) & 1) === 1;
}

/** The bits that are set, ascending. */
export function* setBits(bitmap: Uint8Array): Generator<number> {
  for (const [index, byte] of bitmap.entries()) {
    if (byte === 0) continue;
    for (let bit = 0; bit < 8; bit++) if ((byte >>> bit) & 1) yield index * 8 + bit;
  }
}

function bitText({ iova, pageSize }: ReportInterval, bit: number): string {
  return `bit ${bit} (IOVA 0x${(iova + BigInt(bit) * pageSize).toString(16)})`;
}
