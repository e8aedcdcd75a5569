import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CpuWorkload, settingsOf } from '../../../src/devices/guest-cpus/cpu-workload.js';
import {
  type CpusState,
  cpusStateSize,
  decodeCpusState,
  encodeCpusState,
} from '../../../src/devices/guest-cpus/cpus-state.js';
import { createPageOrder, noCounters } from '../../../src/devices/workload/index.js';
import { VfioError } from '../../../src/uapi/index.js';

const PAGE = 4096;
const cpuCount = fc.integer({ min: 1, max: 4 });

function stateOf(cpus: number, pages: number, written: readonly number[], changes: Partial<CpuWorkload>): CpusState {
  const workload: CpuWorkload = {
    kind: 'uniform',
    base: 0x10_0000,
    length: (cpus + pages) * PAGE,
    rate: 1000.5,
    seed: 77,
    exponent: 1,
    ...changes,
  };
  const progress = Array.from({ length: cpus }, (_, index) => {
    const settings = settingsOf(workload, cpus, index);
    const order = createPageOrder(settings);
    const generations = new Uint32Array(settings.pages);
    for (const generation of written) generations[order.next()] = generation;
    return { order: order.save(), generations, counters: { ...noCounters(), pagesWritten: written.length } };
  });
  return { workload, started: true, progress };
}

const everywhere = () => true;

describe('the state of CPUs', () => {
  it('is the same when it was encoded and decoded, and has the size that was told', () => {
    const arguments_ = fc.record({
      cpus: cpuCount,
      pages: fc.nat(40),
      written: fc.array(fc.nat(2 ** 32 - 1), { maxLength: 60 }),
      kind: fc.constantFrom('sequential' as const, 'uniform' as const, 'hot-set' as const),
      seed: fc.nat(2 ** 32 - 1),
    });
    fc.assert(
      fc.property(arguments_, fc.boolean(), ({ cpus, pages, written, ...changes }, started) => {
        const state = { ...stateOf(cpus, pages, written, changes), started };
        const bytes = encodeCpusState(cpus, state);
        expect(bytes.length).toBe(cpusStateSize(state));
        expect(decodeCpusState(bytes, cpus, everywhere)).toEqual(state);
      }),
    );
    expect(decodeCpusState(encodeCpusState(2, undefined), 2, everywhere)).toBeUndefined();
    expect(encodeCpusState(2, undefined)).toHaveLength(cpusStateSize(undefined));
  });

  it('is refused when it is cut off anywhere, or goes on', () => {
    const bytes = encodeCpusState(2, stateOf(2, 10, [1, 2, 3], {}));
    for (let length = 0; length < bytes.length; length++) {
      expect(() => decodeCpusState(bytes.subarray(0, length), 2, everywhere), `${length}`).toThrow('EINVAL');
    }
    expect(() => decodeCpusState(Buffer.concat([bytes, Buffer.alloc(1)]), 2, everywhere)).toThrow('EINVAL');
  });

  it('is valid or refused with EINVAL, whatever is in it', () => {
    const bytes = encodeCpusState(2, stateOf(2, 10, [1, 2, 3], {}));
    const change = fc.record({ at: fc.nat(bytes.length - 1), value: fc.nat(255) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), changes => {
        const changed = Uint8Array.from(bytes);
        for (const { at, value } of changes) changed[at] = value;
        let state: CpusState | undefined;
        try {
          state = decodeCpusState(changed, 2, ({ length }) => length <= 12 * PAGE);
        } catch (error) {
          expect(error).toBeInstanceOf(VfioError);
          expect(error).toMatchObject({ errno: 'EINVAL' });
          return;
        }
        if (state !== undefined) expect(encodeCpusState(2, state).length).toBe(cpusStateSize(state));
      }),
      { numRuns: 5000 },
    );
  });

  it('is refused for memory that is not there before any of it is taken', () => {
    const bytes = encodeCpusState(1, stateOf(1, 4, [], {}));
    expect(() => decodeCpusState(bytes, 1, () => false)).toThrow('not in the memory');
    expect(() => decodeCpusState(bytes, 2, everywhere)).toThrow('of 1 CPUs, here are 2');
  });
});
