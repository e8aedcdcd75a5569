import type { Device, Turns } from '../../device/index.js';
import type { DmaRegionSpec, MaybePromise } from '../../memory/index.js';
import type { Frame } from '../wire/frame-parser.js';
import type { VfioUserLimits } from '../wire/limits.js';
import type { AgreedFeatures } from '../wire/version.js';
import type { DmaRequests } from './dma-requests.js';
import type { SharedBitmaps } from './shared-bitmaps.js';

/** What the commands of one connection work on. */
export interface CommandContext {
  readonly device: Device;
  /** What client and server agreed on. */
  readonly limits: VfioUserLimits;
  readonly features: AgreedFeatures;
  /** The way to memory that only the client reaches. */
  readonly dmaRequests: DmaRequests;
  /** See `ServerOptions.reachByMessage`. */
  reachByMessage(region: DmaRegionSpec): boolean;
  /** Bitmaps that this client has attached. */
  readonly bitmaps: SharedBitmaps;
  /** Shared by all connections of the device. */
  readonly turns: Turns;
  /** How many clients are served now. */
  connections(): number;
}

/** A reply's payload, or that and descriptors, which stay with the device, or a large one in memory that is lent. */
export type Reply = Uint8Array | { readonly payload: Uint8Array; readonly fds: readonly number[] } | LentReply;

/** A whole message in memory that is to be given back when it has left. */
export interface LentReply {
  /** Room for the header, and the payload. */
  readonly message: Uint8Array;
  giveBack(): void;
}

/**
 * Serves one command: from a message's payload and descriptors to the reply's payload. It takes the descriptors that it keeps out of the
 * frame; the others are closed by the session.
 * @throws VfioError (or rejects) with the errno to answer; it has changed nothing then, but where it says otherwise.
 */
export type CommandHandler = (context: CommandContext, frame: Frame) => MaybePromise<Reply>;
