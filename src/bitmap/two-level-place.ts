/** Who marks, and how a report takes the marks. */
export type Keeping = 'one-writer' | 'exchange' | 'generations';

/** Where a two-level bitmap is: what another thread needs to mark in it. Structured clone keeps it. */
export interface TwoLevelPlace {
  readonly memory: WebAssembly.Memory;
  readonly keeping: Keeping;
  readonly bits: number;
  readonly summary: number;
  readonly bitsStride: number;
  readonly summaryStride: number;
  readonly generations: number;
}
