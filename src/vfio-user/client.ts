import {
  type DeviceDescription,
  type DeviceHandle,
  FeatureClient,
  type IrqInfo,
  type RegionInfo,
} from '../device/index.js';
import { connect } from '../native/index.js';
import { decodeFeatureRequest, featureName, IrqSet, VfioError, vfioUser } from '../uapi/index.js';
import { ClientConnection } from './client-connection.js';
import { Command, commandName, NO_BYTES } from './constants.js';
import {
  decodeInfo,
  decodeIrqInfo,
  decodeRegionInfo,
  encodeInfoRequest,
  encodeIrqInfoRequest,
  encodeRegionInfoRequest,
} from './device-messages.js';
import { encodeDmaMap, encodeDmaUnmap } from './dma-messages.js';
import { encodeSetIrqs, type IrqAction, type SetIrqsMessage } from './irq-messages.js';
import { completeLimits, MAX_REQUEST_DATA, STRUCTURE_ROOM, type VfioUserLimits } from './limits.js';
import { decodeMigrationData, encodeMigrationData, encodeMigrationRead } from './migration-messages.js';
import { decodeRegionData, encodeRegionAccess, encodeRegionWrite } from './region-messages.js';
import { acceptAnswer, decodeVersion, encodeVersion, proposeVersion } from './version.js';

/** How a {@link VfioUserClient} connects. */
export interface ClientOptions extends Partial<VfioUserLimits> {
  /** How long a request may wait for its reply before the connection is given up, milliseconds; default 30000; 0: for ever. */
  timeoutMs?: number;
}

/** A region of IO virtual addresses that a device may reach. */
export interface DmaMapping {
  /** Bytes, a multiple of 4096. */
  iova: bigint;
  /** Bytes, a multiple of 4096. */
  length: bigint;
  /** The device may read. */
  readable: boolean;
  /** The device may write. */
  writable: boolean;
}

/** The file behind a {@link DmaMapping}. */
export interface DmaFile {
  /** Stays the caller's: it may be closed when the call has returned its promise. */
  fd: number;
  /** Where the region begins in the file, bytes, a multiple of 4096; default 0. */
  offset?: bigint;
}

/**
 * A device behind a vfio-user socket.
 *
 * Requests may be made without waiting for the ones before; they are served in the order in which they were made. Every call throws
 * VfioError: the device's own errno, EPROTO for an answer that makes no sense, ECONNRESET when the server has gone, ETIMEDOUT for a request
 * that has waited too long (the connection is given up then), ECONNABORTED after {@link VfioUserClient.close}.
 */
export class VfioUserClient implements DeviceHandle {
  readonly target: string;
  readonly features: FeatureClient;
  /** What the server takes; data in either direction is bounded by the smaller of both sides. */
  readonly limits: VfioUserLimits;
  readonly #connection: ClientConnection;

  private constructor(path: string, connection: ClientConnection, limits: VfioUserLimits) {
    this.target = `vfio-user:${path}`;
    this.limits = limits;
    this.#connection = connection;
    this.features = new FeatureClient({
      profile: vfioUser,
      maxReply: limits.maxDataTransfer,
      maxRequest: limits.maxDataTransfer,
      request: message => this.#feature(message),
    });
  }

