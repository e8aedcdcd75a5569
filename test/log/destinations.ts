import { BitmapMemory } from '../../src/bitmap/index.js';
import type { DmaLog } from '../../src/log/index.js';

/** Where a report's bitmap may lie, and how the log adds to it. */
export const destinations = ['an array', 'the log', 'an array, shared', 'the log, shared', 'a memory, shared'] as const;
export type Destination = (typeof destinations)[number];

const inLog = new WeakMap<DmaLog, { session: number; bitmap: Uint32Array }>();
const sessions = new WeakMap<readonly unknown[], number>();
let lastSession = 0;

/** One bitmap in the log's memory for each session, as large as the largest report of the small models. */
function logBitmap(log: DmaLog, bits: number): Uint32Array {
  // A session's list of ranges is made once.
  let session = sessions.get(log.ranges);
  if (session === undefined) {
    session = ++lastSession;
    sessions.set(log.ranges, session);
  }
  const known = inLog.get(log);
  if (known?.session === session && known.bitmap.length * 32 >= bits) return known.bitmap;
  const bitmap = log.createReportBitmap(Math.max(bits, 2048));
  inLog.set(log, { session, bitmap });
  return bitmap;
}

let memory = BitmapMemory.create(0);

/** A bitmap that other kernels reach than the log's. */
function memoryBitmap(bits: number): Uint32Array {
  if (memory.free < bits / 8 + 64) memory = BitmapMemory.create(bits / 8 + 2 ** 20);
  return memory.createBitmap(bits);
}

function bitmapAt(destination: Destination, log: DmaLog, bits: number): Uint32Array {
  if (destination.startsWith('the log')) return logBitmap(log, bits).subarray(0, bits / 32);
  if (destination.startsWith('a memory')) return memoryBitmap(bits);
  return new Uint32Array(new SharedArrayBuffer(bits / 8));
}

/** Reports into a copy of `before`, which lies where it is said, and returns it. */
export function reportInto(
  log: DmaLog,
  destination: Destination,
  iova: bigint,
  length: bigint,
  pageSize: bigint,
  before: Uint32Array,
): Uint32Array {
  const isShared = destination.endsWith('shared');
  const bitmap = bitmapAt(destination, log, before.length * 32);
  bitmap.set(before);
  if (isShared) log.reportShared(iova, length, pageSize, bitmap);
  else log.report(iova, length, pageSize, bitmap);
  return bitmap;
}
