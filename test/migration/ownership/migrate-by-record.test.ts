import { afterEach, describe, expect, it } from 'vitest';
import { isRunning } from '../../../src/device/index.js';
import {
  type CompareAndSetResult,
  claimOwnership,
  FileOwnershipStore,
  type MigrationReport,
  type Ownership,
  type OwnershipRecord,
  type OwnershipStore,
} from '../../../src/migration/index.js';
import { MigrationState, VfioError } from '../../../src/uapi/index.js';
import { temporaryFolder } from '../../native/helpers.js';
import { type Host, hashOf, move as moveMachine, tamperedLink, twoHosts } from '../two-hosts.js';
import { newMachine } from './store-rules.js';

const PAGES = 20;
const path = temporaryFolder();
const store = new FileOwnershipStore(path('records'));

type Hosts = Awaited<ReturnType<typeof twoHosts>>;
const opened: Hosts[] = [];
afterEach(async () => {
  for (const hosts of opened.splice(0)) await hosts.close();
});

/** Whether it converges is another matter, and a question of how busy the host is. */
function move(hosts: Hosts, options: Parameters<typeof moveMachine>[1]) {
  return moveMachine(hosts, { downtimeLimitMs: 60_000, ...options });
}

async function pair(): Promise<Hosts> {
  const hosts = await twoHosts(PAGES);
  opened.push(hosts);
  return hosts;
}

/** Both sides of a machine's ownership; the first is its owner. */
async function sides(stores: { a?: OwnershipStore; b?: OwnershipStore } = {}): Promise<{ a: Ownership; b: Ownership }> {
  const machine = newMachine();
  await claimOwnership({ store, machine, self: 'a' });
  return {
    a: { store: stores.a ?? store, machine, self: 'a' },
    b: { store: stores.b ?? store, machine, self: 'b' },
  };
}

/** Where the machine runs: the destination's device was RUNNING while it was blank too, so its receiver must have said that the machine came. */
function whereItRuns(hosts: Hosts, refusal: unknown): string[] {
  const runs = ({ device }: Host) => isRunning(device.migration!.state) && device.runs;
  return [
    ...(runs(hosts.source) ? ['source'] : []),
    ...(runs(hosts.destination) && refusal === undefined ? ['destination'] : []),
  ];
}

/** A store behind which a test decides what becomes of a request. */
function storeWith(
  compareAndSet: (expected: OwnershipRecord | undefined, next: OwnershipRecord) => Promise<CompareAndSetResult>,
): OwnershipStore {
  return { name: 'a store behind a bad network', read: machine => store.read(machine), compareAndSet };
}

const lost = new VfioError('ETIMEDOUT', { operation: 'test', message: 'no answer' });

