import { orBits } from '../bitmap/index.js';
import type { MaybePromise } from '../memory/index.js';
import {
  bitmapBits,
  bitmapSize,
  bitOf,
  decodeDataSize,
  decodeDeviceState,
  decodeMigrationFlags,
  encodeDeviceState,
  encodeFeatureRequest,
  encodeRanges,
  encodeReport,
  encodeStartInline,
  encodeStartPointer,
  FEATURE_HEADER_SIZE,
  Feature,
  type IovaRange,
  isPowerOfTwo,
  type MigrationState,
  type Profile,
  RANGE_SIZE,
  REPORT_INLINE_SIZE,
  START_INLINE_SIZE,
  understand,
  VfioError,
} from '../uapi/index.js';
import { replyData, reportBitmap, startedPageSize } from './feature-replies.js';
import { orBytes } from './or-bytes.js';

/**
 * The one narrow door between host and device: a feature request goes in, its reply comes out. In-process, vfio-user and the kernel each
 * have one; nobody on either side can tell which it is.
 */
export interface FeatureDoor {
  /** The dialect spoken at this door. */
  readonly profile: Profile;
  /** Most bytes of a reply (header, structure and bitmap) that one request can bring back. */
  readonly maxReply: number;
  /** Most bytes of a request (header, structure and inline ranges). */
  readonly maxRequest: number;
  /**
   * Sends header and data, gives header and data.
   * @throws VfioError with the device's errno
   */
  request(message: Uint8Array): Promise<Uint8Array>;
  /**
   * Sends these bytes as they are, and gives back what comes: nothing is looked at, added or put right on this side. For those who ask how a
   * device answers what no client should send. Missing: {@link FeatureDoor.request} is that already.
   */
  requestAsIs?(message: Uint8Array): Promise<Uint8Array>;
  /** Takes the memory of a reply, or of a part of it, for a next one; nobody holds it any more. */
  reuse?(reply: Uint8Array): void;
  /** Pointer profiles: makes a buffer reachable for the device until {@link FeatureDoor.take}; returns its address. */
  lend?(bytes: Uint8Array): bigint;
  /** Takes a lent buffer back. */
  take?(address: bigint): void;
  /**
   * REPORT of no more than one reply holds, without a message: for doors where making and reading messages costs many times what the device takes.
   * @param bitmap the bits are ORed into its first words; any left over stay as they are
   * @throws VfioError as {@link FeatureDoor.request}; EFAULT for a bitmap that is too small
   */
  report?(asked: ReportRequest, bitmap: Uint32Array): MaybePromise<void>;
}

/** Most ranges worth asking any device for: a bound for what is sent, far above what any keeps apart. */
const MOST_RANGES = 32_768;

/** What one REPORT asks for; bytes. */
export interface ReportRequest extends IovaRange {
  pageSize: bigint;
}

/** The feature requests as calls, whatever the profile. */
export class FeatureClient {
  readonly #door: FeatureDoor;

  constructor(door: FeatureDoor) {
    this.#door = door;
  }

  /** The door itself, for requests that the calls here do not make. */
  get door(): FeatureDoor {
    return this.#door;
  }

  /** The dialect spoken. */
  get profile(): Profile {
    return this.#door.profile;
  }

  /** Most ranges that one START takes. */
  get maxRanges(): number {
    const room = this.profile.pointers ? Number.POSITIVE_INFINITY : this.#door.maxRequest;
    return Math.min(
      this.profile.maxRanges,
      MOST_RANGES,
      Math.floor((room - FEATURE_HEADER_SIZE - START_INLINE_SIZE) / RANGE_SIZE),
    );
  }

  /** Whether the device has the feature in the directions given. Probing is no proof: some kernels say yes and then answer EOPNOTSUPP. */
  async probe(index: number, directions: { get?: boolean; set?: boolean } = {}): Promise<boolean> {
    try {
      await this.#door.request(encodeFeatureRequest({ index, ...directions, probe: true }));
      return true;
    } catch (error) {
      if (error instanceof VfioError && (error.errno === 'ENOTTY' || error.errno === 'EINVAL')) return false;
      throw error;
    }
  }

