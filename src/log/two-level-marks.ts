import type { TwoLevelBitmap } from '../bitmap/index.js';
import { BLOCK_PAGES, GROUP_PAGES, wordOf } from '../bitmap/index.js';
import type { BitTarget } from './bit-target.js';
import { type LogMemory, PIECE_BITS } from './log-memory.js';
import type { PageMarks, TakePiece } from './page-marks.js';

/*
 * A segment's marks: a stretch of the session's two-level bitmap. The kernels reach what lies in their own memory, so where a
 * report's bitmap lies decides how its bits get there:
 *  - in the session's memory: the kernel moves them at once;
 *  - elsewhere, and nobody else's: a piece of the bitmap is copied in, the kernel adds to it, and it is copied back. Both
 *    copies are quick; ORing in JavaScript takes several times as long;
 *  - shared with other trackers: a piece is taken by itself, and its words are added atomically.
 * A piece is 16 KiB, which a core's first cache holds.
 *
 * Worked example: 40 pages from page 100 on, to bit 50 of a bitmap elsewhere. Words 1 and 2 are copied in; bit 50 is bit 18
 * of the copy; the kernel adds the marks at bit 18; both words are copied back.
 */

export class TwoLevelMarks implements PageMarks {
  readonly #log: LogMemory;
  readonly #bitmap: TwoLevelBitmap;
  /** The bit of page 0, a multiple of {@link BLOCK_PAGES}. */
  readonly #origin: number;
  readonly #pages: number;

  constructor(log: LogMemory, origin: number, pages: number) {
    this.#log = log;
    this.#bitmap = log.bitmap;
    this.#origin = origin;
    this.#pages = pages;
  }

  mark(first: number, end: number): void {
    this.#bitmap.markRange(this.#origin + first, this.#origin + end);
  }

  isMarked(page: number): boolean {
    return this.#bitmap.isMarked(this.#origin + page);
  }

  mayHave(first: number, count: number): boolean {
    return this.#next(first, first + count) < first + count;
  }

  count(): number {
    const end = this.#origin + Math.ceil(this.#pages / BLOCK_PAGES) * BLOCK_PAGES;
    return this.#bitmap.count(this.#origin, end);
  }

  move(first: number, count: number, target: BitTarget, bit: number): void {
    if (target.isShared) this.#moveShared(first, count, target, bit);
    else if (this.#log.memory.holds(target.words)) {
      this.#bitmap.drain(this.#origin + first, count, target.words.byteOffset, bit);
    } else this.#moveByCopy(first, count, target.words, bit);
  }