describe('a migration with an ownership record', () => {
  it('ends with the destination in the record, at the next epoch', async () => {
    const hosts = await pair();
    const { a, b } = await sides();
    const { report, refusal } = await move(hosts, { ownership: a, receive: { ownership: b }, verify: 'abort' });
    expect(report).toMatchObject({ outcome: 'moved', runningAt: 'destination', verified: true, error: undefined });
    expect(refusal).toBeUndefined();
    expect(await store.read(a.machine)).toMatchObject({ owner: 'b', epoch: 2 });
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('records a machine that nobody has recorded as the source', async () => {
    const hosts = await pair();
    const machine = newMachine();
    const [a, b] = [
      { store, machine, self: 'a' },
      { store, machine, self: 'b' },
    ];
    await move(hosts, { ownership: a, receive: { ownership: b } });
    expect(await store.read(machine)).toMatchObject({ owner: 'b', epoch: 2 });
  });

  it('runs at exactly one place, the one in the record, wherever the link is cut, in either direction', async () => {
    const lengths = await streamLengths();
    const cuts = [
      ...places(lengths.there).map(place => ({ there: place, back: Number.POSITIVE_INFINITY })),
      ...places(lengths.back).map(place => ({ there: Number.POSITIVE_INFINITY, back: place })),
    ];
    const ends = new Set<string>();
    for (const { there, back } of cuts) {
      const hosts = await twoHosts(PAGES);
      const { a, b } = await sides();
      const { report, refusal } = await move(hosts, {
        ownership: a,
        receive: { ownership: b },
        timeoutMs: 1000,
        through: to => tamperedLink(to, cutAt(there), cutAt(back)),
      });
      const where = `cut at ${there} there, ${back} back`;
      const owner = (await store.read(a.machine))!.owner === 'a' ? 'source' : 'destination';
      expect(whereItRuns(hosts, refusal), where).toEqual([owner]);
      expect(report.runningAt, where).toBe(owner);
      expect(report.outcome, where).toBe(owner === 'source' ? 'failed' : 'moved');
      if (owner === 'source') expect(report.error, where).toBeInstanceOf(VfioError);
      ends.add(owner);
      await hosts.close();
    }
    expect([...ends].sort()).toEqual(['destination', 'source']);
  });

  it.each([
    ['done', 'moved', 'destination'],
    ['dropped', 'failed', 'source'],
  ])("asks the source when the destination's request is not answered: %s", async (fate, outcome, runningAt) => {
    const hosts = await pair();
    let requests = 0;
    const bad = storeWith(async (expected, next) => {
      if (requests++ === 0 && fate === 'done') await store.compareAndSet(expected, next);
      return { outcome: 'unknown', error: lost };
    });
    const { a, b } = await sides({ b: bad });
    const { report, refusal } = await move(hosts, { ownership: a, receive: { ownership: b } });
    expect(report).toMatchObject({ outcome, runningAt });
    expect(whereItRuns(hosts, refusal)).toEqual([runningAt]);
  });

  it('stays at the source when the destination surely cannot write the record', async () => {
    const hosts = await pair();
    const refusing = storeWith(async () => ({
      outcome: 'not-set',
      error: new VfioError('ENOSPC', { operation: 'test', message: 'the disk is full' }),
    }));
    const { a, b } = await sides({ b: refusing });
    const { report, refusal } = await move(hosts, { ownership: a, receive: { ownership: b } });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', phase: 'switch' });
    expect(report.error!.message).toContain('the disk is full');
    expect(refusal).toMatchObject({ errno: 'ENOSPC' });
    expect(whereItRuns(hosts, refusal)).toEqual(['source']);
    expect(await store.read(a.machine)).toMatchObject({ owner: 'a', epoch: 1 });
  });

  it('stays stopped at both ends while nobody can ask the store, until the caller gives up', async () => {
    const hosts = await pair();
    const silent = storeWith(async () => ({ outcome: 'unknown', error: lost }));
    const { a, b } = await sides({ a: silent, b: silent });
    const controller = new AbortController();
    let asked = 0;
    silent.compareAndSet = async () => {
      if (asked++ === 4) controller.abort();
      return { outcome: 'unknown', error: lost };
    };
    const { report, refusal } = await move(hosts, {
      ownership: a,
      receive: { ownership: b },
      signal: controller.signal,
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'unknown', error: { errno: 'ETIMEDOUT' } });
    expect(refusal).toBeInstanceOf(VfioError);
    expect(whereItRuns(hosts, refusal)).toEqual([]);
  });

  it('does not stop the machine for a store that has gone away meanwhile', async () => {
    const hosts = await pair();
    let reads = 0;
    const leaving: OwnershipStore = {
      name: 'leaving',
      compareAndSet: (expected, next) => store.compareAndSet(expected, next),
      async read(machine) {
        if (reads++ > 0) throw new VfioError('ECONNREFUSED', { operation: 'test' });
        return store.read(machine);
      },
    };
    const { a, b } = await sides({ a: leaving });
    const { report } = await move(hosts, { ownership: a, receive: { ownership: b } });
    expect(report).toMatchObject({ phase: 'pre-copy', runningAt: 'source', error: { errno: 'ECONNREFUSED' } });
  });

  it('does not take what was claimed anew at the source while it migrated', async () => {
    const hosts = await pair();
    const { a, b } = await sides();
    const { report, refusal } = await move(hosts, {
      ownership: a,
      receive: {
        ownership: {
          ...b,
          store: storeWith(async (expected, next) => {
            await claimOwnership(a);
            return store.compareAndSet(expected, next);
          }),
        },
      },
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    expect(refusal).toMatchObject({ errno: 'ESTALE' });
  });

  it('says that it failed, and does not run it at the source, when the destination has it and its device does not start', async () => {
    const hosts = await pair();
    hosts.destination.device['onRun'] = () => {
      throw new Error('broken hardware');
    };
    const { a, b } = await sides();
    const { report, refusal } = await move(hosts, { ownership: a, receive: { ownership: b } });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'unknown', error: { errno: 'ECONNABORTED' } });
    expect(whereItRuns(hosts, refusal)).toEqual([]);
    expect(await store.read(a.machine)).toMatchObject({ owner: 'b' });
  });
});

describe('before anything moves, a migration is refused', () => {
  async function refused(a: Ownership | undefined, b: Ownership | undefined): Promise<MigrationReport> {
    const hosts = await pair();
    const { report } = await move(hosts, {
      ...(a && { ownership: a }),
      receive: { ...(b && { ownership: b }), timeoutMs: 1000 },
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', phase: 'connect' });
    expect(hosts.source.device.migration!.state).toBe(MigrationState.RUNNING);
    return report;
  }

  it('when the machine is somebody else’s', async () => {
    const { a, b } = await sides();
    const report = await refused({ ...a, self: 'c' }, b);
    expect(report.error).toMatchObject({ errno: 'EPERM', field: 'owner' });
    expect(report.error!.message).toContain('belongs to a at epoch 1, not to c');
  });

  it('when the two ends have stores of their own', async () => {
    const { a, b } = await sides();
    const other = new FileOwnershipStore(path('other'));
    await claimOwnership({ ...a, store: other });
    const report = await refused(a, { ...b, store: other });
    expect(report.error!.message).toMatch(/ownership: here .*belongs to a at epoch 1.*at the other end/);
    expect(await store.read(a.machine)).toMatchObject({ owner: 'a', epoch: 1 });
  });

  it('when only one end has a record, or both have one name', async () => {
    const { a, b } = await sides();
    expect((await refused(a, undefined)).error!.message).toContain('no ownership is asked for');
    expect((await refused(undefined, b)).error!.message).toContain('no ownership is asked for');
    expect((await refused(a, { ...b, self: 'a' })).error!.message).toContain('both ends are called a');
  });
});

function cutAt(place: number) {
  return (piece: Buffer, offset: number) => (offset + piece.length > place ? undefined : piece);
}

async function streamLengths(): Promise<{ there: number; back: number }> {
  const hosts = await twoHosts(PAGES);
  const { a, b } = await sides();
  const lengths = { there: 0, back: 0 };
  const measure = (way: 'there' | 'back') => (piece: Buffer, offset: number) => {
    lengths[way] = offset + piece.length;
    return piece;
  };
  const through = (to: { host: string; port: number }) => tamperedLink(to, measure('there'), measure('back'));
  await move(hosts, { ownership: a, receive: { ownership: b }, through });
  await hosts.close();
  return lengths;
}

/** Some in the middle, and around the last frames: those of the switch. */
function places(length: number): number[] {
  const middle = Array.from({ length: 6 }, (_, index) => Math.floor((length * index) / 6));
  return [...new Set([...middle, length - 73, length - 49, length - 48, length - 25, length - 24, length - 1])].filter(
    place => place >= 0,
  );
}
