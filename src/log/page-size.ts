import { ADDRESS_LIMIT, isPowerOfTwo, VfioError } from '../uapi/index.js';

/*
 * The choice of the log's page size: the supported size closest to the hint in log2; on a tie the smaller one, since it
 * loses nothing (contract: "Our rule for the page size").
 *
 * Between neighbours s < hint < t the smaller one is closer, or as close, if hint / s <= t / hint, that is hint * hint
 * <= s * t. In bigint this is exact; logarithms in floating point are not.
 *
 * Worked example: 4096 and 8192 are supported. Hint 5792: 33547264 <= 33554432, so 4096. Hint 5793: 33558849, so 8192.
 */

/**
 * The supported page size closest to `hint`, in bytes. `supported` is in ascending order and not empty.
 * @throws VfioError EINVAL when the hint is 0 or negative.
 */
export function choosePageSize(hint: bigint, supported: readonly bigint[]): bigint {
  if (hint <= 0n) {
    throw new VfioError('EINVAL', { operation: 'DMA_LOGGING_START', field: 'page_size', message: 'must be above 0' });
  }
  const above = supported.findIndex(size => size > hint);
  if (above === -1) return supported[supported.length - 1];
  if (above === 0) return supported[0];
  const [smaller, larger] = [supported[above - 1], supported[above]];
  return hint * hint <= smaller * larger ? smaller : larger;
}

/**
 * Checks a page size: a power of two that 64 bits hold.
 * @throws VfioError EINVAL
 */
export function requirePageSize(pageSize: bigint, operation: string, field: string): void {
  if (isPowerOfTwo(pageSize) && pageSize < ADDRESS_LIMIT) return;
  throw new VfioError('EINVAL', { operation, field, message: `${pageSize} is not a power of two below 2^64` });
}
