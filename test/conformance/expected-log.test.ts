import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Deviation, ExpectedLog, isSet, setBits } from '../../src/conformance/index.js';

/*
 * The account that devices are held against is held against a log that keeps a bit for every byte, and one for every log page: whatever a correct
 * device may answer must be taken, and one bit less, or one where nothing was written, must not.
 */

const SPACE = 256;

/** A correct device over 256 bytes of IOVA, byte by byte. */
class ByteLog {
  readonly #ranges: readonly [number, number][];
  readonly #pageSize: number;
  #dirtyPages = new Set<number>();

  constructor(ranges: readonly [number, number][], pageSize: number) {
    this.#ranges = ranges;
    this.#pageSize = pageSize;
  }

  write(start: number, length: number): void {
    for (let at = start; at < start + length; at++) {
      if (this.#ranges.some(([from, to]) => at >= from && at < to)) {
        this.#dirtyPages.add(Math.floor(at / this.#pageSize));
      }
    }
  }

  report(start: number, length: number, pageSize: number): Uint8Array {
    const bitmap = new Uint8Array(SPACE);
    for (const page of [...this.#dirtyPages]) {
      const first = page * this.#pageSize;
      const last = first + this.#pageSize;
      for (let at = Math.max(first, start); at < Math.min(last, start + length); at++) {
        const bit = Math.floor((at - start) / pageSize);
        bitmap[bit >> 3]! |= 1 << (bit & 7);
      }
      if (first >= start && last <= start + length) this.#dirtyPages.delete(page);
    }
    return bitmap;
  }
}

const powers = fc.constantFrom(1, 2, 4, 8, 16, 32);
const ranges = fc
  .uniqueArray(fc.integer({ min: 0, max: 15 }), { minLength: 1, maxLength: 4 })
  .map(starts => starts.sort((a, b) => a - b).map((start): [number, number] => [start * 16, start * 16 + 16]));
const step = fc.oneof(
  fc.record({ kind: fc.constant('write' as const), start: fc.nat(SPACE - 1), length: fc.nat(40), pageSize: powers }),
  fc.record({
    kind: fc.constant('report' as const),
    start: fc.nat(SPACE - 1),
    length: fc.nat(SPACE),
    pageSize: powers,
  }),
);

const asked = (start: number, length: number, pageSize: number) => {
  return { iova: BigInt(start), length: BigInt(length), pageSize: BigInt(pageSize) };
};

describe('the account of a log', () => {
  it('takes whatever a correct device answers', () => {
    fc.assert(
      fc.property(ranges, powers, fc.array(step, { maxLength: 30 }), (logged, pageSize, steps) => {
        const device = new ByteLog(logged, pageSize);
        const account = accountOf(logged, pageSize);
        for (const { kind, start, length, pageSize: reportPage } of steps) {
          if (kind === 'write') {
            device.write(start, length);
            account.write(BigInt(start), length);
          } else {
            account.report(asked(start, length, reportPage), device.report(start, length, reportPage));
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it("misses every bit that a page in pages of the log's own size has, when it is taken away", () => {
    fc.assert(
      fc.property(fc.nat(SPACE - 9), fc.integer({ min: 1, max: 8 }), powers, (start, length, pageSize) => {
        const account = accountOf([[0, SPACE]], pageSize);
        const device = new ByteLog([[0, SPACE]], pageSize);
        account.write(BigInt(start), length);
        device.write(start, length);
        const bitmap = device.report(0, SPACE, pageSize);
        for (const bit of [...setBits(bitmap)]) {
          const less = bitmap.slice();
          less[bit >> 3]! ^= 1 << (bit & 7);
          expect(() => account.peek(asked(0, SPACE, pageSize), less)).toThrow(Deviation);
        }
        const all = [...setBits(bitmap)];
        for (const bit of [all[0]! - 1, all.at(-1)! + 1]) {
          if (bit < 0) continue;
          const more = bitmap.slice();
          more[bit >> 3]! |= 1 << (bit & 7);
          expect(() => account.peek(asked(0, SPACE, pageSize), more)).toThrow(`bit ${bit} `);
        }
      }),
    );
  });

  it('does not demand a second time what was reported, and still takes the page that was kept', () => {
    const account = accountOf([[0, SPACE]], 16);
    account.write(3n, 1);
    account.report(asked(0, 8, 1), Uint8Array.of(0b1000));
    account.peek(asked(0, 16, 1), Uint8Array.of(0, 0));
    account.peek(asked(0, 16, 1), Uint8Array.of(0xff, 0xff));
    account.report(asked(0, 16, 1), Uint8Array.of(0, 0));
    expect(() => account.peek(asked(0, 16, 1), Uint8Array.of(1, 0))).toThrow(Deviation);
  });

  it('takes writes in the gap between two ranges, which a device may have merged, and none outside of both', () => {
    const account = accountOf(
      [
        [16, 32],
        [64, 80],
      ],
      1,
    );
    account.write(40n, 1);
    account.write(100n, 1);
    const gap = new Uint8Array(16);
    gap[5] = 1;
    account.peek(asked(0, 128, 1), gap);
    const outside = new Uint8Array(16);
    outside[12] = 1 << 4;
    expect(() => account.peek(asked(0, 128, 1), outside)).toThrow('bit 100 ');
  });

  it('logs everything where there are no ranges', () => {
    const account = new ExpectedLog([], 1n);
    account.write((1n << 63n) + 5n, 1);
    expect(() => account.peek({ iova: 1n << 63n, length: 8n, pageSize: 1n }, Uint8Array.of(0))).toThrow(Deviation);
  });
});

function accountOf(logged: readonly (readonly [number, number])[], pageSize: number): ExpectedLog {
  const list = logged.map(([start, end]) => ({ iova: BigInt(start), length: BigInt(end - start) }));
  return new ExpectedLog(list, BigInt(pageSize));
}

describe('bits', () => {
  it('are counted from the lowest of the first byte, and there are none beyond the end', () => {
    const bitmap = Uint8Array.of(0x01, 0x80);
    expect([...setBits(bitmap)]).toEqual([0, 15]);
    expect([0, 1, 15, 16, 1000].map(bit => isSet(bitmap, bit))).toEqual([true, false, true, false, false]);
  });
});
