import { mergeRanges } from '../../log/index.js';
import { type Backing, DmaMap, type DmaRegionSpec, type MaybePromise } from '../../memory/index.js';
import { ADDRESS_LIMIT, type IovaRange, VfioError } from '../../uapi/index.js';
import { Command, commandName } from '../wire/constants.js';
import { decodeDmaRead, decodeDmaWrite, encodeDmaAccess, newDmaData } from '../wire/dma-access-messages.js';
import type { Frame } from '../wire/frame-parser.js';
import { requireOffset } from '../wire/payload.js';
import { ClientWriteLog } from './write-log.js';

/** How many intervals with files are kept apart. */
const MOST_FILE_INTERVALS = 256;

/** Bytes on the client's side that a device asks for by messages. `GuestMemory` is one. Offsets are bytes. */
export interface ByteAccess {
  /** Fills `into` from byte `offset` on. @throws VfioError (or rejects) when it cannot; the device is told EIO. */
  read(offset: number, into: Uint8Array): MaybePromise<void>;
  /** Copies `from` to byte `offset` on. `from` is only valid until the call, or its promise, is done. */
  write(offset: number, from: Uint8Array): MaybePromise<void>;
}

/** The memory behind a region that is reached by messages. */
export interface DmaMemory {
  readonly bytes: ByteAccess;
  /** Where the region begins in it, bytes; default 0. */
  readonly offset?: number;
}

/**
 * The memory that a client lends to its device by messages: serves DMA_READ and DMA_WRITE, and logs what is written.
 *
 * As on the device's side, bytes move first and the log marks after, so that a report between the two only names a page once more.
 */
export class ClientMemory {
  readonly log = new ClientWriteLog();
  readonly #map = new DmaMap();
  readonly #maxCount: number;
  /** What to do when the server has let go of something. */
  readonly #returning = new Set<() => void>();
  /** Where there has ever been a file: merged, and where they are too many more than that, never less. */
  #files: readonly IovaRange[] = [];
  /** Accesses that take their time. */
  readonly #underWay = new Set<Promise<Uint8Array>>();

  /** @param maxCount most bytes of one DMA_READ or DMA_WRITE */
  constructor(maxCount: number) {
    this.#maxCount = maxCount;
  }

  /** Whether the server has any reason to ask. */
  get isLent(): boolean {
    return this.#map.statistics.regions > 0;
  }

