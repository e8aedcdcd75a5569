import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SharedRecorder } from '../../../src/log/index.js';
import { DirtySet, MarkedTracker } from '../../../src/tracker/index.js';
import { dirtyIovas } from './helpers.js';

const ranges = [
  { iova: 0n, length: 0xa0000n },
  { iova: 0x1_0000_0000n, length: 0x40000n },
];

async function collect(tracker: MarkedTracker, pageSize = 4096n) {
  const dirty = new DirtySet(ranges, pageSize);
  expect(await tracker.collect(dirty)).toEqual([]);
  return dirtyIovas(dirty);
}

describe('MarkedTracker', () => {
  it('says what was marked since the last collect, by any thread, as a naive set of pages does', async () => {
    const tracker = new MarkedTracker(ranges);
    const recorders = [tracker.share(), tracker.share()].map(shared => SharedRecorder.attach(shared));
    await tracker.start(ranges);
    const iova = fc.oneof(fc.bigInt(0n, 0xb0000n), fc.bigInt(0xffff_f000n, 0x1_0005_0000n));
    const mark = fc.record({ by: fc.nat(2), iova, length: fc.nat(0x5000), asNumber: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.array(mark, { maxLength: 20 }), fc.constantFrom(4096n, 16384n), async (marks, pageSize) => {
        const expected = new DirtySet(ranges, pageSize);
        for (const { by, iova, length, asNumber } of marks) {
          const address = asNumber ? Number(iova) : iova;
          if (by === 2) tracker.mark(address, length);
          else recorders[by]!.record(address, length);
          expected.mark({ iova, length: BigInt(length) });
        }
        expect(await collect(tracker, pageSize)).toEqual(dirtyIovas(expected));
        expect(await collect(tracker, pageSize)).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });

  it('forgets at START what was marked before, and keeps taking marks while stopped', async () => {
    const tracker = new MarkedTracker(ranges);
    tracker.mark(0x1000, 1);
    await tracker.start(ranges);
    expect(await collect(tracker)).toEqual([]);
    tracker.mark(0x2000, 1);
    await tracker.stop();
    await tracker.stop();
    tracker.mark(0x3000, 1);
    await tracker.start(ranges);
    expect(await collect(tracker)).toEqual([]);
    tracker.mark(0x4000n, 1);
    expect(await collect(tracker)).toEqual([0x4000n]);
  });

  it('refuses a second START, which forgets nothing', async () => {
    const tracker = new MarkedTracker(ranges);
    await tracker.start(ranges);
    tracker.mark(0x5000, 1);
    await expect(tracker.start(ranges)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(await collect(tracker)).toEqual([0x5000n]);
  });

  it('marks everything when it is asked without START', async () => {
    const dirty = new DirtySet(ranges);
    await expect(new MarkedTracker(ranges).collect(dirty)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(dirty.count()).toBe(dirty.pages);
  });

  it('does not take ranges that cannot be marked', async () => {
    const tracker = new MarkedTracker(ranges);
    await expect(tracker.start([{ iova: 0n, length: 0xa1000n }])).rejects.toMatchObject({ errno: 'EINVAL' });
    await tracker.start([{ iova: 0x1000n, length: 0x1000n }]);
  });
});
