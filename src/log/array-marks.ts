import { clearRange, countBits, createBitmap, expandBits, setRange, shrinkBits, testBit } from '../bitmap/index.js';
import type { BitTarget } from './bit-target.js';
import type { PageMarks, TakePiece } from './page-marks.js';

/** Marks in an ordinary array: for many small stretches that come and go. */
export class ArrayMarks implements PageMarks {
  readonly words: Uint32Array;
  readonly #pages: number;

  constructor(pages: number) {
    this.words = createBitmap(pages);
    this.#pages = pages;
  }

  mark(first: number, end: number): void {
    setRange(this.words, first, end);
  }

  isMarked(page: number): boolean {
    return testBit(this.words, page);
  }

  mayHave(): boolean {
    return true;
  }

  count(): number {
    return countBits(this.words, 0, this.#pages);
  }

  move(first: number, count: number, target: BitTarget, bit: number): void {
    target.or(this.words, first, bit, count);
    clearRange(this.words, first, first + count);
  }

  takePieces(first: number, count: number, take: TakePiece): void {
    take(this.words, first, first, count);
    clearRange(this.words, first, first + count);
  }

  shrink(first: number, count: number, target: BitTarget, bit: number, ratio: number, phase: number): void {
    const bits = Math.ceil((phase + count) / ratio);
    const image = createBitmap(bits);
    shrinkBits(this.words, first, image, 0, count, ratio, phase);
    target.or(image, 0, bit, bits);
    clearRange(this.words, first, first + count);
  }

  expand(first: number, bits: number, target: BitTarget, bit: number, ratio: number, phase: number): void {
    const image = createBitmap(bits);
    expandBits(this.words, first, image, 0, bits, ratio, phase);
    target.or(image, 0, bit, bits);
    clearRange(this.words, first, first + Math.ceil((phase + bits) / ratio));
  }
}
