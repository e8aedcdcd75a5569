import { join } from 'node:path';
import fc, { type Arbitrary } from 'fast-check';
import { GuestMemory } from '../src/memory/index.js';
import { connect, type OwnedFd } from '../src/native/index.js';
import { VfioError } from '../src/uapi/index.js';
import { VfioUserClient, VfioUserServer } from '../src/vfio-user/index.js';
import { message, QEMU_PROPOSAL, turn, until, versionPayload } from '../test/vfio-user/peer.js';
import { AuthorsMistake, FuzzDevice } from './fuzz-device.js';
import { FILE_SIZE, type HostileFiles } from './hostile-files.js';
import { FULL_PROPOSAL, type HostileMessage, hostileMessage, TRACKER_PROPOSAL } from './hostile-messages.js';
import { HostilePeer } from './hostile-peer.js';
import { LogWitness } from './log-witness.js';
import { type Resources, resources, sameResources } from './resources.js';
import { within } from './within.js';

/*
 * One episode with a server: a well-behaved client maps memory, starts logging and leaves; the device has written some pages. Then comes
 * the storm: up to three hostile clients at once. At its end everything of theirs must be gone, and the well-behaved client, come back,
 * must find every page that was written and that nobody has asked for, and a device that works.
 */

/** One thing that happens in a storm. `who` is one of the hostile clients. */
export type StormStep =
  | {
      readonly kind: 'send';
      readonly who: number;
      readonly message: HostileMessage;
      readonly cuts: readonly number[];
      /** Goes on with the connection when the message was none: nothing that follows is understood. */
      readonly insists: boolean;
    }
  | { readonly kind: 'read'; readonly who: number }
  | { readonly kind: 'leave'; readonly who: number }
  | { readonly kind: 'turn' }
  | { readonly kind: 'device writes'; readonly iova: bigint; readonly length: number }
  | { readonly kind: 'file gets'; readonly bytes: number };

const who = fc.oneof({ weight: 8, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.constantFrom(1, 2) });
const greetings = [
  QEMU_PROPOSAL,
  QEMU_PROPOSAL,
  FULL_PROPOSAL,
  FULL_PROPOSAL,
  FULL_PROPOSAL,
  TRACKER_PROPOSAL,
  'nothing',
];

const step: Arbitrary<StormStep> = fc.oneof(
  {
    weight: 40,
    arbitrary: fc.record({
      kind: fc.constant('send' as const),
      who,
      message: hostileMessage,
      insists: fc.boolean(),
      cuts: fc.oneof(
        { weight: 4, arbitrary: fc.constant<number[]>([]) },
        { weight: 1, arbitrary: fc.array(fc.nat(80), { maxLength: 2 }) },
      ),
    }),
  },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('read' as const), who }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('leave' as const), who }) },
  { weight: 8, arbitrary: fc.constant({ kind: 'turn' as const }) },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('device writes' as const),
      iova: fc.constantFrom(0x10000n, 0x10fffn, 0x11000n, 0n, 0x20000n, 0x100000n, 0x3ff000n),
      length: fc.constantFrom(1, 4096, 4097, 0x3000),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('file gets' as const), bytes: fc.constantFrom(0, 4096, FILE_SIZE) }),
  },
);

/** What happens, and how each connection that is made on the way begins: a proposal, or nothing at all. */
export interface Storm {
  readonly steps: readonly StormStep[];
  readonly greetings: readonly (string | 'nothing')[];
}

/** A storm of 1 to 60 steps, most of them messages. Most connections begin politely: before VERSION nothing else is served. */
export const storm: Arbitrary<Storm> = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 60, size: 'max' }),
  greetings: fc.array(fc.constantFrom(...greetings), { minLength: 5, maxLength: 5 }),
});

const LOGGED = 0x400000n;
const PAGE = 4096;
const GUEST = 0x200000n;
const GUEST_SIZE = 0x10000;

/** How long what waits for nobody may take, milliseconds. */
const PATIENCE_MS = 2000;

let episodes = 0;

/** Plays an episode. @returns how many messages were sent. @throws Error what was found */
export async function playStorm({ steps, greetings }: Storm, files: HostileFiles, folder: string): Promise<number> {
  const path = join(folder, `storm-${++episodes}`);
  const device = new FuzzDevice();
  const witness = new LogWitness(device);
  const errors: unknown[] = [];
  const server = await VfioUserServer.listen(device, { path, onError: error => errors.push(error) });
  try {
    await behave(path, device);
    const before = resources();
    const sent = await rage(path, { steps, greetings }, files, device);
    await untilLetGo(server, before);
    await findAllAsItWas(path, device, witness);
    const mistakes = errors.filter(error => !(error instanceof AuthorsMistake));
    if (mistakes.length > 0) throw new Error('the server told of an error', { cause: mistakes[0] });
    return sent;
  } finally {
    await within(server.close(), PATIENCE_MS, 'closing the server');
    device.close();
  }
}

async function untilLetGo(server: VfioUserServer, before: Resources): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (server.connected || !sameResources(before)) {
    if (performance.now() > deadline) {
      const now = JSON.stringify(resources());
      throw new Error(`of the hostile clients something is left: ${now}, before ${JSON.stringify(before)}`);
    }
    await turn();
  }
}

