import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { firstRecord, type OwnershipRecord, type OwnershipStore, successor } from '../../../src/migration/index.js';

let machines = 0;

/** A machine that no test has used. */
export function newMachine(): string {
  return `vm-${process.pid}-${machines++}`;
}

/** What every store must do. @param open makes another store object on the same records, as another process would */
export function describeStore(open: () => OwnershipStore): void {
  describe('as every store', () => {
    it('has no record of a machine that nobody has recorded, and keeps the first that comes', async () => {
      const record = firstRecord(newMachine(), 'a');
      expect(await open().read(record.machine)).toBeUndefined();
      expect(await open().compareAndSet(undefined, record)).toEqual({ outcome: 'set' });
      expect(await open().read(record.machine)).toEqual(record);
    });

    it('replaces a record only where the very one that is expected is, and else shows what is there', async () => {
      const store = open();
      const record = firstRecord(newMachine(), 'a');
      const twin = firstRecord(record.machine, 'a');
      const next = successor(record, 'b');
      const conflict = { outcome: 'conflict', current: undefined };
      expect(await store.compareAndSet(record, next)).toEqual(conflict);
      await store.compareAndSet(undefined, record);
      expect(await store.compareAndSet(undefined, next)).toEqual({ outcome: 'conflict', current: record });
      expect(await store.compareAndSet(twin, next)).toEqual({ outcome: 'conflict', current: record });
      expect(await store.compareAndSet(record, next)).toEqual({ outcome: 'set' });
      expect(await store.compareAndSet(record, next)).toEqual({ outcome: 'conflict', current: next });
    });

    it('lets one of many that ask at once have it', async () => {
      const first = firstRecord(newMachine(), 'a');
      await open().compareAndSet(undefined, first);
      const wanted = Array.from({ length: 8 }, (_, index) => successor(first, `host-${index}`));
      const results = await Promise.all(wanted.map(next => open().compareAndSet(first, next)));
      const winners = wanted.filter((_, index) => results[index]!.outcome === 'set');
      expect(winners).toHaveLength(1);
      expect(await open().read(first.machine)).toEqual(winners[0]);
      for (const result of results) {
        if (result.outcome !== 'set') expect(result).toEqual({ outcome: 'conflict', current: winners[0] });
      }
    });

    it('does what a variable would do', async () => {
      const request = fc.record({ machine: fc.nat(1), owner: fc.constantFrom('a', 'b'), isStale: fc.boolean() });
      await fc.assert(
        fc.asyncProperty(fc.array(request, { maxLength: 12 }), async requests => {
          const store = open();
          const names = [newMachine(), newMachine()];
          const model: (OwnershipRecord | undefined)[] = [undefined, undefined];
          for (const { machine, owner, isStale } of requests) {
            const current = model[machine];
            const next = current === undefined ? firstRecord(names[machine]!, owner) : successor(current, owner);
            const expected = isStale ? successor(next, owner) : current;
            const result = await store.compareAndSet(expected, next);
            expect(result).toEqual(isStale ? { outcome: 'conflict', current } : { outcome: 'set' });
            if (!isStale) model[machine] = next;
            expect(await Promise.all(names.map(name => store.read(name)))).toEqual(model);
          }
        }),
        { numRuns: 20 },
      );
    });

    it.each(['', '../vm', 'a/b', '.hidden', 'x'.repeat(129), 'two words', 'line\n'])(
      'refuses the name %j',
      async machine => {
        await expect(open().read(machine)).rejects.toMatchObject({ errno: 'EINVAL', field: 'machine' });
      },
    );
  });
}
