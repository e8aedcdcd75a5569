import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { isRunning } from '../../src/device/index.js';
import { backingFor, GuestMemory } from '../../src/memory/index.js';
import { MachineMemory, type MigrateOptions, MigrationReceiver, migrate } from '../../src/migration/index.js';
import {
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  type PrecopyInfo,
} from '../../src/uapi/index.js';
import { WriterDevice } from '../tracker/writer-device.js';
import { type Fault, type FaultKind, FaultyDevice } from './faulty-device.js';

const PAGES = 8;
const abilities = [0, MIGRATION_P2P, MIGRATION_PRE_COPY, MIGRATION_P2P | MIGRATION_PRE_COPY].map(
  flags => flags | MIGRATION_STOP_COPY,
);

const opened: { close(): Promise<void> | void }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

/** A device of its kind with a memory to share. */
function attach<Handle extends FaultyDevice>(
  memory: GuestMemory,
  migrationFlags: number,
  newHandle: (device: WriterDevice) => Handle,
) {
  const device = new WriterDevice({ migrationFlags });
  const region = { iova: 0n, length: memory.size, readable: true, writable: true };
  device.dma.map.map(region, backingFor(memory.duplicateFd(), 0n, memory.size, { read: true, write: true }));
  const handle = newHandle(device);
  opened.push(handle);
  return { device, handle };
}

/** One end of a migration with a device for each of `flags`. @param trace told every call of every device */
function machineOf(flags: readonly number[], trace: (line: string) => void) {
  const memory = GuestMemory.create(PAGES * 4096);
  opened.push(memory);
  const sides = flags.map((migrationFlags, index) =>
    attach(memory, migrationFlags, device => new FaultyDevice(device, line => trace(`${index} ${line}`))),
  );
  const slot = { iova: 0n, length: memory.size, memory };
  return { machine: new MachineMemory([slot]), sides, handles: sides.map(({ handle }) => handle) };
}

function twoMachines(flags: readonly number[]) {
  const trace = { source: [] as string[], destination: [] as string[] };
  const source = machineOf(flags, line => trace.source.push(line));
  const destination = machineOf(flags, line => trace.destination.push(line));
  for (const [index, { device }] of source.sides.entries()) device.state = Buffer.from(`state of device ${index}`);
  return { source, destination, trace };
}

type Ends = Pick<ReturnType<typeof twoMachines>, 'source' | 'destination'>;

async function move({ source, destination }: Ends, options: Partial<MigrateOptions> = {}) {
  const receiver = await MigrationReceiver.listen({
    memory: destination.machine,
    devices: destination.handles,
    timeoutMs: 3000,
  });
  const received = receiver.finished().then(
    () => undefined,
    (error: unknown) => error,
  );
  const report = await migrate({
    to: receiver.address,
    memory: source.machine,
    devices: source.handles,
    timeoutMs: 3000,
    // On a busy machine the first round trip alone may take longer than the default.
    downtimeLimitMs: 10_000,
    ...options,
  });
  const refusal = await received;
  await receiver.close();
  return { report, refusal };
}

function statesOf({ sides }: Ends['source']): MigrationState[] {
  return sides.map(({ device }) => device.migration!.state);
}

function has(flags: number, ability: number): boolean {
  return (flags & ability) !== 0;
}

/** Line numbers of a trace. */
function linesOf(trace: readonly string[], pattern: RegExp): number[] {
  return trace.flatMap((line, index) => (pattern.test(line) ? [index] : []));
}

function expectBefore(trace: readonly string[], first: RegExp, then: RegExp): void {
  const last = Math.max(-1, ...linesOf(trace, first));
  const next = Math.min(Number.POSITIVE_INFINITY, ...linesOf(trace, then));
  expect(last, `${first} before ${then} in\n${trace.join('\n')}`).toBeLessThan(next);
}

