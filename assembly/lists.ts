import { markFourShared, markShared } from './exchange';
import { markFourLive, markLive } from './generations';
import { EXCHANGE, mode, ONE_WRITER } from './layout';
import { markFourPlain, markPlain } from './one-writer';
import { markRange } from './two-level';

/*
 * Lists of pages, four at a time. Converting and comparing is done by vectors; and marks that are atomic come one behind the
 * other: a locked instruction keeps all later reads waiting, so that what is read between two of them is paid in full, and
 * what is read before or behind four of them a quarter each time.
 *
 * A page number becomes its bit without the checks of a conversion: 2^52 and a whole number are a float whose lowest bits are
 * that number.
 *
 * Worked example: a segment of pages [1000, 2000) whose first is bit 512: distance -488. Page 1003: 2^52 - 488 + 1003 is
 * 2^52 + 515, in bits 0x4330000000000203; the low half is bit 515.
 */

const TWO_TO_52: f64 = 4503599627370496.0;
const TWO_TO_32: f64 = 4294967296.0;
const ENTRY: usize = 24;

/**
 * Marks `count` pages of a list of f64, page numbers of the absolute grid. `segments` f64 triples say what is logged: the
 * first page, the first page behind, and what to add to a page's number to get its bit. Other pages mark nothing.
 */
export function markList(list: usize, count: u32, table: usize, segments: u32): void {
  const end = list + (count << 3);
  // A fence: see exchange.ts. As an instruction of its own it is dearer, and the compiler does not take it.
  if (mode !== ONE_WRITER) atomic.or<u32>(list, 0);
  const tableEnd = table + <usize>segments * ENTRY;
  for (let at = list; at < end; ) {
    const page = load<f64>(at);
    const entry = findSegment(table, tableEnd, page);
    if (entry === 0) {
      at += 8;
    } else if (load<f64>(entry, 8) + load<f64>(entry, 16) > TWO_TO_32) {
      const bit = floor<f64>(page) + load<f64>(entry, 16);
      markRange(bit, bit + 1);
      at += 8;
    } else if (mode === ONE_WRITER) {
      at = markStretchPlain(at, end, entry);
    } else if (mode === EXCHANGE) {
      at = markStretchShared(at, end, entry);
    } else {
      at = markStretchLive(at, end, entry);
    }
  }
}

/** The entry of the segment that has `page`; 0 when none has. */
function findSegment(table: usize, tableEnd: usize, page: f64): usize {
  let below: usize = 0;
  let above: usize = (tableEnd - table) / ENTRY;
  while (below < above) {
    const middle = (below + above) >> 1;
    if (load<f64>(table + middle * ENTRY, 8) <= page) below = middle + 1;
    else above = middle;
  }
  const entry = table + below * ENTRY;
  return entry < tableEnd && page >= load<f64>(entry) && page < load<f64>(entry, 8) ? entry : 0;
}

/** Marks pages of the list while they lie in the segment of `entry`. Returns where it stopped. */
function markStretchPlain(at: usize, end: usize, entry: usize): usize {
  const toBit = load<f64>(entry, 16) + TWO_TO_52;
  while (at < end) {
    if (at + 32 <= end && hasFour(at, entry)) {
      const low = bitsOfTwo(at, toBit);
      const high = bitsOfTwo(at + 16, toBit);
      markFourPlain(firstBit(low), secondBit(low), firstBit(high), secondBit(high));
      at += 32;
    } else {
      if (!hasOne(at, entry)) return at;
      markPlain(bitOfOne(at, toBit));
      at += 8;
    }
  }
  return at;
}

/** {@link markStretchPlain} by atomic OR. */
function markStretchShared(at: usize, end: usize, entry: usize): usize {
  const toBit = load<f64>(entry, 16) + TWO_TO_52;
  while (at < end) {
    if (at + 32 <= end && hasFour(at, entry)) {
      const low = bitsOfTwo(at, toBit);
      const high = bitsOfTwo(at + 16, toBit);
      markFourShared(firstBit(low), secondBit(low), firstBit(high), secondBit(high));
      at += 32;
    } else {
      if (!hasOne(at, entry)) return at;
      markShared(bitOfOne(at, toBit));
      at += 8;
    }
  }
  return at;
}

/** {@link markStretchPlain} in the live generation. */
function markStretchLive(at: usize, end: usize, entry: usize): usize {
  const toBit = load<f64>(entry, 16) + TWO_TO_52;
  while (at < end) {
    if (at + 32 <= end && hasFour(at, entry)) {
      const low = bitsOfTwo(at, toBit);
      const high = bitsOfTwo(at + 16, toBit);
      markFourLive(firstBit(low), secondBit(low), firstBit(high), secondBit(high));
      at += 32;
    } else {
      if (!hasOne(at, entry)) return at;
      markLive(bitOfOne(at, toBit));
      at += 8;
    }
  }
  return at;
}

function hasFour(at: usize, entry: usize): bool {
  const first = v128.load64_splat(entry);
  const behind = v128.load64_splat(entry, 8);
  const low = v128.load(at);
  const high = v128.load(at, 16);
  const above = v128.and(f64x2.ge(low, first), f64x2.ge(high, first));
  const below = v128.and(f64x2.lt(low, behind), f64x2.lt(high, behind));
  return i64x2.all_true(v128.and(above, below));
}

function hasOne(at: usize, entry: usize): bool {
  const page = load<f64>(at);
  return page >= load<f64>(entry) && page < load<f64>(entry, 8);
}

function bitsOfTwo(at: usize, toBit: f64): v128 {
  return f64x2.add(f64x2.floor(v128.load(at)), f64x2.splat(toBit));
}

function firstBit(two: v128): u32 {
  return i32x4.extract_lane(two, 0);
}

function secondBit(two: v128): u32 {
  return i32x4.extract_lane(two, 2);
}

function bitOfOne(at: usize, toBit: f64): u32 {
  return <u32>reinterpret<u64>(floor<f64>(load<f64>(at)) + toBit);
}
