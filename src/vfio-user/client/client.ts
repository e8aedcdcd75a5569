import { orBits } from '../../bitmap/index.js';
import {
  type DeviceDescription,
  type DeviceHandle,
  FeatureClient,
  type IrqInfo,
  type RegionDescription,
  requireMappable,
} from '../../device/index.js';
import type { DmaRegionSpec, GuestMemory } from '../../memory/index.js';
import { connect, type OwnedFd } from '../../native/index.js';
import {
  bitmapBytes,
  decodeFeatureRequest,
  featureName,
  IrqSet,
  isPowerOfTwo,
  understand,
  VfioError,
  vfioUser,
} from '../../uapi/index.js';
import { Command, commandName, ExtensionCommand, NO_BYTES } from '../wire/constants.js';
import {
  decodeInfo,
  decodeIrqInfo,
  decodeRegionInfo,
  encodeInfoRequest,
  encodeIrqInfoRequest,
  encodeRegionInfoRequest,
} from '../wire/device-messages.js';
import { decodeDmaUnmapBitmap, encodeDmaMap, encodeDmaUnmap } from '../wire/dma-messages.js';
import {
  type DeviceStatistics,
  decodeBitmapHandle,
  decodeStatistics,
  encodeBitmapAttach,
  encodeBitmapHandle,
  encodeReportShared,
} from '../wire/extension-messages.js';
import { encodeSetIrqs, type IrqAction, type SetIrqsMessage } from '../wire/irq-messages.js';
import { completeLimits, STRUCTURE_ROOM, type VfioUserLimits } from '../wire/limits.js';
import { decodeMigrationData, encodeMigrationData, encodeMigrationRead } from '../wire/migration-messages.js';
import { requireU32 } from '../wire/payload.js';
import type { RegionWrite } from '../wire/region-messages.js';
import { ClientConnection, type WireReply } from './connection.js';
import { clientFeatureDoor } from './feature-door.js';
import { type Agreement, agree } from './handshake.js';
import { ClientMemory, type DmaMemory } from './memory.js';
import { type ClientOptions, checkedTimeout, type DmaFile, type DmaMapping } from './options.js';
import { RegionIo, requestPieces } from './region-io.js';
import { type MappedArea, mapAreas, openIoFds, openRegion, type RegionFile, type RegionIoFd } from './regions.js';
import { type BitmapPlace, mapBitmap, SharedBitmap, type SharedReport } from './shared-bitmap.js';
import { triggerMessages } from './trigger-messages.js';

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
  readonly #memory: ClientMemory;
  readonly #agreement: Agreement;
  readonly #regions: RegionIo;
  /** Those attached here: a handle means nothing to another server. */
  readonly #bitmaps = new WeakSet<SharedBitmap>();

  private constructor(path: string, connection: ClientConnection, memory: ClientMemory, agreement: Agreement) {
    this.target = `vfio-user:${path}`;
    this.limits = agreement.limits;
    this.#connection = connection;
    this.#memory = memory;
    this.#agreement = agreement;
    this.#regions = new RegionIo(connection, agreement);
    const { maxDataTransfer } = agreement.limits;
    const door = clientFeatureDoor(
      message => this.#feature(message),
      maxDataTransfer,
      memory,
      reply => this.#connection.reuse(reply),
    );
    const requestAsIs = (message: Uint8Array) => connection.request(Command.DEVICE_FEATURE, message, 'DEVICE_FEATURE');
    this.features = new FeatureClient({ ...door, requestAsIs });
  }

  /**
   * Connects and agrees on a version. The process lives for as long as the client is open.
   * @throws VfioError ENOENT, EACCES, ECONNREFUSED as connect(2); EAGAIN when too many others wait there; EINVAL for a limit, or a version
   *   that the server does not speak; ETIMEDOUT when another client keeps the device; EOPNOTSUPP for a tracker at a server that knows none;
   *   EPROTO for an answer that makes no sense.
   */
  static async connect(path: string, options: ClientOptions = {}): Promise<VfioUserClient> {
    const { role = 'vmm', twinSocket = true, loop = 'shared', abstract = false } = options;
    const limits = completeLimits(options, 'VfioUserClient');
    const timeoutMs = checkedTimeout(options.timeoutMs ?? 30_000);
    const memory = new ClientMemory(limits.maxDataTransfer);
    const serve = memory.serve.bind(memory);
    // What the server asks on the twin socket it waits for, as the client does for its reply.
    const mayWait = loop === 'dedicated' ? (hasTwin: boolean) => !(hasTwin && memory.isLent) : undefined;
    const connection = new ClientConnection(connect(path, { abstract }), { limits, timeoutMs, mayWait, serve });
    try {
      // To a tracker the server has nothing to say.
      const features = { twinSocket: twinSocket && role === 'vmm', writeMultiple: true, dmalog: true };
      const agreement = await agree(connection, { limits, features, role });
      return new VfioUserClient(path, connection, memory, agreement);
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
  async getRegionInfo(region: number): Promise<RegionDescription> {
    const reply = await this.#request(Command.DEVICE_GET_REGION_INFO, encodeRegionInfoRequest(region));
    const { size, flags } = understand('DEVICE_GET_REGION_INFO', () => decodeRegionInfo(reply));
    return { size, flags };
  }

  /** What an IRQ type is. @throws VfioError EINVAL for one that does not exist */
  async getIrqInfo(type: number): Promise<IrqInfo> {
    const reply = await this.#request(Command.DEVICE_GET_IRQ_INFO, encodeIrqInfoRequest(type));
    return understand('DEVICE_GET_IRQ_INFO', () => decodeIrqInfo(reply));
  }

  /**
   * Opens a region's file, as far as the server gives it: to be handed on, to a hypervisor for example. {@link VfioUserClient.mapRegion}
   * maps it here.
   * @returns `undefined` for a region that is reached by messages alone
   * @throws VfioError EINVAL for a region that does not exist
   */
  openRegion(region: number): Promise<RegionFile | undefined> {
    return openRegion(region, (payload, received) =>
      this.#request(Command.DEVICE_GET_REGION_INFO, payload, [], received),
    );
  }

  /**
   * Maps what a region lets be mapped; each area is the caller's, to be closed. For memory: a register may want accesses of its own width, which
   * {@link VfioUserClient.regionRead} makes and a copy of bytes does not.
   * @returns none for a region that is reached by messages alone
   * @throws VfioError EINVAL for a region that does not exist, and for a file that its server may yet shrink, which would take this process
   *   with it; ENOMEM when too much of peers is mapped
   */
  async mapRegion(region: number): Promise<MappedArea[]> {
    const opened = await this.openRegion(region);
    return opened === undefined ? [] : mapAreas(opened);
  }

  /**
   * The descriptors by which accesses of a region may be told, instead of by messages: for a hypervisor's ioeventfds.
   * @throws VfioError EINVAL for a region that does not exist
   */
  async getRegionIoFds(region: number): Promise<RegionIoFd[]> {
    const { size } = await this.getRegionInfo(region);
    return openIoFds(region, size, (payload, received) =>
      this.#request(Command.DEVICE_GET_REGION_IO_FDS, payload, [], received),
    );
  }

  /** Sends the memory's file along; {@link VfioUserClient.dmaMap} knows more ways. */
  async mapMemory(region: DmaRegionSpec, memory: GuestMemory, offset = 0n): Promise<void> {
    requireMappable(region, memory, offset);
    await this.dmaMap(region, { fd: memory.fd, offset });
  }

  unmapMemory(iova: bigint, length: bigint): Promise<void> {
    return this.dmaUnmap(iova, length);
  }

  /**
   * Maps a region of IO virtual addresses to a file's bytes, which the device reaches by itself, or to memory here, which it reads and writes
   * by messages; to both where the server may choose. With neither, the region is known to the device, but it cannot reach it.
   *
   * What the device writes by messages is in the reports of {@link VfioUserClient.features}, as what it writes to the file is.
   * @throws VfioError EEXIST when it overlaps another; ENOSPC when the device takes no more; EINVAL, EACCES for a file that does not fit;
   *   EINVAL for what is no file, or no memory
   */
  async dmaMap(region: DmaMapping, file?: DmaFile, memory?: DmaMemory): Promise<void> {
    if (file !== undefined) requireU32(file.fd, 'DMA_MAP', 'fd');
    const payload = encodeDmaMap({ ...region, offset: file?.offset ?? 0n });
    const fds = file === undefined ? [] : [file.fd];
    if (file !== undefined) this.#memory.noteFile(region);
    if (memory === undefined) {
      await this.#request(Command.DMA_MAP, payload, fds);
      return;
    }
    // Before the server knows of it: its first DMA may come before its reply.
    this.#memory.lend(region, memory);
    try {
      await this.#request(Command.DMA_MAP, payload, fds);
    } catch (error) {
      this.#memory.takeBack(region.iova, region.length);
      throw error;
    }
  }

  /** Unmaps one region, or several whole ones. @throws VfioError EINVAL for anything else; nothing is unmapped then */
  async dmaUnmap(iova: bigint, length: bigint): Promise<void> {
    const unmapped = this.#request(Command.DMA_UNMAP, encodeDmaUnmap({ iova, length }));
    await this.#memory.takeBackAfter(() => this.#memory.takeBack(iova, length), unmapped);
  }

  /**
   * Unmaps, and ORs into `bitmap` which of the pages were written since the last report, as a report that reads and clears does.
   * @param pageSize what a bit speaks of, bytes: a power of two
   * @param bitmap little-endian words, `bitmapBytes(length, pageSize)` bytes or more
   * @throws VfioError as {@link VfioUserClient.dmaUnmap}; EINVAL when logging is not started, or the bitmap is too small; E2BIG when it is
   *   larger than one message may be: report first, and unmap then
   */
  async dmaUnmapDirty(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): Promise<void> {
    const operation = 'DMA_UNMAP';
    if (!isPowerOfTwo(pageSize)) {
      throw new VfioError('EINVAL', { operation, field: 'page_size', message: `${pageSize} is no power of two` });
    }
    const needed = Number(bitmapBytes(length, pageSize));
    if (bitmap.byteLength < needed) {
      const message = `${bitmap.byteLength} bytes, needs ${needed}`;
      throw new VfioError('EINVAL', { operation, field: 'bitmap', message });
    }
    const dirtyBitmap = { pageSize, bytes: needed };
    const payload = encodeDmaUnmap({ iova, length, dirtyBitmap });
    if (payload.length + needed > this.limits.maxDataTransfer) {
      throw new VfioError('E2BIG', {
        operation,
        field: 'bitmap',
        message: `${needed} bytes are too many for a message`,
      });
    }
    const unmapped = this.#request(Command.DMA_UNMAP, payload);
    const reply = await this.#memory.takeBackAfter(() => this.#memory.takeBack(iova, length), unmapped);
    const bytes = understand(operation, () => decodeDmaUnmapBitmap(reply, dirtyBitmap));
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, needed / 4);
    this.#memory.log.report({ iova, length }, pageSize, words);
    orBits(words, 0, bitmap, 0, needed * 8);
  }

  /** Unmaps everything. */
  async dmaUnmapAll(): Promise<void> {
    const unmapped = this.#request(Command.DMA_UNMAP, encodeDmaUnmap('all'));
    await this.#memory.takeBackAfter(() => this.#memory.takeAllBack(), unmapped);
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
  regionRead(region: number, offset: number, count: number): Promise<Uint8Array> {
    return this.#regions.read(region, offset, count);
  }

  /** More than 32 KiB are written in pieces, one after the other. */
  regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    return this.#regions.write(region, offset, data);
  }

  /**
   * Writes without a reply: what the device refuses, nobody is told. More than 32 KiB are written in pieces.
   * @returns done when so much has left that more may follow; usually at once
   */
  regionPost(region: number, offset: number, data: Uint8Array): Promise<void> {
    return this.#regions.post(region, offset, data);
  }

  /**
   * Several writes of 8 bytes or fewer, in order, in one message for every 200 where the server takes such, else one by one.
   * @returns how many were done: fewer than asked for when the device has refused the one behind them
   */
  regionWriteMulti(writes: readonly RegionWrite[]): Promise<number> {
    return this.#regions.writeMulti(writes);
  }

  async readMigrationData(limit: number): Promise<Uint8Array> {
    const size = Math.min(limit, this.limits.maxDataTransfer);
    const reply = await this.#request(Command.MIG_DATA_READ, encodeMigrationRead(size));
    return understand('MIG_DATA_READ', () => decodeMigrationData(reply, size));
  }

  async writeMigrationData(data: Uint8Array): Promise<void> {
    for (const { piece } of requestPieces(data, this.limits.maxDataTransfer)) {
      await this.#request(Command.MIG_DATA_WRITE, encodeMigrationData(piece));
    }
  }

  /** The protocol has no message for it. */
  async precopyInfo(): Promise<undefined> {
    return undefined;
  }

  async reset(): Promise<void> {
    await this.#request(Command.DEVICE_RESET, NO_BYTES);
  }

  /**
   * Attaches a part of a memory file as a bitmap that reports go to without a copy through the socket. Several clients may attach the same,
   * and so gather what several devices wrote.
   * @param fd of a file that is sealed against shrinking; stays the caller's, who may close it when the call has returned its promise
   * @throws VfioError EOPNOTSUPP at a server of another project; EINVAL for a file that may shrink or is too short, or a size above 1 GiB
   */
  async attachBitmap(fd: number, place: BitmapPlace): Promise<SharedBitmap> {
    this.#requireOwnCommands('BITMAP_ATTACH');
    const { offset = 0n, size } = place;
    const peer = mapBitmap(fd, place);
    try {
      const reply = await this.#request(ExtensionCommand.BITMAP_ATTACH, encodeBitmapAttach({ offset, size }), [fd]);
      const handle = understand('BITMAP_ATTACH', () => decodeBitmapHandle(reply, 'BITMAP_ATTACH'));
      const bitmap = new SharedBitmap(handle, peer);
      this.#bitmaps.add(bitmap);
      return bitmap;
    } catch (error) {
      peer.close();
      throw error;
    }
  }

  /**
   * Reads and clears the log of an interval as `features.report` does, into an attached bitmap.
   * @throws VfioError as the device answers, and the log is to be taken as lost (contract rule 8); EINVAL when the bitmap has no room for it, or
   *   is attached to another client; EBADF when it is detached
   */
  async reportShared(bitmap: SharedBitmap, report: SharedReport): Promise<void> {
    const { offset = 0n, ...interval } = report;
    if (!this.#bitmaps.has(bitmap)) {
      const message = 'is attached to another client';
      throw new VfioError('EINVAL', { operation: 'REPORT_SHARED', field: 'bitmap', message });
    }
    bitmap.wordsFor(report);
    const message = { ...interval, handle: bitmap.handle, offset };
    await this.#request(ExtensionCommand.REPORT_SHARED, encodeReportShared(message));
    // Only now: pages that go into a bitmap that was detached meanwhile would be in no report.
    this.#memory.log.reportShared(interval, interval.pageSize, bitmap.wordsFor(report));
  }

  /** Detaches a bitmap; the file stays as it is. */
  async detachBitmap(bitmap: SharedBitmap): Promise<void> {
    bitmap.close();
    await this.#request(ExtensionCommand.BITMAP_DETACH, encodeBitmapHandle(bitmap.handle));
  }

  /** What the server counts. @throws VfioError EOPNOTSUPP at a server of another project */
  async statistics(): Promise<DeviceStatistics> {
    this.#requireOwnCommands('STATISTICS');
    const reply = await this.#request(ExtensionCommand.STATISTICS, NO_BYTES);
    return understand('STATISTICS', () => decodeStatistics(reply));
  }

  /**
   * Sends a command as it stands, and gives the reply as it came, an error's payload with it: for who looks at the wire itself. What the client
   * keeps by itself, such as its own log beside the device's, hears nothing of it.
   * @param command a number of the protocol's: 16 is DEVICE_FEATURE
   */
  exchange(command: number, payload: Uint8Array): Promise<WireReply> {
    return this.#connection.exchange(command, payload, commandName(command));
  }

  #requireOwnCommands(operation: string): void {
    if (this.#agreement.dmalog) return;
    throw new VfioError('EOPNOTSUPP', { operation, message: 'the server does not know it' });
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

  #request(
    command: number,
    payload: Uint8Array,
    fds: readonly number[] = [],
    received?: OwnedFd[],
  ): Promise<Uint8Array> {
    return this.#connection.request(command, payload, commandName(command), fds, received);
  }
}

/** Waits for all of them, so that none is left behind unhandled; then throws the first failure. */
async function allDone(promises: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(promises)) {
    if (result.status === 'rejected') throw result.reason;
  }
}
