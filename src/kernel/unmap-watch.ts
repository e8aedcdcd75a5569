import { setRange } from '../bitmap/index.js';
import { bitmapBits, bitmapBytes, type IovaRange } from '../uapi/index.js';

/** Who wants to know what was written to a region when it is unmapped: with the mapping, the kernel forgets it. */
export interface UnmapWatch {
  /** Bytes that one bit speaks of: what the kernel's log knows. */
  readonly pageSize: bigint;
  /** Is told, for each region that is unmapped, the pages written since they were last reported. Bit 0 is the page at its start. */
  unmapped(region: IovaRange, bitmap: Uint32Array): void;
}

/**
 * Unmaps a region, and tells the watch what was written there. When the kernel does not say, everything counts as written: that a region
 * cannot be unmapped any more would be worse.
 * @param withBitmap unmaps, and ORs what was written into a bitmap; when it throws, the region is still mapped
 * @param without unmaps
 */
export async function unmapWatched(
  region: IovaRange,
  { pageSize, unmapped }: UnmapWatch,
  withBitmap: (bitmap: Uint32Array) => Promise<unknown>,
  without: () => Promise<unknown>,
): Promise<void> {
  const bitmap = new Uint32Array(Number(bitmapBytes(region.length, pageSize)) / 4);
  try {
    await withBitmap(bitmap);
  } catch {
    await without();
    setRange(bitmap, 0, Number(bitmapBits(region.length, pageSize)));
  }
  unmapped(region, bitmap);
}
