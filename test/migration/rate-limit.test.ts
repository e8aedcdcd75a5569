import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RateLimit } from '../../src/migration/index.js';

describe('a rate limit', () => {
  it('holds the worked example: 30 ms of waiting after 50,000 bytes at once, of 1,000,000 a second', () => {
    expect(new RateLimit(1e6).spend(50_000, 0)).toBe(30);
  });

  it('lets in any 100 ms no more through than is due, what may be ahead, and one block', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1000, max: 1e9 }),
        fc.array(fc.record({ part: fc.double({ min: 0.01, max: 1, noNaN: true }), idleMs: fc.nat(50) }), {
          minLength: 20,
          maxLength: 200,
        }),
        (bytesPerSecond, blocks) => {
          const limit = new RateLimit(bytesPerSecond);
          const most = limit.pagesAtOnce * 4096;
          const sent: { at: number; bytes: number }[] = [];
          let now = 0;
          for (const { part, idleMs } of blocks) {
            const bytes = Math.ceil(most * part);
            sent.push({ at: now, bytes });
            now += limit.spend(bytes, now) + idleMs;
          }
          for (const { at: from } of sent) {
            const inWindow = sent.filter(({ at }) => at >= from && at < from + 100);
            const bytes = inWindow.reduce((sum, block) => sum + block.bytes, 0);
            expect(bytes).toBeLessThanOrEqual((bytesPerSecond * 120) / 1000 + most + 1);
          }
        },
      ),
    );
  });

  it('uses all of the rate when there is enough to send', () => {
    const limit = new RateLimit(10e6);
    let now = 0;
    for (let block = 0; block < 1000; block++) now += limit.spend(10_000, now);
    expect(now).toBeCloseTo(1000 - 20, 0);
  });

  it('makes blocks small on a slow link, and never empty', () => {
    expect(new RateLimit(4096 * 500).pagesAtOnce).toBe(10);
    expect(new RateLimit(1).pagesAtOnce).toBe(1);
    expect(new RateLimit(undefined).spend(1e12, 0)).toBe(0);
  });
});
