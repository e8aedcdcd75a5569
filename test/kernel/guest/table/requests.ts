import {
  encodeRanges,
  encodeReport,
  encodeStartPointer,
  FEATURE_GET,
  FEATURE_SET,
  type IovaRange,
  linux,
} from '../../../../src/uapi/index.js';
import { Pages } from './pages.js';
import type { Outcome, RawDevice } from './raw-device.js';

/*
 * Feature requests in which everything can be wrong: what is not said is right.
 */

/** The interval that the rows of the table track, unless they say otherwise. */
export const TRACKED: IovaRange = { iova: 0x100000n, length: 0x40000n };

/** A feature request: `u32 argsz · u32 flags`, and its structure. */
export function message(argsz: number, flags: number, structure: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(8 + structure.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, argsz, true);
  view.setUint32(4, flags, true);
  bytes.set(structure, 8);
  return bytes;
}

/** A page for requests; each request writes over the one before. */
const page = new Pages(1);
/** A page for ranges: 256 of them fill it. */
const rangesPage = new Pages(1);
const moreRanges = new Pages(2);

/** Asks with a message that is in memory as it should be. */
export function ask(device: RawDevice, bytes: Uint8Array): Outcome {
  page.bytes.fill(0);
  return device.feature(page.put(page.address, bytes));
}

/** The structure that came back from {@link ask}. */
export function answer(): DataView {
  return new DataView(page.view.buffer, 8);
}

/** What may be said of a START. */
export interface StartSaid {
  pageSize?: bigint;
  ranges?: readonly IovaRange[];
  numRanges?: number;
  /** Where the ranges are. */
  pointer?: number;
  argsz?: number;
  flags?: number;
  reserved?: number;
}

/** START's message, with its ranges in memory. */
export function startMessage(said: StartSaid): Uint8Array {
  const { pageSize = 4096n, ranges = [TRACKED], argsz = 32, flags = FEATURE_SET, reserved = 0 } = said;
  const place = ranges.length > 256 ? moreRanges : rangesPage;
  const pointer = said.pointer ?? place.put(place.address, encodeRanges(ranges));
  const numRanges = said.numRanges ?? ranges.length;
  const structure = encodeStartPointer({ pageSize, numRanges, rangesPointer: BigInt(pointer) });
  new DataView(structure.buffer).setUint32(12, reserved, true);
  return message(argsz, flags | linux.start, structure);
}

/** Ranges of which only the first `count` are in mapped memory. */
export function rangesAtEnd(ranges: readonly IovaRange[], count: number): number {
  // New each time: what was unmapped once may be something else's place by now.
  const place = new Pages(1);
  return place.put(place.beforeEnd(16 * count), encodeRanges(ranges.slice(0, count)));
}

/** START, and the page size that the device chose. */
export function start(device: RawDevice, said: StartSaid = {}): Outcome {
  const outcome = ask(device, startMessage(said));
  return outcome === '0' ? `0 (ps ${hex(answer().getBigUint64(0, true))})` : outcome;
}

/** STOP. */
export function stop(device: RawDevice, argsz = 8): Outcome {
  return ask(device, message(argsz, FEATURE_SET | linux.stop));
}

/** What may be said of a REPORT. */
export interface ReportSaid {
  iova?: bigint;
  length?: bigint;
  pageSize?: bigint;
  /** Where the bitmap is. */
  pointer?: number | bigint;
  argsz?: number;
  flags?: number;
}

/** Two pages of bitmap, for whom it does not matter. */
const bitmap = new Pages(2);

/** REPORT's message. */
export function reportMessage(said: ReportSaid): Uint8Array {
  const { iova = TRACKED.iova, length = TRACKED.length, pageSize = 4096n, argsz = 40, flags = FEATURE_GET } = said;
  const bitmapPointer = BigInt(said.pointer ?? bitmap.address);
  return message(argsz, flags | linux.report, encodeReport({ iova, length, pageSize, bitmapPointer }));
}

/** REPORT. */
export function report(device: RawDevice, said: ReportSaid = {}): Outcome {
  return ask(device, reportMessage(said));
}

/** As C prints it by `%#x`. */
export function hex(value: bigint | number): string {
  return value === 0n || value === 0 ? '0' : `0x${value.toString(16)}`;
}