/** Logging is started, some pages are written, and the client is gone. */
async function behave(path: string, device: FuzzDevice): Promise<void> {
  const client = await VfioUserClient.connect(path, { timeoutMs: PATIENCE_MS });
  const memory = GuestMemory.create(GUEST_SIZE);
  try {
    await client.regionWrite(7, 4, Uint8Array.of(6, 0));
    await client.dmaMap(guestRegion, { fd: memory.fd });
    await client.features.startLogging(BigInt(PAGE), [{ iova: 0n, length: LOGGED }]);
    await device.dma.write(GUEST + 0x1000n, new Uint8Array(PAGE));
    await device.dma.write(GUEST + 0x4ff0n, new Uint8Array(32));
  } finally {
    await client.close();
    memory.close();
  }
  await until(() => device.dma.map.statistics.regions === 0, 'the client has left');
}

const guestRegion = { iova: GUEST, length: BigInt(GUEST_SIZE), readable: true, writable: true };

async function rage(
  path: string,
  { steps, greetings }: Storm,
  files: HostileFiles,
  device: FuzzDevice,
): Promise<number> {
  const peers = new Map<number, HostilePeer>();
  let opened = 0;
  const peerOf = async (index: number): Promise<HostilePeer> => {
    const known = peers.get(index);
    if (known !== undefined && !known.closed) return known;
    const peer = new HostilePeer(await connected(path));
    peers.set(index, peer);
    const greeting = greetings[opened++ % greetings.length]!;
    if (greeting !== 'nothing') await peer.send(message(1, versionPayload(greeting)), [], []);
    return peer;
  };
  let sent = 0;
  try {
    for (const each of steps) {
      if (each.kind === 'send') sent++;
      await take(each, peerOf, files, device);
    }
  } finally {
    for (const peer of peers.values()) peer.leave();
    files.resize(FILE_SIZE);
  }
  return sent;
}

/** The queue of a server that serves somebody else may be full of those who came and left. */
async function connected(path: string): Promise<OwnedFd> {
  for (;;) {
    try {
      return connect(path);
    } catch (error) {
      if (!(error instanceof VfioError && error.errno === 'EAGAIN')) throw error;
      await turn();
    }
  }
}

async function take(
  step: StormStep,
  peerOf: (index: number) => Promise<HostilePeer>,
  files: HostileFiles,
  device: FuzzDevice,
): Promise<void> {
  switch (step.kind) {
    case 'send': {
      const { bytes, files: kinds } = step.message;
      const fds = kinds.map(kind => files.fd(kind));
      const peer = await peerOf(step.who);
      await peer.send(bytes, fds, step.cuts);
      if (!isWhole(bytes) && !step.insists) {
        await turn();
        peer.leave();
      }
      break;
    }
    case 'read':
      (await peerOf(step.who)).read();
      break;
    case 'leave':
      (await peerOf(step.who)).leave();
      break;
    case 'turn':
      await turn();
      break;
    case 'device writes':
      // What was sent before is served first: accepted, received, and met by what the device does now.
      for (let turns = 0; turns < 3; turns++) await turn();
      writeByDma(device, step.iova, step.length);
      break;
    case 'file gets':
      files.resize(step.bytes);
  }
}

/** Whether a message is as long as its header says. */
function isWhole(bytes: Uint8Array): boolean {
  return bytes.length >= 16 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(4, true) === bytes.length;
}

/** The device works by itself, where it is let; a write by messages may end whenever it does. */
function writeByDma(device: FuzzDevice, iova: bigint, length: number): void {
  const expected = (error: unknown): void => {
    if (!(error instanceof VfioError)) throw error;
  };
  try {
    device.dma.write(iova, new Uint8Array(length).fill(0xd3))?.catch(expected);
  } catch (error) {
    expected(error);
  }
}

/** The well-behaved client again: nothing is lost, everything works. */
async function findAllAsItWas(path: string, device: FuzzDevice, witness: LogWitness): Promise<void> {
  const client = await VfioUserClient.connect(path, { timeoutMs: PATIENCE_MS });
  const memory = GuestMemory.create(GUEST_SIZE);
  try {
    if (device.dma.log.active) {
      const due = witness.dirtyPages.filter(page => page * BigInt(PAGE) < LOGGED);
      const reported = await dirtyPages(client);
      const lost = due.filter(page => !reported.has(Number(page)));
      if (lost.length > 0) throw new Error(`pages ${lost.join(', ')} are not in the report`);
      await client.features.stopLogging();
    }
    await client.reset();
    await client.regionWrite(7, 4, Uint8Array.of(6, 0));
    await client.dmaMap(guestRegion, { fd: memory.fd });
    await client.features.startLogging(BigInt(PAGE), [{ iova: 0n, length: LOGGED }]);
    await device.dma.write(GUEST, Uint8Array.of(1, 2, 3));
    const reported = [...(await dirtyPages(client))];
    if (reported.join() !== `${Number(GUEST) / PAGE}`) throw new Error(`after the storm, pages ${reported} are dirty`);
    if (witness.failures.length > 0) throw new Error(witness.failures.join('\n'));
  } finally {
    await client.close();
    memory.close();
  }
}

async function dirtyPages(client: VfioUserClient): Promise<Set<number>> {
  const bitmap = new Uint32Array(Number(LOGGED) / PAGE / 32);
  await client.features.report({ iova: 0n, length: LOGGED, pageSize: BigInt(PAGE) }, bitmap);
  const pages = new Set<number>();
  for (let page = 0; page < bitmap.length * 32; page++) {
    if (((bitmap[page >>> 5]! >>> (page & 31)) & 1) === 1) pages.add(page);
  }
  return pages;
}