  /**
   * Lends a region. One that is still lent, but on its way back, is back then: the server unmaps it before it maps this one.
   * @throws VfioError as {@link DmaMap.map}; EINVAL for what is no memory
   */
  lend(region: DmaRegionSpec, memory: DmaMemory): void {
    const backing = new LentBytes(memory);
    try {
      this.#map.map(region, backing);
    } catch (error) {
      if (this.#returning.size === 0) throw error;
      for (const takeBack of this.#returning) takeBack();
      this.#returning.clear();
      this.#map.map(region, backing);
    }
  }

  /** The device is about to be given a file for an interval: what it writes there from now on need not pass here. */
  noteFile({ iova, length }: IovaRange): void {
    // No report reaches the last byte of all, and merging takes no end at 2^64.
    const end = iova + length < ADDRESS_LIMIT ? iova + length : ADDRESS_LIMIT - 1n;
    const merged = mergeRanges([...this.#files, { iova, length: end - iova }], MOST_FILE_INTERVALS);
    this.#files = merged.map(({ start, end }) => ({ iova: start, length: end - start }));
  }

  /** Whether an interval is lent as a whole, and the device had no other way to write there since the connection began. */
  isByMessagesOnly({ iova, length }: IovaRange): boolean {
    const end = iova + length;
    if (this.#files.some(file => file.iova < end && iova < file.iova + file.length)) return false;
    let lentUpTo = iova;
    for (const region of this.#map.regions) {
      if (region.iova <= lentUpTo && lentUpTo < region.iova + region.length) lentUpTo = region.iova + region.length;
    }
    return lentUpTo >= end;
  }

  /** Takes back what is lent of an interval. What was not lent needs no taking back. */
  takeBack(iova: bigint, length: bigint): void {
    try {
      if (this.isLent) this.#map.unmap(iova, length);
    } catch (error) {
      // The server knows more regions than are lent: that none of these lies here is no mistake.
      if (!(error instanceof VfioError)) throw error;
    }
  }

  /**
   * Takes something back when the server has let go of it: until then, what it has begun may still arrive. Accesses that the caller's bytes
   * are still busy with are waited for: after this, nothing touches them, and what was written is in the log.
   * @param takeBack what to do then, or earlier where the memory is lent anew
   * @param letGo the server's answer; if it refuses, everything stays lent
   */
  async takeBackAfter<T>(takeBack: () => void, letGo: Promise<T>): Promise<T> {
    this.#returning.add(takeBack);
    try {
      const answer = await letGo;
      if (this.#returning.has(takeBack)) takeBack();
      await Promise.allSettled(this.#underWay);
      return answer;
    } finally {
      this.#returning.delete(takeBack);
    }
  }

  /** Takes everything back. */
  takeAllBack(): void {
    this.#map.unmapAll();
  }

  /**
   * Serves one command of the server.
   * @returns the reply's payload
   * @throws VfioError (or rejects) EFAULT for memory that is not lent, or not with the right; EINVAL for a wrong size or too many bytes; EIO
   *   and others where the memory itself fails; EOPNOTSUPP for any other command.
   */
  serve(frame: Frame): MaybePromise<Uint8Array> {
    const reply = this.#serve(frame);
    if (reply instanceof Promise) {
      const done = () => this.#underWay.delete(reply);
      this.#underWay.add(reply);
      reply.then(done, done);
    }
    return reply;
  }

  #serve({ header, payload }: Frame): MaybePromise<Uint8Array> {
    switch (header.command) {
      case Command.DMA_READ:
        return this.#read(payload);
      case Command.DMA_WRITE:
        return this.#write(payload);
      default:
        throw new VfioError('EOPNOTSUPP', { operation: commandName(header.command), message: 'is not served here' });
    }
  }

  #read(payload: Uint8Array): MaybePromise<Uint8Array> {
    const access = decodeDmaRead(payload, this.#maxCount);
    const { reply, data } = newDmaData(access);
    const done = this.#map.read(access.iova, data);
    return done === undefined ? reply : done.then(() => reply);
  }

  #write(payload: Uint8Array): MaybePromise<Uint8Array> {
    const { data, ...access } = decodeDmaWrite(payload, this.#maxCount);
    const { iova, count } = access;
    let done: MaybePromise<void>;
    try {
      done = this.#map.write(iova, data);
    } catch (error) {
      throw this.#failed(error, iova, count);
    }
    const finish = () => {
      this.log.record(iova, count);
      return encodeDmaAccess(access);
    };
    if (done === undefined) return finish();
    return done.then(finish, error => Promise.reject(this.#failed(error, iova, count)));
  }

  /** A write that failed on its way may have changed memory; one refused with EFAULT has not. */
  #failed(error: unknown, iova: number | bigint, count: number): unknown {
    if (!(error instanceof VfioError && error.errno === 'EFAULT')) this.log.record(iova, count);
    return error;
  }
}

/** The caller's bytes as a region of the map. */
class LentBytes implements Backing {
  readonly kind = 'message';
  readonly #bytes: ByteAccess;
  readonly #start: number;

  /** @throws VfioError EINVAL for what is no memory: told to its owner, and not, at the first access, to the device */
  constructor({ bytes, offset = 0 }: DmaMemory) {
    if (typeof bytes?.read !== 'function' || typeof bytes.write !== 'function') {
      const message = 'memory is { bytes: { read, write } }';
      throw new VfioError('EINVAL', { operation: 'DMA_MAP', field: 'bytes', message });
    }
    requireOffset(offset, 'DMA_MAP', 'offset');
    this.#bytes = bytes;
    this.#start = offset;
  }

  read(offset: number, into: Uint8Array): MaybePromise<void> {
    return this.#bytes.read(this.#start + offset, into);
  }

  write(offset: number, from: Uint8Array): MaybePromise<void> {
    return this.#bytes.write(this.#start + offset, from);
  }

  close(): void {}
}
