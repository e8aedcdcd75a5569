import type { DmaRegionSpec, GuestMemory } from '../memory/index.js';
import { VfioError } from '../uapi/index.js';

const PAGE_SIZE = 4096n;

/**
 * Checks what a host maps for DMA, in the same way for every wire.
 * @param offset where the region begins in `memory`, bytes
 * @throws VfioError EINVAL for a region that is not whole pages of 4096 bytes, or reaches beyond the memory
 */
export function requireMappable({ iova, length }: DmaRegionSpec, memory: GuestMemory, offset: bigint): void {
  const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'DMA_MAP', field, message });
  for (const [field, value] of Object.entries({ iova, length, offset })) {
    if (value < 0n || value % PAGE_SIZE !== 0n) throw bad(field, `${value} is no multiple of ${PAGE_SIZE}`);
  }
  if (offset + length > memory.size) {
    throw bad('length', `${length} bytes at ${offset} reach beyond the ${memory.size} of the memory`);
  }
}
