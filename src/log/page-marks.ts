import type { BitTarget } from './bit-target.js';

/** Takes what a piece of marks says: bit `start + n` of `words` is page `first + n`, for n below `count`. */
export type TakePiece = (words: Uint32Array, start: number, first: number, count: number) => void;

/** Where a segment keeps the marks of its pages, numbered from 0. */
export interface PageMarks {
  /** Marks pages `[first, end)`, at least one. */
  mark(first: number, end: number): void;
  /** Whether a page is marked now. */
  isMarked(page: number): boolean;
  /** Whether any of `count` pages from `first` on may be marked: `false` is certain. */
  mayHave(first: number, count: number): boolean;
  /** How many pages are marked now. */
  count(): number;
  /** Moves the marks of `count` pages (1 or more) from `first` on to the target's bits from `bit` on. */
  move(first: number, count: number, target: BitTarget, bit: number): void;
  /**
   * Takes the marks of `count` pages (1 or more) from `first` on, piece by piece; clean stretches may be left out. They are
   * cleared before `take` returns.
   */
  takePieces(first: number, count: number, take: TakePiece): void;
  /**
   * Moves marks to report pages that are `ratio` log pages each; page `first` is the `phase`th of the report page of `bit`.
   */
  shrink(first: number, count: number, target: BitTarget, bit: number, ratio: number, phase: number): void;
  /**
   * Moves marks to report pages of which `ratio` make a log page. `bit` speaks of the `phase`th of page `first`, and `bits`
   * bits are asked for.
   */
  expand(first: number, bits: number, target: BitTarget, bit: number, ratio: number, phase: number): void;
}
