import { orBits } from '../bitmap/index.js';
import type { ReportRequest } from '../device/index.js';
import { bitmapBytes } from '../uapi/index.js';
import type { DirtyRange, DirtySet } from './dirty-set.js';

/*
 * One REPORT for each range of a set, except where two ranges share a log page: then one for both. Each alone would cover only a part of that
 * page, the device would have to report it and keep it (contract rule 4), and it would never come clean.
 *
 * Worked example: ranges [0, 640 KiB) and [1 MiB, 1 GiB) of a PC, and a device that logs 2 MiB pages: the first page belongs to both, so that
 * one report asks for [0, 1 GiB), and its bits from page 256 on go to the second range.
 */

/**
 * @param logPageSize what the device chose, bytes
 * @param report asks the device and ORs its answer into the bitmap
 */
export async function reportInto(
  dirty: DirtySet,
  logPageSize: bigint,
  report: (request: ReportRequest, bitmap: Uint32Array) => Promise<void>,
): Promise<void> {
  const { pageSize } = dirty;
  for (const group of groupsSharingPages(dirty.ranges, logPageSize)) {
    const first = group[0]!;
    const last = group.at(-1)!;
    const whole = { iova: first.iova, length: last.iova + last.length - first.iova, pageSize };
    if (group.length === 1) {
      await report(whole, first.bitmap);
      continue;
    }
    const bitmap = new Uint32Array(Number(bitmapBytes(whole.length, pageSize)) / 4);
    await report(whole, bitmap);
    for (const range of group) {
      orBits(bitmap, Number((range.iova - first.iova) / pageSize), range.bitmap, 0, range.pages);
    }
  }
}

function groupsSharingPages(ranges: readonly DirtyRange[], logPageSize: bigint): DirtyRange[][] {
  const groups: DirtyRange[][] = [];
  for (const range of ranges) {
    const before = groups.at(-1)?.at(-1);
    const shares =
      before !== undefined && (before.iova + before.length - 1n) / logPageSize === range.iova / logPageSize;
    if (shares) groups.at(-1)!.push(range);
    else groups.push([range]);
  }
  return groups;
}
