import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createPageOrder } from '../../src/devices/workload/page-order.js';
import { WorkloadKind } from '../../src/devices/workload/workload-kind.js';
import type { WorkloadSettings } from '../../src/devices/workload/workload-settings.js';

function settingsOf(changes: Partial<WorkloadSettings>): WorkloadSettings {
  return { kind: 0, pageSize: 4096, base: 0, pages: 100, seed: 1, exponent: 1, rings: 4, burst: 8, ...changes };
}

function take(settings: WorkloadSettings, count: number): number[] {
  const order = createPageOrder(settings);
  return Array.from({ length: count }, () => order.next());
}

const anySettings: fc.Arbitrary<WorkloadSettings> = fc.record({
  kind: fc.constantFrom(...Object.values(WorkloadKind)),
  pageSize: fc.constant(4096),
  base: fc.constant(0),
  pages: fc.integer({ min: 256, max: 5000 }),
  seed: fc.nat(0xffff_ffff),
  exponent: fc.nat(8 * 65536).map(fixed => fixed / 65536),
  rings: fc.integer({ min: 1, max: 256 }),
  burst: fc.integer({ min: 1, max: 100 }),
});

describe('page orders', () => {
  test('sequential: each page in turn, and from the start again', () => {
    expect(take(settingsOf({ pages: 3 }), 7)).toEqual([0, 1, 2, 0, 1, 2, 0]);
  });

  test('uniform: every page is reached, none much more often than another', () => {
    const counts = new Map<number, number>();
    for (const page of take(settingsOf({ kind: WorkloadKind.UNIFORM }), 50_000)) {
      counts.set(page, (counts.get(page) ?? 0) + 1);
    }
    expect(counts.size).toBe(100);
    for (const count of counts.values()) expect(Math.abs(count - 500)).toBeLessThan(150);
  });

  test('hot set: ten of a hundred pages get more than half of the writes, and are strewn over the area', () => {
    const counts = Array.from({ length: 100 }, () => 0);
    for (const page of take(settingsOf({ kind: WorkloadKind.HOT_SET }), 50_000)) counts[page]!++;
    const hot = counts.map((count, page) => ({ count, page })).sort((a, b) => b.count - a.count);
    const share = hot.slice(0, 10).reduce((sum, { count }) => sum + count, 0) / 50_000;
    // Exactly: H(10) / H(100) = 2.929 / 5.187 = 0.565.
    expect(Math.abs(share - 0.565)).toBeLessThan(0.02);
    const places = hot
      .slice(0, 10)
      .map(({ page }) => page)
      .sort((a, b) => a - b);
    for (const [index, page] of places.entries()) expect(page - (places[index - 1] ?? -100)).toBeGreaterThan(1);
  });

  test('hot set: every page has exactly one rank, whatever the number of pages', () => {
    // With exponent 0 all ranks are alike, so each page must come.
    for (const pages of [1, 2, 3, 5, 8, 64, 100, 127]) {
      const seen = new Set(take(settingsOf({ kind: WorkloadKind.HOT_SET, exponent: 0, pages }), pages * 40));
      expect(seen.size).toBe(pages);
    }
  });

  test('rings: bursts of at most the set length fill one ring in order, and it goes round', () => {
    const settings = settingsOf({ kind: WorkloadKind.RINGS, pages: 43, rings: 4, burst: 5 });
    const next = [0, 0, 0, 0];
    const bursts = Array.from({ length: 4 }, () => 0);
    let [ring, length] = [-1, 0];
    for (const page of take(settings, 5000)) {
      const at = Math.floor(page / 10);
      expect(at).toBeLessThan(4);
      expect(page % 10).toBe(next[at]);
      next[at] = (next[at]! + 1) % 10;
      length = at === ring ? length + 1 : 1;
      if (length === 1) bursts[at]!++;
      ring = at;
    }
    for (const count of bursts) expect(count).toBeGreaterThan(250);
  });

  test('rings: with bursts of one, no ring is favoured', () => {
    const counts = [0, 0];
    for (const page of take(settingsOf({ kind: WorkloadKind.RINGS, rings: 2, burst: 1 }), 20_000)) {
      counts[page < 50 ? 0 : 1]!++;
    }
    expect(Math.abs(counts[0]! - 10_000)).toBeLessThan(400);
  });

  test('an order that is saved anywhere goes on with the same pages', () => {
    fc.assert(
      fc.property(anySettings, fc.nat(300), (settings, before) => {
        const order = createPageOrder(settings);
        for (let index = 0; index < before; index++) order.next();
        const copy = createPageOrder(settings, order.save());
        for (let index = 0; index < 100; index++) {
          const page = order.next();
          expect(page < settings.pages && page >= 0 && Number.isInteger(page)).toBe(true);
          expect(copy.next()).toBe(page);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('another seed gives another order', () => {
    for (const kind of [WorkloadKind.UNIFORM, WorkloadKind.HOT_SET, WorkloadKind.RINGS]) {
      expect(take(settingsOf({ kind, seed: 1 }), 50)).not.toEqual(take(settingsOf({ kind, seed: 2 }), 50));
    }
  });

  test('saved words that no order gives are EINVAL', () => {
    const rings = settingsOf({ kind: WorkloadKind.RINGS, pages: 8, rings: 2, burst: 3 });
    const good = Uint32Array.of(1, 2, 3, 4, 1, 2, 3, 3);
    expect(() => createPageOrder(rings, good)).not.toThrow();
    const changed = (index: number, value: number) => good.map((word, at) => (at === index ? value : word));
    const bad: [WorkloadSettings, Uint32Array][] = [
      [rings, good.subarray(0, 7)],
      [rings, Uint32Array.of(...good, 0)],
      [rings, changed(4, 2)],
      [rings, changed(5, 3)],
      [rings, changed(6, 4)],
      [rings, changed(7, 0xffff_ffff)],
      [rings, Uint32Array.of(0, 0, 0, 0, 1, 2, 3, 3)],
      [settingsOf({ pages: 5 }), Uint32Array.of(5)],
      [settingsOf({}), new Uint32Array(0)],
      [settingsOf({}), Uint32Array.of(0, 0)],
      [settingsOf({ kind: WorkloadKind.UNIFORM }), new Uint32Array(4)],
      [settingsOf({ kind: WorkloadKind.HOT_SET }), new Uint32Array(3)],
    ];
    for (const [settings, words] of bad) expect(() => createPageOrder(settings, words)).toThrow('EINVAL');
  });
});