  /**
   * Connects and agrees on a version. The process lives for as long as the client is open.
   * @throws VfioError ENOENT, EACCES, ECONNREFUSED as connect(2); EAGAIN when too many others wait there; EINVAL for a limit, or a version
   *   that the server does not speak; ETIMEDOUT when another client keeps the device; EPROTO for an answer that makes no sense.
   */
  static async connect(path: string, options: ClientOptions = {}): Promise<VfioUserClient> {
    const own = completeLimits(options, 'VfioUserClient');
    const timeoutMs = checkedTimeout(options.timeoutMs ?? 30_000);
    const connection = new ClientConnection(connect(path), own, timeoutMs);
    try {
      const reply = await connection.request(Command.VERSION, encodeVersion(proposeVersion(own)), 'VERSION');
      const limits = understand('VERSION', () => acceptAnswer(own, decodeVersion(reply)));
      return new VfioUserClient(path, connection, limits);
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** Whether the connection is over. */
  get closed(): boolean {
    return this.#connection.closed;
  }

  /**
   * Calls back once when the connection is over, soon if it is already. The reason is missing when {@link VfioUserClient.close} ended it.
   */
  onClose(listener: (reason: VfioError | undefined) => void): void {
    this.#connection.onClose(listener);
  }

  async info(): Promise<DeviceDescription> {
    const reply = await this.#request(Command.DEVICE_GET_INFO, encodeInfoRequest());
    return understand('DEVICE_GET_INFO', () => decodeInfo(reply));
  }

  /** What a region is. @throws VfioError EINVAL for one that does not exist */
  async getRegionInfo(region: number): Promise<RegionInfo> {
    const reply = await this.#request(Command.DEVICE_GET_REGION_INFO, encodeRegionInfoRequest(region));
    return understand('DEVICE_GET_REGION_INFO', () => decodeRegionInfo(reply));
  }

  /** What an IRQ type is. @throws VfioError EINVAL for one that does not exist */
  async getIrqInfo(type: number): Promise<IrqInfo> {
    const reply = await this.#request(Command.DEVICE_GET_IRQ_INFO, encodeIrqInfoRequest(type));
    return understand('DEVICE_GET_IRQ_INFO', () => decodeIrqInfo(reply));
  }

  /**
   * Maps a region of IO virtual addresses to a file's bytes. Without a file the region is known to the device, but it cannot reach it.
   * @throws VfioError EEXIST when it overlaps another; ENOSPC when the device takes no more; EINVAL, EACCES for a file that does not fit
   */
  async dmaMap(region: DmaMapping, file?: DmaFile): Promise<void> {
    const payload = encodeDmaMap({ ...region, offset: file?.offset ?? 0n });
    await this.#request(Command.DMA_MAP, payload, file === undefined ? [] : [file.fd]);
  }

  /** Unmaps one region, or several whole ones. @throws VfioError EINVAL for anything else; nothing is unmapped then */
  async dmaUnmap(iova: bigint, length: bigint): Promise<void> {
    await this.#request(Command.DMA_UNMAP, encodeDmaUnmap({ iova, length }));
  }

  /** Unmaps everything. */
  async dmaUnmapAll(): Promise<void> {
    await this.#request(Command.DMA_UNMAP, encodeDmaUnmap('all'));
  }

  /**
   * Gives vectors `start`… their eventfds; `undefined` takes one away. It takes several messages when there are more than the server takes
   * descriptors at once; if one fails, those before it stay done.
   * @param eventfds stay the caller's, who may close them when the call has returned its promise
   */
  async setIrqTriggers(type: number, start: number, eventfds: readonly (number | undefined)[]): Promise<void> {
    const sent: Promise<void>[] = [];
    for (const { offset, count, fds } of triggerMessages(eventfds, this.limits.maxMessageFds)) {
      const message: SetIrqsMessage = {
        type,
        start: start + offset,
        count,
        action: IrqSet.ACTION_TRIGGER,
        data: 'eventfd',
      };
      sent.push(this.#setIrqs(message, fds));
    }
    await allDone(sent);
  }

  /** Takes all triggers of a type away. */
  async disableIrqs(type: number): Promise<void> {
    await this.#setIrqs({ type, start: 0, count: 0, action: IrqSet.ACTION_TRIGGER, data: 'none' });
  }

  /** Masks vectors; only INTx can be. */
  async maskIrqs(type: number, start: number, count: number): Promise<void> {
    await this.#act(IrqSet.ACTION_MASK, type, start, count);
  }

  /** Unmasks vectors; INTx is delivered again while it is asserted. */
  async unmaskIrqs(type: number, start: number, count: number): Promise<void> {
    await this.#act(IrqSet.ACTION_UNMASK, type, start, count);
  }

  /** Delivers interrupts as if the device had raised them. */
  async triggerIrqs(type: number, start: number, count: number): Promise<void> {
    await this.#act(IrqSet.ACTION_TRIGGER, type, start, count);
  }

  /** More than one message can carry is read in pieces, one after the other. */
  async regionRead(region: number, offset: number, count: number): Promise<Uint8Array> {
    if (count <= this.limits.maxDataTransfer) return this.#readPiece(region, offset, count);
    const bytes = new Uint8Array(count);
    for (let done = 0; done < count; done += this.limits.maxDataTransfer) {
      const size = Math.min(count - done, this.limits.maxDataTransfer);
      bytes.set(await this.#readPiece(region, offset + done, size), done);
    }
    return bytes;
  }

  async #readPiece(region: number, offset: number, count: number): Promise<Uint8Array> {
    const reply = await this.#request(Command.REGION_READ, encodeRegionAccess({ region, offset, count }));
    return understand('REGION_READ', () => decodeRegionData(reply, count));
  }

  /** More than 32 KiB are written in pieces, one after the other. */
  async regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    for (const { at, piece } of this.#pieces(data)) {
      await this.#request(Command.REGION_WRITE, encodeRegionWrite(region, offset + at, piece));
    }
  }

  async readMigrationData(limit: number): Promise<Uint8Array> {
    const size = Math.min(limit, this.limits.maxDataTransfer);
    const reply = await this.#request(Command.MIG_DATA_READ, encodeMigrationRead(size));
    return understand('MIG_DATA_READ', () => decodeMigrationData(reply, size));
  }

  async writeMigrationData(data: Uint8Array): Promise<void> {
    for (const { piece } of this.#pieces(data)) {
      await this.#request(Command.MIG_DATA_WRITE, encodeMigrationData(piece));
    }
  }

  async reset(): Promise<void> {
    await this.#request(Command.DEVICE_RESET, NO_BYTES);
  }

  /** Ends the connection: requests under way are rejected with ECONNABORTED, the device loses this client's memory and interrupts. Idempotent. */
  async close(): Promise<void> {
    this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #feature(message: Uint8Array): Promise<Uint8Array> {
    const operation = featureName(vfioUser, decodeFeatureRequest(message).index);
    if (message.length > this.limits.maxDataTransfer + STRUCTURE_ROOM) {
      throw new VfioError('E2BIG', { operation, message: `${message.length} bytes are more than the server takes` });
    }
    return this.#connection.request(Command.DEVICE_FEATURE, message, operation);
  }

  #act(action: IrqAction, type: number, start: number, count: number): Promise<void> {
    return this.#setIrqs({ type, start, count, action, data: 'none' });
  }

  async #setIrqs(message: SetIrqsMessage, fds: readonly number[] = []): Promise<void> {
    await this.#request(Command.DEVICE_SET_IRQS, encodeSetIrqs(message), fds);
  }