describe('several devices', () => {
  it('take no step before all have taken the one before, whoever answers late', async () => {
    const late = fc.record({
      call: fc.constantFrom('set STOP_COPY', 'set RUNNING', 'set RUNNING_P2P', 'set PRE_COPY_P2P'),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ flags: fc.constantFrom(...abilities), late: fc.option(late) }), {
          minLength: 1,
          maxLength: 4,
        }),
        async devices => {
          const ends = twoMachines(devices.map(({ flags }) => flags));
          for (const [index, { late }] of devices.entries()) {
            if (late === null) continue;
            ends.source.handles[index]!.faults.push({ ...late, kind: 'answers late', times: 1 });
            ends.destination.handles[index]!.faults.push({ ...late, kind: 'answers late', times: 1 });
          }
          const { report } = await move(ends);
          expect(report).toMatchObject({ outcome: 'moved', error: undefined });
          const { source, destination } = ends.trace;
          expectBefore(source, /_P2P is done/, /set STOP_COPY begins/);
          expect(linesOf(source, /_P2P is done/)).toHaveLength(
            devices.filter(({ flags }) => has(flags, MIGRATION_P2P)).length,
          );
          expectBefore(destination, /set RESUMING is done/, /write begins/);
          expectBefore(destination, /write is done/, /set STOP begins/);
          expectBefore(destination, /set STOP is done/, /set RUNNING(_P2P)? begins/);
          expectBefore(destination, /set RUNNING_P2P is done/, /set RUNNING begins/);
          for (const [index, { device }] of ends.destination.sides.entries()) {
            expect(Buffer.from(device.state).toString()).toBe(`state of device ${index}`);
          }
        },
      ),
      { numRuns: 25 },
    );
  });

  it('are each told in the report', async () => {
    const ends = twoMachines([MIGRATION_STOP_COPY, MIGRATION_STOP_COPY | MIGRATION_P2P]);
    const { report } = await move(ends);
    expect(report.devices.map(({ name }) => name)).toEqual(['local:writer', 'local:writer']);
    expect(report.devices.reduce((sum, { stateBytes }) => sum + stateBytes, 0)).toBe(report.stateBytes);
    for (const device of report.devices) {
      expect(device.stateBytes).toBeGreaterThan('state of device 0'.length);
      expect(device.stopMs).toBeGreaterThan(0);
      expect(device.stopMs).toBeLessThanOrEqual(report.downtimeMs);
      expect(device.error).toBeUndefined();
    }
  });

  it('go back in the reverse order when the machine runs on at the source', async () => {
    const all = MIGRATION_STOP_COPY | MIGRATION_P2P | MIGRATION_PRE_COPY;
    const ends = twoMachines([all, MIGRATION_STOP_COPY | MIGRATION_P2P, MIGRATION_STOP_COPY]);
    ends.destination.handles[1]!.faults.push({ call: 'set STOP', kind: 'refuses', times: 1 });
    ends.source.handles[0]!.faults.push({ call: 'set RUNNING_P2P', kind: 'answers late', times: 1 });
    const { report } = await move(ends);
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    const back = ends.trace.source.slice(Math.max(...linesOf(ends.trace.source, /read is done/)));
    expect(linesOf(back, /set RUNNING_P2P is done/)).toHaveLength(2);
    expectBefore(back, /set RUNNING_P2P is done/, /set RUNNING begins/);
    expect(statesOf(ends.source)).toEqual(ends.source.sides.map(() => MigrationState.RUNNING));
  });
});

/** How a migration ends, as a model says. */
interface Ending {
  outcome: 'moved' | 'failed';
  runningAt: 'source' | 'destination' | 'nowhere' | 'unknown';
}

interface Plan {
  flags: number[];
  side: 'source' | 'destination';
  device: number;
  fault: Fault;
  /** What goes wrong on the way back, at any device of the source. */
  back: { device: number; fault: Fault } | undefined;
}

/** Whether a machine's way there has this call for a device with these abilities. */
function isMade({ side, fault: { call } }: Plan, flags: number): boolean {
  const precopy = has(flags, MIGRATION_PRE_COPY);
  const p2p = has(flags, MIGRATION_P2P);
  if (side === 'destination') {
    if (call === 'set RUNNING_P2P') return p2p;
    return ['set RESUMING', 'write', 'set STOP', 'set RUNNING'].includes(call);
  }
  if (call === 'set PRE_COPY' || call === 'precopy info') return precopy;
  if (call === 'set PRE_COPY_P2P') return precopy && p2p;
  if (call === 'set RUNNING_P2P') return p2p && !precopy;
  return call === 'set STOP_COPY' || call === 'read';
}

