import { describe, expect, it } from 'vitest';
import { CompressionChoice } from '../../src/migration/index.js';

const BLOCK = 1 << 20;

/** A way on which sending and compressing take turns at one thread, and a link that moves so much a millisecond. */
class Way {
  now = 0;
  compressedBlocks = 0;
  workMs = 0;
  readonly #choice = new CompressionChoice();
  #linkFreeAt = 0;

  send(blocks: number, link: { bytesPerMs: number; costMs: number; ratio: number }): this {
    for (let block = 0; block < blocks; block++) {
      // Eight blocks may be on the way: whoever has more waits.
      this.now = Math.max(this.now, this.#linkFreeAt - (8 * BLOCK) / link.bytesPerMs);
      const compresses = this.#choice.next(this.now);
      const bytes = compresses ? BLOCK / link.ratio : BLOCK;
      if (compresses) {
        const startedAt = this.now;
        this.now += link.costMs;
        this.workMs += link.costMs;
        this.compressedBlocks++;
        this.#choice.sentCompressed(BLOCK, bytes, startedAt, this.now);
      } else {
        this.#choice.sentPlain(BLOCK);
      }
      this.now += 0.3;
      this.#linkFreeAt = Math.max(this.#linkFreeAt, this.now) + bytes / link.bytesPerMs;
    }
    return this;
  }

  /** Blocks compressed, of so many more. */
  partOf(blocks: number, link: Parameters<Way['send']>[1]): number {
    const before = this.compressedBlocks;
    this.send(blocks, link);
    return (this.compressedBlocks - before) / blocks;
  }
}

const gigabit = 120_000;
const loopback = 2_000_000;
const text = { costMs: 3, ratio: 2.5 };
const random = { costMs: 0.3, ratio: 1 };

describe('the choice whether to compress', () => {
  it('is to compress what shrinks well on a slow link', () => {
    const way = new Way().send(100, { bytesPerMs: gigabit, ...text });
    expect(way.partOf(1000, { bytesPerMs: gigabit, ...text })).toBeGreaterThan(0.9);
  });

  it.each([
    ['text over a fast link', { bytesPerMs: loopback, ...text }],
    ['random pages over a slow link', { bytesPerMs: gigabit, ...random }],
    ['random pages over a fast link', { bytesPerMs: loopback, ...random }],
  ])('costs a few per cent at most where it does not help: %s', (_, link) => {
    const way = new Way().send(2000, link);
    expect(way.workMs / way.now).toBeLessThan(0.03);
    expect(way.compressedBlocks).toBeGreaterThan(1);
  });

  it('changes when the memory does', () => {
    const way = new Way().send(1000, { bytesPerMs: gigabit, ...random });
    way.send(2000, { bytesPerMs: gigabit, ...text });
    expect(way.partOf(500, { bytesPerMs: gigabit, ...text })).toBeGreaterThan(0.9);
    way.send(100, { bytesPerMs: gigabit, ...random });
    const before = { now: way.now, workMs: way.workMs };
    way.send(500, { bytesPerMs: gigabit, ...random });
    expect((way.workMs - before.workMs) / (way.now - before.now)).toBeLessThan(0.03);
  });

  it('changes when the link does, also to one that is too fast to be seen behind the compressing', () => {
    const way = new Way().send(500, { bytesPerMs: gigabit, ...text });
    way.send(64 * 17, { bytesPerMs: loopback, ...text });
    expect(way.partOf(1000, { bytesPerMs: loopback, ...text })).toBeLessThan(0.1);
    way.send(2000, { bytesPerMs: gigabit, ...text });
    expect(way.partOf(1000, { bytesPerMs: gigabit, ...text })).toBeGreaterThan(0.9);
  });

  it('does not take a rest for a slow link', () => {
    const choice = new CompressionChoice();
    let now = 0;
    for (let block = 0; block < 1000; block++) {
      if (choice.next(now)) {
        choice.sentCompressed(BLOCK, BLOCK / 2, now, now + 3);
        now += 3;
      } else choice.sentPlain(BLOCK);
      now += 0.5;
      if (block % 20 === 0) {
        choice.rest();
        now += 100;
      }
    }
    expect(choice.compresses).toBe(false);
  });
});