  /** Whether START, STOP and REPORT are all there. */
  async hasLogging(): Promise<boolean> {
    const { start, stop, report } = this.profile;
    return (
      (await this.probe(start, { set: true })) &&
      (await this.probe(stop, { set: true })) &&
      (await this.probe(report, { get: true }))
    );
  }

  /**
   * START.
   * @param pageSize the hint, bytes
   * @param ranges none: everything, where the profile has that
   * @returns the page size that the device chose, bytes
   * @throws VfioError as the device answers; EPROTO for an answer that makes no sense
   */
  async startLogging(pageSize: bigint, ranges: readonly IovaRange[]): Promise<bigint> {
    const index = this.profile.start;
    if (!this.profile.pointers) {
      return startedPageSize(await this.#set(index, encodeStartInline(pageSize, ranges)));
    }
    return this.#lending(encodeRanges(ranges), async rangesPointer => {
      const start = { pageSize, numRanges: ranges.length, rangesPointer };
      return startedPageSize(await this.#set(index, encodeStartPointer(start)));
    });
  }

  /** STOP. */
  async stopLogging(): Promise<void> {
    await this.#set(this.profile.stop, new Uint8Array(0));
  }

  /**
   * REPORT: reads and clears the log of an interval, and ORs it into `bitmap`. An interval whose bitmap is larger than one reply is asked for
   * piece by piece. The cuts lie at multiples of a power of two of IOVA, so that none goes through a log page: the device would have to keep
   * its bit in both pieces, for ever (contract rule 4).
   *
   * @param bitmap little-endian words, `bitmapBytes(length, pageSize)` bytes or more
   * @throws VfioError as the device answers. What was read before a piece failed is in `bitmap`, and the log is to be taken as lost (contract
   *   rule 8).
   */
  async report(asked: ReportRequest, bitmap: Uint32Array): Promise<void> {
    const { iova, length, pageSize } = asked;
    requireReport(asked);
    const needed = bitmapSize(length, pageSize);
    if (bitmap.byteLength < needed) {
      throw new VfioError('EINVAL', {
        operation: 'DMA_LOGGING_REPORT',
        field: 'bitmap',
        message: `${bitmap.byteLength} bytes, needs ${needed}`,
      });
    }
    const room = this.#door.maxReply - FEATURE_HEADER_SIZE - REPORT_INLINE_SIZE;
    if (needed <= room)
      return this.#reportPiece(asked, bitmap.byteLength === needed ? bitmap : bitmap.subarray(0, needed / 4));
    if (room < 8) throw new VfioError('EMSGSIZE', { operation: 'DMA_LOGGING_REPORT', field: 'max_data_xfer_size' });
    const pieceLength = BigInt(2 ** Math.floor(Math.log2(room))) * 8n * pageSize;
    for (let start = iova; start < iova + length; ) {
      const cut = ((start + pageSize - 1n) / pieceLength + 1n) * pieceLength;
      // The bits of a piece are those of the whole only where it begins at a whole report page.
      const end = cut < iova + length ? cut - ((cut - iova) % pageSize) : iova + length;
      const piece = { iova: start, length: end - start, pageSize };
      const bits = new Uint32Array(bitmapSize(piece.length, pageSize) / 4);
      await this.#reportPiece(piece, bits);
      orBits(bits, 0, bitmap, Number(bitOf(start, iova, pageSize)), Number(bitmapBits(piece.length, pageSize)));
      start = end;
    }
  }