/** @param mustGoBack whether the device that goes wrong on the way back had left RUNNING, which no failure in time takes away */
function endingOf(plan: Plan, mustGoBack: boolean): Ending {
  const { side, fault, back } = plan;
  if (!isMade(plan, plan.flags[plan.device]!) || fault.kind === 'answers late') {
    return { outcome: 'moved', runningAt: 'destination' };
  }
  if (side === 'destination' && ['set RUNNING_P2P', 'set RUNNING'].includes(fault.call)) {
    return { outcome: 'failed', runningAt: 'unknown' };
  }
  const broke = side === 'source' && fault.kind === 'breaks';
  const refusesForGood = back?.fault.kind === 'refuses' && back.fault.times > 1;
  const cannotGoBack = back?.fault.kind === 'breaks' || (refusesForGood && mustGoBack);
  return { outcome: 'failed', runningAt: broke || cannotGoBack ? 'nowhere' : 'source' };
}

const kinds: FaultKind[] = ['refuses', 'answers late', 'answers wrongly', 'breaks'];
const calls = ['set PRE_COPY', 'set PRE_COPY_P2P', 'set RUNNING_P2P', 'set STOP_COPY', 'read', 'precopy info'];
const callsThere = ['set RESUMING', 'write', 'set STOP', 'set RUNNING_P2P', 'set RUNNING'];

const plans: fc.Arbitrary<Plan> = fc.array(fc.constantFrom(...abilities), { minLength: 1, maxLength: 4 }).chain(flags =>
  fc.constantFrom<Plan['side'][]>('source', 'destination').chain(side =>
    fc.record({
      flags: fc.constant(flags),
      side: fc.constant(side),
      device: fc.nat(flags.length - 1),
      fault: fc.record({
        call: fc.constantFrom(...(side === 'source' ? calls : callsThere)),
        kind: fc.constantFrom(...kinds),
        times: fc.constant(1),
      }),
      back: fc.option(
        fc.record({
          device: fc.nat(flags.length - 1),
          fault: fc.record({
            call: fc.constant('set RUNNING'),
            kind: fc.constantFrom(...kinds),
            times: fc.constantFrom(1, 5),
          }),
        }),
        { nil: undefined },
      ),
    }),
  ),
);

describe('a device that fails', () => {
  it('leaves the machine whole at one place, or says that it is nowhere, as a model does', async () => {
    await fc.assert(
      fc.asyncProperty(plans, async plan => {
        const ends = twoMachines(plan.flags);
        ends[plan.side].handles[plan.device]!.faults.push({ ...plan.fault });
        if (plan.back !== undefined) ends.source.handles[plan.back.device]!.faults.push({ ...plan.back.fault });
        const { report, refusal } = await move(ends);
        const left = new RegExp(`^${plan.back?.device} set (PRE_COPY|PRE_COPY_P2P|RUNNING_P2P|STOP_COPY) is done`);
        const expected = endingOf(plan, linesOf(ends.trace.source, left).length > 0);
        expect({ outcome: report.outcome, runningAt: report.runningAt }).toEqual(expected);
        const here = statesOf(ends.source);
        if (expected.runningAt === 'source') {
          expect(here.every(state => state === MigrationState.RUNNING)).toBe(true);
          expect(ends.source.sides.every(({ device }) => device.runs)).toBe(true);
          expect(report.devices.every(({ error }) => error === undefined)).toBe(true);
        } else {
          expect(here.some(state => isRunning(state) || state === MigrationState.RUNNING_P2P)).toBe(false);
        }
        if (expected.runningAt === 'nowhere') {
          expect(report.devices.some(({ error }) => error !== undefined)).toBe(true);
        }
        expect(refusal === undefined).toBe(expected.outcome === 'moved');
        if (expected.outcome === 'moved') {
          expect(statesOf(ends.destination).every(state => state === MigrationState.RUNNING)).toBe(true);
        } else if (expected.runningAt !== 'unknown') {
          // As after a reset.
          expect(statesOf(ends.destination).every(state => state === MigrationState.RUNNING)).toBe(true);
        }
        for (const { device } of ends.source.sides) expect(device.dma.log.active).toBe(false);
      }),
      { numRuns: 150 },
    );
  });

  it('runs nowhere when it cannot take the first step back, and no other device runs without it', async () => {
    const p2p = MIGRATION_STOP_COPY | MIGRATION_P2P;
    const ends = twoMachines([p2p | MIGRATION_PRE_COPY, p2p]);
    ends.destination.handles[0]!.faults.push({ call: 'set STOP', kind: 'refuses', times: 1 });
    ends.source.handles[0]!.faults.push({ call: 'set RUNNING_P2P', kind: 'refuses', times: 5 });
    const { report } = await move(ends);
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'nowhere' });
    expect(report.devices.map(({ error }) => error?.message)).toEqual([
      expect.stringContaining('on purpose'),
      undefined,
    ]);
    expect(statesOf(ends.source)).toEqual([MigrationState.STOP, MigrationState.STOP]);
  });
});

