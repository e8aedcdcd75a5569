import type { DirtySet } from '../../../src/tracker/index.js';
import { probeCpuTracking } from '../../../src/tracker/index.js';

export const PAGE = 4096;

/** Whether this kernel, or what this process may do, leaves nothing to test: Linux before 6.7, or a container that forbids it. */
export const cannotTrack = probeCpuTracking() !== undefined;

/** The dirty pages of a set, by IOVA. */
export function dirtyIovas(set: DirtySet): bigint[] {
  const iovas: bigint[] = [];
  for (const { iova, length } of set.runs()) for (let at = iova; at < iova + length; at += set.pageSize) iovas.push(at);
  return iovas;
}