  #moveByCopy(first: number, count: number, words: Uint32Array, bit: number): void {
    const { piece } = this.#log;
    this.#forPieces(first, count, (at, length) => {
      const start = bit + at - first;
      const from = wordOf(start);
      const end = wordOf(start + length - 1) + 1;
      piece.set(words.subarray(from, end));
      this.#bitmap.drain(this.#origin + at, length, piece.byteOffset, start - from * 32);
      words.set(piece.subarray(0, end - from), from);
      piece.fill(0, 0, end - from);
    });
  }

  #moveShared(first: number, count: number, target: BitTarget, bit: number): void {
    this.takePieces(first, count, (words, start, at, length) =>
      this.#add(words, start, target, bit + at - first, length),
    );
  }

  takePieces(first: number, count: number, take: TakePiece): void {
    const { piece } = this.#log;
    this.#forPieces(first, count, (at, length) => {
      this.#bitmap.drain(this.#origin + at, length, piece.byteOffset, 0);
      take(piece, 0, at, length);
      piece.fill(0, 0, wordOf(length - 1) + 1);
    });
  }

  shrink(first: number, count: number, target: BitTarget, bit: number, ratio: number, phase: number): void {
    const bitOf = (page: number) => bit + (page - first + phase) / ratio;
    const groups = this.#groupsToConvert(first, count, target, ratio, bitOf);
    if (groups === undefined) {
      this.#shrinkPieces(first, count, target, bit, ratio, phase);
      return;
    }
    const { start, end } = groups;
    const behind = first + count - end;
    if (start > first) this.#shrinkPieces(first, start - first, target, bit, ratio, phase);
    const byte = target.words.byteOffset + bitOf(start) / 8;
    this.#bitmap.drainShrunk(this.#origin + start, this.#origin + end, byte, ratio);
    if (behind > 0) this.#shrinkPieces(end, behind, target, bitOf(end), ratio, 0);
  }

  /** The whole groups among the pages, if the kernel can convert them straight into the target. */
  #groupsToConvert(
    first: number,
    count: number,
    target: BitTarget,
    ratio: number,
    bitOf: (page: number) => number,
  ): { start: number; end: number } | undefined {
    if (target.isShared || !this.#log.memory.holds(target.words) || !this.#bitmap.canConvert(ratio)) return undefined;
    const start = Math.ceil((this.#origin + first) / GROUP_PAGES) * GROUP_PAGES - this.#origin;
    const end = Math.floor((this.#origin + first + count) / GROUP_PAGES) * GROUP_PAGES - this.#origin;
    // A group must begin with a report page, and that with a byte of the target.
    return start < end && bitOf(start) % 8 === 0 ? { start, end } : undefined;
  }

  #shrinkPieces(first: number, count: number, target: BitTarget, bit: number, ratio: number, phase: number): void {
    const { converted, memory, piece } = this.#log;
    this.#forAligned(first, count, ratio, phase, (at, length, skip) => {
      this.#bitmap.drain(this.#origin + at, length, piece.byteOffset, skip);
      const bits = Math.ceil((skip + length) / ratio);
      memory.kernels.shrink(piece.byteOffset, 0, converted.byteOffset, 0, skip + length, ratio, 0);
      this.#add(converted, 0, target, bit + (at - first + phase - skip) / ratio, bits);
      piece.fill(0, 0, wordOf(skip + length - 1) + 1);
      converted.fill(0, 0, wordOf(bits - 1) + 1);
    });
  }

  expand(first: number, bits: number, target: BitTarget, bit: number, ratio: number, phase: number): void {
    const pages = Math.ceil((phase + bits) / ratio);
    const bitOf = (page: number) => bit + (page - first) * ratio - phase;
    // The first and the last page may be cut.
    const groups = this.#groupsToConvert(
      phase > 0 ? first + 1 : first,
      Math.floor((phase + bits) / ratio) - (phase > 0 ? 1 : 0),
      target,
      ratio,
      bitOf,
    );
    if (groups === undefined) {
      this.#expandPieces(first, bits, target, bit, ratio, phase);
      return;
    }
    const { start, end } = groups;
    if (start > first) this.#expandPieces(first, bitOf(start) - bit, target, bit, ratio, phase);
    this.#bitmap.drainExpanded(
      this.#origin + start,
      this.#origin + end,
      target.words.byteOffset + bitOf(start) / 8,
      ratio,
    );
    if (end < first + pages) this.#expandPieces(end, bit + bits - bitOf(end), target, bitOf(end), ratio, 0);
  }

  #expandPieces(first: number, bits: number, target: BitTarget, bit: number, ratio: number, phase: number): void {
    const { converted, memory, piece } = this.#log;
    const { kernels } = memory;
    const direct = !target.isShared && memory.holds(target.words);
    const pages = Math.ceil((phase + bits) / ratio);
    const pagesAtOnce = direct ? PIECE_BITS : PIECE_BITS / ratio;
    this.#forPieces(
      first,
      pages,
      (at, length) => {
        this.#bitmap.drain(this.#origin + at, length, piece.byteOffset, 0);
        // The first page begins `phase` bits before the bit that is asked for, the last one may end behind the last.
        const skip = at === first ? phase : 0;
        const start = (at - first) * ratio - phase + skip;
        const count = Math.min(length * ratio - skip, bits - start);
        if (direct) {
          kernels.expand(piece.byteOffset, 0, target.words.byteOffset, bit + start, count, ratio, skip);
        } else {
          kernels.expand(piece.byteOffset, 0, converted.byteOffset, 0, count, ratio, skip);
          this.#add(converted, 0, target, bit + start, count);
          converted.fill(0, 0, wordOf(count - 1) + 1);
        }
        piece.fill(0, 0, wordOf(length - 1) + 1);
      },
      pagesAtOnce,
    );
  }

  /** ORs bits of the session's memory into the target. */
  #add(words: Uint32Array, start: number, target: BitTarget, bit: number, count: number): void {
    const { memory } = this.#log;
    if (!memory.holds(target.words)) target.or(words, start, bit, count);
    else if (target.isShared) memory.kernels.orShared(words.byteOffset, start, target.words.byteOffset, bit, count);
    else memory.kernels.or(words.byteOffset, start, target.words.byteOffset, bit, count);
  }

  /** Calls `take` for stretches of at most `most` pages that have marks. */
  #forPieces(first: number, count: number, take: (at: number, length: number) => void, most = PIECE_BITS): void {
    const end = first + count;
    for (let at = this.#next(first, end); at < end; ) {
      const length = Math.min(most, end - at);
      take(at, length);
      at = this.#next(at + length, end);
    }
  }

  /** The same, where every stretch but the first begins with a large page; `skip` is the place in its large page. */
  #forAligned(
    first: number,
    count: number,
    ratio: number,
    phase: number,
    take: (at: number, length: number, skip: number) => void,
  ): void {
    const end = first + count;
    for (let at = first; at < end; ) {
      const marked = this.#next(at, end);
      if (marked === end) return;
      const skip = (marked - first + phase) % ratio;
      const length = Math.min(PIECE_BITS - skip, end - marked);
      take(marked, length, skip);
      at = marked + length;
    }
  }

  #next(from: number, end: number): number {
    return this.#bitmap.nextMarked(this.#origin + from, this.#origin + end) - this.#origin;
  }
}