/** At the source: a device that has initial data to offer, some at a time. Its destination takes as much away before the rest. */
class PrecopyDevice extends FaultyDevice {
  /** What it still has; pieces of no bytes are reads that come back empty. */
  offers: Uint8Array[] = [];
  /** Bytes of initial data that it takes as a destination. */
  dropped = 0;
  says: 'what is left' | 'nothing' = 'what is left';

  override async readMigrationData(limit: number): Promise<Uint8Array> {
    return this.offers.shift() ?? super.readMigrationData(limit);
  }

  override async writeMigrationData(data: Uint8Array): Promise<void> {
    if (data[0] === 0xee) this.dropped += data.length;
    else await super.writeMigrationData(data);
  }

  override async precopyInfo(): Promise<PrecopyInfo> {
    if (this.says === 'nothing') return undefined as never;
    const { initialBytes } = await super.precopyInfo();
    const left = this.offers.reduce((sum, piece) => sum + piece.length, 0);
    return { initialBytes: initialBytes + BigInt(left), dirtyBytes: 0n };
  }
}

describe('initial pre-copy data', () => {
  const flags = MIGRATION_STOP_COPY | MIGRATION_PRE_COPY | MIGRATION_P2P;

  function pair(offers: Uint8Array[], says: PrecopyDevice['says']) {
    const trace: string[] = [];
    const end = () => {
      const memory = GuestMemory.create(PAGES * 4096);
      opened.push(memory);
      const side = attach(memory, flags, device => new PrecopyDevice(device, line => note(line)));
      const machine = new MachineMemory([{ iova: 0n, length: memory.size, memory }]);
      return { machine, sides: [side], handles: [side.handle] };
    };
    const [source, destination] = [end(), end()];
    const note = (line: string) => {
      if (/set \w+_P2P begins/.test(line)) trace.push(`taken ${destination.handles[0]!.dropped}`);
    };
    source.handles[0]!.offers = offers;
    source.handles[0]!.says = says;
    return { source, destination, trace };
  }

  const piece = (bytes: number) => Buffer.alloc(bytes, 0xee);
  const nothing = new Uint8Array(0);

  it('is at the destination before the machine stops, however slowly the device offers it', async () => {
    const ends = pair([piece(100), nothing, piece(5000), nothing, nothing, piece(70), nothing], 'what is left');
    const { report } = await move(ends);
    expect(report).toMatchObject({ outcome: 'moved', error: undefined });
    expect(ends.trace[0]).toBe('taken 5170');
    expect(report.stateBytes).toBeGreaterThan(5170);
  });

  it('is all there, for a device that does not say, when a read comes back empty', async () => {
    const ends = pair([piece(100), piece(200), nothing], 'nothing');
    const { report } = await move(ends);
    expect(report.outcome).toBe('moved');
    expect(ends.trace[0]).toBe('taken 300');
  });

  it('that never comes ends with the machine at the source', async () => {
    const ends = pair([], 'what is left');
    ends.source.handles[0]!.precopyInfo = async () => ({ initialBytes: 1n, dirtyBytes: 0n });
    const { report } = await move(ends, { timeoutMs: 200 });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ETIMEDOUT' } });
    expect(report.error!.message).toContain('local:writer has more initial data');
    expect(statesOf(ends.source)).toEqual([MigrationState.RUNNING]);
  });

  it('can be given up while it is waited for', async () => {
    const ends = pair([], 'what is left');
    ends.source.handles[0]!.precopyInfo = async () => ({ initialBytes: 1n, dirtyBytes: 0n });
    const controller = new AbortController();
    const { report } = await move(ends, {
      signal: controller.signal,
      onEvent: event => {
        if (event.event === 'pass') setTimeout(() => controller.abort(), 20);
      },
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECANCELED' } });
  });
});
