import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  EtcdOwnershipStore,
  FileOwnershipStore,
  FrameParser,
  FrameType,
  type OwnershipStore,
} from '../../../src/migration/index.js';
import { temporaryFolder } from '../../native/helpers.js';
import { tamperedLink } from '../two-hosts.js';
import { EtcdServer } from './etcd-server.js';
import { randomFrom, seedOfRun } from './seed.js';
import { newMachine } from './store-rules.js';

const script = fileURLToPath(new URL('side.mjs', import.meta.url));
const path = temporaryFolder();

type Role = 'source' | 'destination';
type End = { outcome: string; runs: boolean } | 'killed';

/** A process that is one end of a migration. */
class Side {
  readonly #child: ChildProcess;
  readonly #end: Promise<End>;
  #endWith: (end: End) => void = () => {};
  twice = false;
  onPhase: (phase: string) => void = () => {};
  readonly port: Promise<number>;

  /** @param parameters see side.mjs */
  constructor(role: Role, ...parameters: string[]) {
    this.#child = fork(script, [role, ...parameters]);
    this.#end = new Promise(resolve => {
      this.#endWith = resolve;
    });
    let portWith: (port: number) => void;
    this.port = new Promise(resolve => {
      portWith = resolve;
    });
    this.#child.on('message', (message: { port?: number; phase?: string; twice?: true; end?: End }) => {
      if (message.twice) this.twice = true;
      if (message.port !== undefined) portWith(message.port);
      if (message.phase !== undefined) this.onPhase(message.phase);
      if (message.end !== undefined) this.#endWith(message.end);
    });
    this.#child.once('exit', () => this.#endWith('killed'));
  }

  get end(): Promise<End> {
    return this.#end;
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}

/** What is done to a migration, and when. */
interface Fault {
  what: 'kill the source' | 'kill the destination' | 'cut the link' | 'freeze the store' | 'nothing';
  /** How far the source is then, and how much later. */
  phase: string;
  afterMs: number;
}

function anyFault(random: () => number): Fault {
  const oneOf = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const what = oneOf(['kill the source', 'kill the destination', 'cut the link', 'freeze the store'] as const);
  // Most is at stake at the switch.
  const phase = oneOf(['connect', 'pre-copy', 'stop-and-copy', 'switch', 'switch', 'switch'] as const);
  return { what, phase, afterMs: random() * 15 };
}

interface Place {
  store: OwnershipStore;
  /** For side.mjs. */
  at: string;
  freeze(): void;
  thaw(): void;
}

async function migrateWith(fault: Fault, { store, at, freeze, thaw }: Place) {
  const machine = newMachine();
  const running = path(`${machine}.running`);
  // A store that is slow on a busy machine is no fault; one that is frozen shall be noticed.
  const timeout = fault.what === 'freeze the store' ? '300' : '10000';
  const destination = new Side('destination', at, timeout, machine, running);
  // A destination that refuses, as with a store that is frozen, waits for the next source.
  let hasAgreed = false;
  const answers = new FrameParser();
  const link = await tamperedLink(
    { host: '127.0.0.1', port: await destination.port },
    piece => piece,
    piece => {
      for (const { type } of answers.push(piece)) hasAgreed ||= type === FrameType.HELLO;
      return piece;
    },
  );
  const source = new Side('source', at, timeout, machine, running, `${link.address.port}`);
  const faults: Record<Fault['what'], () => Promise<void>> = {
    'kill the source': () => source.kill(),
    'kill the destination': () => destination.kill(),
    'cut the link': () => link.close(),
    'freeze the store': async () => {
      freeze();
      await delay(1000);
      thaw();
    },
    nothing: async () => {},
  };
  let struck = Promise.resolve();
  let isStruck = false;
  source.onPhase = phase => {
    if (phase !== fault.phase || isStruck) return;
    isStruck = true;
    struck = delay(fault.afterMs).then(faults[fault.what]);
  };
  const endOfSource = await source.end;
  await struck;
  const endOfDestination: End = hasAgreed ? await destination.end : { outcome: 'waits', runs: false };
  const owner = (await store.read(machine))?.owner as Role | undefined;
  const twice = source.twice || destination.twice;
  await Promise.all([source.kill(), destination.kill(), link.close()]);
  return { owner, twice, ends: { source: endOfSource, destination: endOfDestination } };
}

function describePlace(name: string, place: () => Place, rounds: number): void {
  // Side by side: most of a round is waiting.
  describe.concurrent(`two processes with ${name}`, () => {
    it('move the machine when nothing happens', async () => {
      const { owner, ends } = await migrateWith({ what: 'nothing', phase: 'switch', afterMs: 0 }, place());
      expect({ owner, ...ends }).toMatchObject({
        owner: 'destination',
        source: { outcome: 'moved', runs: false },
        destination: { outcome: 'received', runs: true },
      });
    });

    it('leave the machine with its owner alone, whatever happens and when', { timeout: 300_000 }, async () => {
      const random = randomFrom(seedOfRun(name));
      for (let round = 0; round < rounds; round++) {
        const fault = anyFault(random);
        const { owner, twice, ends } = await migrateWith(fault, place());
        const where = `round ${round}, ${JSON.stringify(fault)}: ${owner}, ${JSON.stringify(ends)}`;
        expect(twice, where).toBe(false);
        expect(owner, where).toBeDefined();
        const other = owner === 'source' ? 'destination' : 'source';
        // An owner that was killed has taken its machine with it.
        const isKilled = fault.what === `kill the ${owner}` && ends[owner!] === 'killed';
        if (!isKilled) expect(ends[owner!], where).toMatchObject({ runs: true });
        if (ends[other] !== 'killed') expect(ends[other], where).toMatchObject({ runs: false });
      }
    });
  });
}

describePlace(
  'a record in a folder',
  () => ({ store: new FileOwnershipStore(path('records')), at: path('records'), freeze() {}, thaw() {} }),
  10,
);

let etcd: EtcdServer;
beforeAll(async () => {
  etcd = await EtcdServer.start();
}, 300_000);
afterAll(() => etcd.stop());

describePlace(
  'a record in etcd',
  () => ({
    store: new EtcdOwnershipStore({ endpoints: [etcd.endpoint] }),
    at: etcd.endpoint,
    freeze: () => etcd.freeze(),
    thaw: () => etcd.thaw(),
  }),
  10,
);