  #request(command: number, payload: Uint8Array, fds: readonly number[] = []): Promise<Uint8Array> {
    return this.#connection.request(command, payload, commandName(command), fds);
  }

  /** Data in the pieces that one message carries; data of no bytes is one piece. */
  *#pieces(data: Uint8Array): Iterable<{ at: number; piece: Uint8Array }> {
    const size = Math.min(MAX_REQUEST_DATA, this.limits.maxDataTransfer);
    let at = 0;
    do {
      yield { at, piece: data.subarray(at, at + size) };
      at += size;
    } while (at < data.length);
  }
}

/** Cuts triggers into messages: each gives eventfds to all of its vectors, at most `maxFds`, or takes them all away. */
function* triggerMessages(
  eventfds: readonly (number | undefined)[],
  maxFds: number,
): Iterable<{ offset: number; count: number; fds: number[] }> {
  for (let offset = 0; offset < eventfds.length; ) {
    const takesAway = eventfds[offset] === undefined;
    let end = offset + 1;
    while (end < eventfds.length && (eventfds[end] === undefined) === takesAway) {
      if (!takesAway && end - offset === maxFds) break;
      end++;
    }
    const fds = eventfds.slice(offset, end).filter(fd => fd !== undefined);
    yield { offset, count: end - offset, fds };
    offset = end;
  }
}

/** Waits for all of them, so that none is left behind unhandled; then throws the first failure. */
async function allDone(promises: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(promises)) {
    if (result.status === 'rejected') throw result.reason;
  }
}

/** Reads a reply. @throws VfioError EPROTO for one that cannot be read: it is not the device that refuses, but the peer that errs */
function understand<T>(operation: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new VfioError('EPROTO', { operation, message, cause: error });
  }
}

/** @throws VfioError EINVAL */
function checkedTimeout(timeoutMs: number): number {
  if (!(timeoutMs >= 0))
    throw new VfioError('EINVAL', { operation: 'connect', field: 'timeoutMs', message: `${timeoutMs}` });
  return timeoutMs === Number.POSITIVE_INFINITY ? 0 : timeoutMs;
}
