import { join } from 'node:path';
import fc, { type Arbitrary } from 'fast-check';
import { GuestMemory } from '../src/memory/index.js';
import { createEventFd, type OwnedFd } from '../src/native/index.js';
import { MigrationState, VfioError } from '../src/uapi/index.js';
import { VfioUserClient, VfioUserServer } from '../src/vfio-user/index.js';
import { turn } from '../test/vfio-user/peer.js';
import { FuzzDevice } from './fuzz-device.js';
import type { HostileFiles } from './hostile-files.js';
import { anyChange, hostileMessage, payloadChange } from './hostile-messages.js';
import { Meddler, type Meddling } from './meddler.js';
import { resources, sameResources } from './resources.js';
import { within } from './within.js';

/*
 * One episode with a client: it talks to a device that behaves, through a meddler that changes, drops, doubles and invents what the server
 * says. Whatever that is, each call ends, with a result or a VfioError; nothing is left open; and of the guest's memory nothing changes
 * that the client has not mapped for the device.
 */

const SIZE = 0x10000;
/** Guest memory is mapped but for its first and last page. */
const HIDDEN = 0x1000;
const IOVA = 0x10000n;

/** What the client has to make calls with. */
interface Means {
  readonly client: VfioUserClient;
  readonly memory: GuestMemory;
  readonly interrupt: OwnedFd;
  readonly files: HostileFiles;
}

/** Calls by name: each method of the client at least once. */
const calls: Readonly<Record<string, (means: Means) => Promise<unknown>>> = {
  info: ({ client }) => client.info(),
  'region info': ({ client }) => client.getRegionInfo(0),
  'IRQ info': ({ client }) => client.getIrqInfo(2),
  map: ({ client, memory }) =>
    client.dmaMap(
      { iova: IOVA, length: BigInt(SIZE - 2 * HIDDEN), readable: true, writable: true },
      { fd: memory.fd, offset: BigInt(HIDDEN) },
    ),
  'map without a file': ({ client }) =>
    client.dmaMap({ iova: 0x100000n, length: 0x1000n, readable: true, writable: true }),
  lend: ({ client, memory }) =>
    client.dmaMap({ iova: 0x20000n, length: BigInt(SIZE - 2 * HIDDEN), readable: true, writable: true }, undefined, {
      bytes: memory,
      offset: HIDDEN,
    }),
  'unmap what was lent': ({ client }) => client.dmaUnmap(0x20000n, BigInt(SIZE - 2 * HIDDEN)),
  'unmap and report': ({ client }) => client.dmaUnmapDirty(IOVA, BigInt(SIZE), 4096n, new Uint32Array(2)),
  unmap: ({ client }) => client.dmaUnmap(IOVA, BigInt(SIZE)),
  'unmap all': ({ client }) => client.dmaUnmapAll(),
  triggers: ({ client, interrupt }) => client.setIrqTriggers(2, 0, [interrupt.fd, undefined, interrupt.fd]),
  'disable interrupts': ({ client }) => client.disableIrqs(2),
  'mask interrupts': ({ client }) => client.maskIrqs(0, 0, 1),
  read: ({ client }) => client.regionRead(0, 0, 64),
  'read one byte': ({ client }) => client.regionRead(7, 0, 1),
  write: ({ client }) => client.regionWrite(0, 0, new Uint8Array(12)),
  'write much': ({ client }) => client.regionWrite(0, 0x40, new Uint8Array(2048)),
  'DMA by the device': ({ client }) => client.regionWrite(0, 0x10, Uint8Array.of(1, 0, 0, 0)),
  'write without a reply': ({ client }) => client.regionPost(0, 0, new Uint8Array(12)),
  'write several': ({ client }) =>
    client.regionWriteMulti([0, 8].map(offset => ({ region: 0, offset, data: new Uint8Array(4) }))),
  'open a region': ({ client }) => client.openRegion(2).then(opened => opened?.file.close()),
  'map a region': async ({ client }) => {
    for (const area of await client.mapRegion(2)) area.close();
  },
  'descriptors of a region': async ({ client }) => {
    for (const { file, shadowFile } of await client.getRegionIoFds(0)) {
      file.close();
      shadowFile?.close();
    }
  },
  'report into a shared bitmap': async ({ client, files }) => {
    const bitmap = await client.attachBitmap(files.fd('sealed memory'), { size: 4096n });
    try {
      await client.reportShared(bitmap, { iova: IOVA, length: BigInt(SIZE), pageSize: 4096n });
    } finally {
      await client.detachBitmap(bitmap);
    }
  },
  statistics: ({ client }) => client.statistics(),
  'state data': ({ client }) => client.readMigrationData(4096),
  'more state data': ({ client }) => client.writeMigrationData(new Uint8Array(64)),
  reset: ({ client }) => client.reset(),
  logging: ({ client }) => client.features.hasLogging(),
  start: ({ client }) => client.features.startLogging(4096n, [{ iova: IOVA, length: BigInt(SIZE) }]),
  report: ({ client }) =>
    client.features.report({ iova: IOVA, length: BigInt(SIZE), pageSize: 4096n }, new Uint32Array(2)),
  stop: ({ client }) => client.features.stopLogging(),
  'migration flags': ({ client }) => client.features.migrationFlags(),
  state: ({ client }) => client.features.migrationState(),
  'next state': ({ client }) => client.features.setMigrationState(MigrationState.STOP),
  'state size': ({ client }) => client.features.migrationDataSize(),
};

