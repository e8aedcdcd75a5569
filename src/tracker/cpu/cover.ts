import { type IovaRange, VfioError } from '../../uapi/index.js';

/**
 * What of one list of ranges lies in another: pieces in the order of the first, then of the second.
 *
 * Worked example: [0, 0x5000) in [0, 0x1000) and [0x4000, 0x8000) gives [0, 0x1000) and [0x4000, 0x5000).
 */
export function* pieces<Inner extends IovaRange, Outer extends IovaRange>(
  inner: Iterable<Inner>,
  outer: readonly Outer[],
): Generator<{ start: bigint; end: bigint; inner: Inner; outer: Outer }> {
  for (const one of inner) {
    for (const other of outer) {
      const start = one.iova > other.iova ? one.iova : other.iova;
      const oneEnd = one.iova + one.length;
      const otherEnd = other.iova + other.length;
      const end = oneEnd < otherEnd ? oneEnd : otherEnd;
      if (start < end) yield { start, end, inner: one, outer: other };
    }
  }
}

/**
 * A tracker that knows nothing of a part of the memory would call it clean for ever.
 * @param known disjoint
 * @throws VfioError EINVAL for a range of which a part is not in `known`
 */
export function requireCovered(ranges: readonly IovaRange[], known: readonly IovaRange[], operation: string): void {
  for (const range of ranges) {
    let covered = 0n;
    for (const { start, end } of pieces([range], known)) covered += end - start;
    if (covered === range.length) continue;
    const where = `0x${range.iova.toString(16)} + 0x${range.length.toString(16)}`;
    const message = `${range.length - covered} bytes of ${where} are not in the memory that this tracker was given`;
    throw new VfioError('EINVAL', { operation, field: 'ranges', message });
  }
}
