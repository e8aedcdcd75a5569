/** Most pages of a workload: a product of two page indexes is exact. */
export const WORKLOAD_MAX_PAGES = 2 ** 26;

/** A workload's fixed parameters. */
export interface WorkloadSettings {
  kind: number;
  /** Bytes of one write. */
  pageSize: number;
  /** IOVA of page 0; a number, so that the loop over pages touches no bigint. */
  base: number;
  /** Pages of the area. */
  pages: number;
  seed: number;
  /** Hot set: Zipf's exponent. */
  exponent: number;
  /** Rings: how many. */
  rings: number;
  /** Rings: most buffers in one burst. */
  burst: number;
}