const meddling: Arbitrary<Meddling> = fc.oneof(
  { weight: 12, arbitrary: fc.constant({ kind: 'pass' as const }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('change' as const),
      change: fc.oneof(payloadChange, payloadChange, anyChange),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: 'drop' as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'twice' as const }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('before it' as const), message: hostileMessage }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('instead' as const), message: hostileMessage }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'half, then the end' as const }) },
);

/** Calls in groups that are made at once, and what is done to the server's messages, VERSION's reply first. */
export interface Trouble {
  readonly groups: readonly (readonly string[])[];
  readonly meddlings: readonly Meddling[];
}

export const trouble: Arbitrary<Trouble> = fc.record({
  groups: fc.array(fc.array(fc.constantFrom(...Object.keys(calls)), { minLength: 1, maxLength: 6 }), {
    minLength: 1,
    maxLength: 20,
    size: 'max',
  }),
  meddlings: fc
    .tuple(
      // Most agree on a version: without it there is no client.
      fc.oneof({ weight: 6, arbitrary: fc.constant<Meddling>({ kind: 'pass' }) }, { weight: 1, arbitrary: meddling }),
      fc.array(meddling, { maxLength: 60, size: 'max' }),
    )
    .map(([first, others]) => [first, ...others]),
});

/** How long what waits for nobody may take, milliseconds. */
const PATIENCE_MS = 2000;

let episodes = 0;

/** Plays an episode. @returns how many messages the client was sent. @throws Error what was found */
export async function playTrouble(
  { groups, meddlings }: Trouble,
  files: HostileFiles,
  folder: string,
): Promise<number> {
  const name = join(folder, `trouble-${++episodes}`);
  const before = resources();
  const device = new FuzzDevice();
  const server = await VfioUserServer.listen(device, { path: `${name}-server` });
  const meddler = new Meddler(name, `${name}-server`, files, meddlings);
  const memory = GuestMemory.create(SIZE);
  const interrupt = createEventFd();
  try {
    const client = await attempt(VfioUserClient.connect(name), meddler);
    if (client === undefined) return meddler.messages;
    for (const group of groups) {
      const made = group.map(call => calls[call]!({ client, memory, interrupt, files }));
      await attempt(Promise.all(made.map(vfioErrorsOnly)), meddler);
      if (client.closed) break;
    }
    await client.close();
    requireUntouched(memory);
    return meddler.messages;
  } finally {
    meddler.close();
    memory.close();
    interrupt.close();
    await within(server.close(), PATIENCE_MS, 'closing the server');
    device.close();
    await untilSame(before);
  }
}

/** How many turns of the event loop nothing may come before the meddler leaves both: a reply that it dropped comes never. */
const SILENCE = 8;
/** Whatever is meddled with, a call has ended by then, milliseconds. */
const CALL_MS = 5000;

/** Moves bytes until a promise is settled. @returns its value; `undefined` for one that a VfioError rejects. */
async function attempt<T>(promise: Promise<T>, meddler: Meddler): Promise<T | undefined> {
  let settled = false;
  const result = vfioErrorsOnly(promise).finally(() => {
    settled = true;
  });
  const deadline = performance.now() + CALL_MS;
  for (let silent = 0, seen = meddler.messages; !settled; silent++) {
    meddler.move();
    await turn();
    if (meddler.messages !== seen) {
      seen = meddler.messages;
      silent = 0;
    }
    if (silent > SILENCE) meddler.end();
    if (performance.now() > deadline) throw new Error('a call does not end, although the connection has');
  }
  return result;
}

/** @returns `undefined` for a VfioError. @throws any other error: nothing that a peer says may lead to one. */
async function vfioErrorsOnly<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof VfioError) return undefined;
    throw error;
  }
}

/** @throws Error when a page that the client has mapped for nobody was written. */
function requireUntouched(memory: GuestMemory): void {
  for (const offset of [0, SIZE - HIDDEN]) {
    if (memory.view(offset, HIDDEN).some(byte => byte !== 0))
      throw new Error(`memory at ${offset} was not mapped, and was written`);
  }
}

async function untilSame(before: { fds: number; mappings: number }): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!sameResources(before)) {
    if (performance.now() > deadline) {
      throw new Error(`something is left: ${JSON.stringify(resources())}, before ${JSON.stringify(before)}`);
    }
    await turn();
  }
}
