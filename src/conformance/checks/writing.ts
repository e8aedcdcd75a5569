import type { Bench } from '../bench.js';

/** The page that most of the checks speak of, bytes: the smallest that every dialect reports in. */
export const PAGE = 4096n;

/**
 * Makes the device write so that `[iova, iova + length)` is written: exactly that where it can write single bytes, else the blocks around it, in as
 * many pieces as it takes.
 */
export async function write(bench: Bench, iova: bigint, length = 1): Promise<void> {
  const { alignment, maxLength } = bench.stimulus!.limits;
  const unit = BigInt(alignment);
  const most = BigInt(maxLength - (maxLength % alignment));
  const end = ((iova + BigInt(length) + unit - 1n) / unit) * unit;
  for (let at = iova - (iova % unit); at < end; at += most) {
    await bench.dmaWrite(at, Number(end - at < most ? end - at : most));
  }
}

/** Pages of 4 KiB in the first window, at most `most`. */
export function pagesOf(bench: Bench, most: number): number {
  return Math.min(most, Number(bench.window.length / PAGE));
}