  #reportPiece(piece: ReportRequest, bitmap: Uint32Array): MaybePromise<void> {
    return this.#door.report === undefined ? this.#exchangeReport(piece, bitmap) : this.#door.report(piece, bitmap);
  }

  async #exchangeReport(piece: ReportRequest, bitmap: Uint32Array): Promise<void> {
    const index = this.profile.report;
    if (this.profile.pointers) {
      const bytes = new Uint8Array(bitmap.buffer, bitmap.byteOffset, bitmap.byteLength);
      await this.#lending(bytes, bitmapPointer => this.#get(index, encodeReport({ ...piece, bitmapPointer })));
      return;
    }
    const data = await this.#get(index, encodeReport(piece), REPORT_INLINE_SIZE + bitmap.byteLength);
    orBytes(bitmap, reportBitmap(data, piece));
    this.#door.reuse?.(data);
  }

  /** MIGRATION: the device's flags; 0 for a device that cannot migrate. */
  async migrationFlags(): Promise<number> {
    try {
      const data = await this.#get(Feature.MIGRATION, this.#room8(), 8);
      return understand('MIGRATION', () => decodeMigrationFlags(data));
    } catch (error) {
      if (error instanceof VfioError && error.errno === 'ENOTTY') return 0;
      throw error;
    }
  }

  /** MIG_DEVICE_STATE: where the device is. */
  async migrationState(): Promise<number> {
    const data = await this.#get(Feature.MIG_DEVICE_STATE, this.#room8(), 8);
    return understand('MIG_DEVICE_STATE', () => decodeDeviceState(data)).state;
  }

  /** MIG_DEVICE_STATE: brings the device to a state. @throws VfioError as the device answers */
  async setMigrationState(state: MigrationState): Promise<void> {
    await this.#set(Feature.MIG_DEVICE_STATE, encodeDeviceState({ state, dataFd: -1 }));
  }

  /** MIG_DATA_SIZE: what a stop-copy would move, bytes. @throws VfioError ENOTTY where the device does not say */
  async migrationDataSize(): Promise<bigint> {
    const data = await this.#get(Feature.MIG_DATA_SIZE, this.#room8(), 8);
    return understand('MIG_DATA_SIZE', () => decodeDataSize(data));
  }

  /** A request for a structure of 8 bytes: where the reply goes into the request's own buffer, there must be room for it. */
  #room8(): Uint8Array {
    return new Uint8Array(this.profile.pointers ? 8 : 0);
  }

  async #set(index: number, data: Uint8Array): Promise<Uint8Array> {
    return this.#exchange(index, encodeFeatureRequest({ index, set: true, data }));
  }

  /** @param replySize bytes of data that the reply has; argsz of vfio-user says so. */
  async #get(index: number, data: Uint8Array, replySize = data.length): Promise<Uint8Array> {
    const argsz = FEATURE_HEADER_SIZE + Math.max(data.length, replySize);
    return this.#exchange(index, encodeFeatureRequest({ index, get: true, data, argsz }));
  }

  async #exchange(index: number, message: Uint8Array): Promise<Uint8Array> {
    return replyData(await this.#door.request(message), this.profile, index);
  }

  async #lending<T>(bytes: Uint8Array, use: (address: bigint) => Promise<T>): Promise<T> {
    const { lend, take } = this.#door;
    if (lend === undefined || take === undefined) {
      throw new VfioError('EFAULT', { operation: 'DEVICE_FEATURE', message: 'this door takes no pointers' });
    }
    const address = lend.call(this.#door, bytes);
    try {
      return await use(address);
    } finally {
      take.call(this.#door, address);
    }
  }
}

/** What has no answer, whatever the device. @throws VfioError EINVAL */
function requireReport({ length, pageSize }: ReportRequest): void {
  const bad = (field: string, message: string) =>
    new VfioError('EINVAL', { operation: 'DMA_LOGGING_REPORT', field, message });
  if (!isPowerOfTwo(pageSize)) throw bad('page_size', `${pageSize} is no power of two`);
  if (length < 0n) throw bad('length', `${length} bytes`);
}
