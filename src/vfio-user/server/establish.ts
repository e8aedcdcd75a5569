import type { Device, Turns } from '../../device/index.js';
import type { DmaRegionSpec } from '../../memory/index.js';
import type { VfioError } from '../../uapi/index.js';
import { STRUCTURE_ROOM, type VfioUserLimits } from '../wire/limits.js';
import { answerVersion, decodeVersion, encodeVersion } from '../wire/version.js';
import type { CommandContext, Reply } from './context.js';
import { DmaRequests } from './dma-requests.js';
import { SharedBitmaps } from './shared-bitmaps.js';
import { TwinSocket } from './twin-socket.js';

/** What a session needs to know. */
export interface SessionOptions {
  readonly limits: VfioUserLimits;
  readonly versionTimeoutMs: number;
  readonly dmaTimeoutMs: number;
  readonly reachByMessage: (region: DmaRegionSpec) => boolean;
  readonly loop: 'shared' | 'dedicated';
  readonly turns: Turns;
  connections(): number;
}

/** What client and server agree on in VERSION. */
export type Agreement = ReturnType<typeof answerVersion>;

/** The session that a connection is established for. */
export interface EstablishOwner {
  /** Sends a command on the client's own socket. */
  send(message: Uint8Array): void;
  /** Replies to DMA requests are awaited now, or no longer. */
  waitingChanged(): void;
  /** The client has left its twin socket, or sent on it what it must not: `reason` says what. */
  twinEnded(reason: VfioError | undefined): void;
}

/** A connection on which a version was agreed. */
export interface Established {
  readonly context: CommandContext;
  readonly twin: TwinSocket | undefined;
  /** VERSION's answer. */
  readonly reply: Reply;
}

/** What this server can do beyond what every server can. */
const OFFERED = { twinSocket: true, writeMultiple: true, dmalog: true } as const;

/** Reads a VERSION, and decides on its answer. @throws VfioError EINVAL for what cannot be read or agreed on */
export function agree(limits: VfioUserLimits, payload: Uint8Array): Agreement {
  return answerVersion(limits, decodeVersion(payload), OFFERED);
}

/**
 * Makes what the commands of a connection work on, and the twin socket if one was agreed on.
 * @throws VfioError EMFILE, ENFILE when a twin socket cannot be had; nothing is left open then
 */
export function establish(
  device: Device,
  options: SessionOptions,
  { answer, agreed, features }: Agreement,
  owner: EstablishOwner,
): Established {
  const payload = encodeVersion(answer);
  const twin = features.twinSocket ? openTwin(options.limits, frame => dmaRequests.receive(frame), owner) : undefined;
  const dmaRequests = new DmaRequests({
    maxData: agreed.maxDataTransfer,
    timeoutMs: options.dmaTimeoutMs,
    send: message => (twin ?? owner).send(message),
    waitingChanged: () => owner.waitingChanged(),
  });
  const context: CommandContext = {
    device,
    // A client that asks for data has room for it, whatever it said: the C reference's sample says 1 KiB and reads 12.
    limits: { ...agreed, maxDataTransfer: options.limits.maxDataTransfer },
    features,
    dmaRequests,
    reachByMessage: options.reachByMessage,
    bitmaps: new SharedBitmaps(),
    turns: options.turns,
    connections: options.connections,
  };
  return { context, twin, reply: twin === undefined ? payload : { payload, fds: [twin.clientEnd.fd] } };
}

function openTwin(
  { maxDataTransfer }: VfioUserLimits,
  reply: DmaRequests['receive'],
  owner: EstablishOwner,
): TwinSocket {
  return new TwinSocket(maxDataTransfer + STRUCTURE_ROOM, { reply, ended: reason => owner.twinEnded(reason) });
}
