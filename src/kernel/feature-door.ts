import { type FeatureDoor, LentMemory, type ReportRequest, Turns } from '../device/index.js';
import type { MaybePromise } from '../memory/index.js';
import { ioctl, ioctlOffThread, NativeBlock } from '../native/index.js';
import {
  ADDRESS_LIMIT,
  bitmapSize,
  FEATURE_GET,
  FEATURE_HEADER_SIZE,
  FEATURE_MASK,
  FEATURE_PROBE,
  FEATURE_SET,
  Feature,
  featureName,
  isPowerOfTwo,
  linux,
  MigrationState,
  RANGE_SIZE,
  REPORT_INLINE_SIZE,
  REPORT_POINTER_SIZE,
  VfioError,
  viewOf,
} from '../uapi/index.js';
import type { GuardedFd } from './guarded-fd.js';
import type { MigrationFile } from './migration-file.js';
import { refusedArc } from './refused-arcs.js';
import { ReportMemory } from './report-memory.js';
import { VfioRequest } from './vfio-abi.js';

/*
 * Feature requests by ioctl. The kernel reads and writes a block of this door's own, never the caller's memory: a request is copied into it, its
 * pointer exchanged for one that the door answers for, and the reply copied out.
 *   START   the ranges are copied behind the structure
 *   REPORT  the bits come through ReportMemory, whose header says why; it can be had without a message, too
 *   SET of MIG_DEVICE_STATE   the descriptor in the reply is taken over, and the caller reads -1, as over every other wire
 * Addresses that callers see are names of lent buffers, and mean nothing to the kernel.
 *
 * What answers at once (probes, questions, small reports) is asked on this thread; what may take a driver long (START, STOP, a new migration
 * state, large reports) on another one. One request at a time, in the order in which they were made.
 */

/** Largest message that is taken, bytes: no structure of linux/vfio.h is as large, and the kernel reads and writes no more than a structure. */
const MOST_MESSAGE = 4096;

/** Reports of a bitmap up to here, bytes (2 GiB at 4 KiB pages), do not leave the thread: handing them over costs more than they take. */
const SMALL_REPORT = 2 ** 16;

/** Bytes of a report with all its fields. */
const WHOLE_REPORT = FEATURE_HEADER_SIZE + REPORT_POINTER_SIZE;

/* Where the fields of START and REPORT are in a message. */
const NUM_RANGES_AT = FEATURE_HEADER_SIZE + 8;
const RANGES_POINTER_AT = FEATURE_HEADER_SIZE + 16;
const IOVA_AT = FEATURE_HEADER_SIZE;
const LENGTH_AT = FEATURE_HEADER_SIZE + 8;
const PAGE_SIZE_AT = FEATURE_HEADER_SIZE + 16;
const BITMAP_AT = FEATURE_HEADER_SIZE + 24;

/** The door to a device behind the kernel. */
export class KernelFeatureDoor implements FeatureDoor {
  readonly profile = linux;
  readonly maxRequest = MOST_MESSAGE;
  readonly #device: GuardedFd;
  readonly #migration: MigrationFile;
  readonly #lent = new LentMemory();
  readonly #reports = new ReportMemory();
  readonly #turns = new Turns();
  readonly #block = new NativeBlock(MOST_MESSAGE);
  readonly #ranges = new NativeBlock(linux.maxRanges * RANGE_SIZE);

  constructor(device: GuardedFd, migration: MigrationFile) {
    this.#device = device;
    this.#migration = migration;
  }

  /** @throws VfioError ENOMEM, EPERM when the process may not lock a page of memory for reports */
  get maxReply(): number {
    return FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE + this.#reports.size;
  }

  lend(bytes: Uint8Array): bigint {
    return this.#lent.lend(bytes);
  }

  take(address: bigint): void {
    this.#lent.take(address);
  }

  /** @throws VfioError as the kernel answers; EFAULT for a report into memory that is not lent; E2BIG for a message of more than 4096 bytes */
  async request(message: Uint8Array): Promise<Uint8Array> {
    if (message.length < FEATURE_HEADER_SIZE) throw invalid('EINVAL', 'argsz', `${message.length} bytes are no header`);
    if (message.length > MOST_MESSAGE) throw invalid('E2BIG', 'argsz', `${message.length} bytes`);
    if (!this.#turns.busy && !this.#takesLong(message)) return this.#answer(message);
    const copy = message.slice();
    return this.#turns.run(() => this.#device.use('DEVICE_FEATURE', fd => this.#inTurn(fd, copy)));
  }

  /**
   * {@link KernelFeatureDoor.request}, but a report into memory that nobody lent is the kernel's to answer. For addresses that no process has:
   * whatever lies at another one would be written to.
   */
  async requestAsIs(message: Uint8Array): Promise<Uint8Array> {
    const isReport = message.length >= WHOLE_REPORT && requested(message) === (FEATURE_GET | linux.report);
    if (!isReport || this.#isLent(viewOf(message).getBigUint64(BITMAP_AT, true))) return this.request(message);
    const copy = message.slice();
    return this.#turns.run(() => this.#device.use('DEVICE_FEATURE', fd => this.#exchangeOffThread(fd, copy)));
  }

  /** {@link FeatureDoor.report}. The structure is made where the kernel reads it, and nothing else is allocated. */
  report({ iova, length, pageSize }: ReportRequest, bitmap: Uint32Array): MaybePromise<void> {
    if (!this.#turns.busy && bitmap.byteLength <= SMALL_REPORT) {
      this.#loadReport(iova, length, pageSize);
      return this.#ask(this.#firstBytes(bitmap));
    }
    return this.#turns.run(() =>
      this.#device.use('DEVICE_FEATURE', fd => {
        this.#loadReport(iova, length, pageSize);
        return this.#askOffThread(fd, this.#firstBytes(bitmap));
      }),
    );
  }

  #isLent(address: bigint): boolean {
    try {
      this.#lent.at(address, 0);
      return true;
    } catch {
      return false;
    }
  }

  #takesLong(message: Uint8Array): boolean {
    const flags = requested(message);
    if ((flags & FEATURE_PROBE) !== 0) return false;
    if (flags !== (FEATURE_GET | linux.report)) return (flags & FEATURE_SET) !== 0;
    this.#load(message);
    const { view } = this.#block;
    // Without the precision of 64 bits: nothing hangs on which thread it is.
    return (
      Number(view.getBigUint64(LENGTH_AT, true)) / Number(view.getBigUint64(PAGE_SIZE_AT, true)) > SMALL_REPORT * 8
    );
  }

  #answer(message: Uint8Array): Uint8Array {
    return requested(message) === (FEATURE_GET | linux.report) ? this.#report(message) : this.#exchange(message);
  }

  /** Gives the memory for reports back when no request is under way any more. */
  async close(): Promise<void> {
    await this.#turns.run(async () => this.#reports.close());
  }

  async #inTurn(fd: number, message: Uint8Array): Promise<Uint8Array> {
    if (!this.#takesLong(message)) return this.#answer(message);
    switch (requested(message)) {
      case FEATURE_SET | linux.start:
        return this.#start(fd, message);
      case FEATURE_GET | linux.report:
        return this.#reportOffThread(fd, message);
      case FEATURE_SET | Feature.MIG_DEVICE_STATE:
        return this.#setState(fd, message);
      default:
        return this.#exchangeOffThread(fd, message);
    }
  }

  #exchange(message: Uint8Array): Uint8Array {
    const operation = operationOf(message);
    this.#load(message);
    ioctl(this.#device.now(operation), VfioRequest.DEVICE_FEATURE, this.#block, operation);
    return this.#block.copy(message.length);
  }

  async #exchangeOffThread(fd: number, message: Uint8Array): Promise<Uint8Array> {
    this.#load(message);
    await this.#callOffThread(fd, message);
    return this.#block.copy(message.length);
  }

  async #callOffThread(fd: number, message: Uint8Array): Promise<void> {
    await ioctlOffThread(fd, VfioRequest.DEVICE_FEATURE, this.#block, operationOf(message));
  }

  /** A message shorter than its argsz says is zeros behind, as far as any structure reaches. */
  #load(message: Uint8Array): void {
    this.#block.load(message);
    const { bytes } = this.#block;
    for (let index = message.length; index < message.length + REPORT_POINTER_SIZE; index++) bytes[index] = 0;
  }

  async #start(fd: number, message: Uint8Array): Promise<Uint8Array> {
    this.#load(message);
    const { view } = this.#block;
    const pointer = view.getBigUint64(RANGES_POINTER_AT, true);
    view.setBigUint64(RANGES_POINTER_AT, this.#loadRanges(pointer, view.getUint32(NUM_RANGES_AT, true)), true);
    await this.#callOffThread(fd, message);
    view.setBigUint64(RANGES_POINTER_AT, pointer, true);
    return this.#block.copy(message.length);
  }

  /** @returns where the ranges are for the kernel; 0, which it answers with EFAULT in its order of checks, when nobody lent them */
  #loadRanges(pointer: bigint, count: number): bigint {
    if (count === 0 || count > linux.maxRanges) return 0n;
    try {
      this.#ranges.bytes.set(this.#lent.at(pointer, count * RANGE_SIZE));
      return BigInt(this.#ranges.address);
    } catch {
      return 0n;
    }
  }

  #loadReport(iova: bigint, length: bigint, pageSize: bigint): void {
    const { view } = this.#block;
    view.setUint32(0, WHOLE_REPORT, true);
    view.setUint32(4, FEATURE_GET | linux.report, true);
    view.setBigUint64(IOVA_AT, iova, true);
    view.setBigUint64(LENGTH_AT, length, true);
    view.setBigUint64(PAGE_SIZE_AT, pageSize, true);
  }

  #report(message: Uint8Array): Uint8Array {
    this.#load(message);
    this.#ask(this.#lentBitmap());
    return message.slice();
  }

  async #reportOffThread(fd: number, message: Uint8Array): Promise<Uint8Array> {
    this.#load(message);
    await this.#askOffThread(fd, this.#lentBitmap());
    return message;
  }

  /** Asks for the report in the block. */
  #ask(bitmap: Uint8Array): void {
    const fd = this.#device.now(REPORT);
    this.#reports.report(bitmap, address => {
      this.#block.view.setBigUint64(BITMAP_AT, BigInt(address), true);
      ioctl(fd, VfioRequest.DEVICE_FEATURE, this.#block, REPORT);
    });
  }

  #askOffThread(fd: number, bitmap: Uint8Array): Promise<void> {
    return this.#reports.reportOffThread(bitmap, address => {
      this.#block.view.setBigUint64(BITMAP_AT, BigInt(address), true);
      return ioctlOffThread(fd, VfioRequest.DEVICE_FEATURE, this.#block, REPORT);
    });
  }

  /** @throws VfioError EFAULT for memory that nobody lent, E2BIG for more than there can be */
  #lentBitmap(): Uint8Array {
    const needed = this.#neededBytes();
    return needed === 0 ? NO_BITMAP : this.#lent.at(this.#block.view.getBigUint64(BITMAP_AT, true), needed);
  }

  /** @throws VfioError EFAULT when it has not enough, or was taken away while the report waited for its turn */
  #firstBytes(bitmap: Uint32Array): Uint8Array {
    const needed = this.#neededBytes();
    if (needed <= bitmap.byteLength) return new Uint8Array(bitmap.buffer, bitmap.byteOffset, needed);
    const message = `${bitmap.byteLength} bytes, needs ${needed}`;
    throw new VfioError('EFAULT', { operation: REPORT, field: 'bitmap', message });
  }

  /**
   * Bytes of bitmap of the report in the block, as the kernel reads it there: none where it refuses before it comes to the bitmap (kernel.md,
   * "Order of checks").
   * @throws VfioError E2BIG for more than there can be
   */
  #neededBytes(): number {
    const { view } = this.#block;
    const length = view.getBigUint64(LENGTH_AT, true);
    const pageSize = view.getBigUint64(PAGE_SIZE_AT, true);
    if (!isPowerOfTwo(pageSize) || pageSize < linux.minReportPageSize) return 0;
    if (view.getBigUint64(IOVA_AT, true) + length >= ADDRESS_LIMIT) return 0;
    const needed = bitmapSize(length, pageSize);
    if (!Number.isSafeInteger(needed)) throw invalid('E2BIG', 'length', `${needed} bytes of bitmap`);
    return needed;
  }

  async #setState(fd: number, message: Uint8Array): Promise<Uint8Array> {
    this.#load(message);
    const wanted = this.#block.view.getUint32(FEATURE_HEADER_SIZE, true);
    await this.#requirePossible(fd, wanted);
    try {
      await this.#callOffThread(fd, message);
    } catch (error) {
      // It may have gone a part of the way, or into ERROR.
      this.#migration.entered((await stateOf(fd)) ?? wanted, -1);
      throw error;
    }
    this.#migration.entered(wanted, this.#block.view.getInt32(FEATURE_HEADER_SIZE + 4, true));
    this.#block.view.setInt32(FEATURE_HEADER_SIZE + 4, -1, true);
    return this.#block.copy(message.length);
  }

  /** By the state that the kernel says: this side may not be the only one, or the first, that changes it. */
  async #requirePossible(fd: number, wanted: number): Promise<void> {
    const now = await stateOf(fd);
    const refused = now === undefined ? undefined : refusedArc(now, wanted, this.#migration.isOpen);
    if (refused !== undefined) {
      throw new VfioError('EINVAL', { operation: 'MIG_DEVICE_STATE', field: 'device_state', message: refused });
    }
  }

  /** Resets the device when the requests before are done: it is RUNNING then, and its migration data is gone. @throws VfioError as the driver answers */
  reset(): Promise<void> {
    return this.#turns.run(() =>
      this.#device.use('RESET', async fd => {
        await ioctlOffThread(fd, VfioRequest.DEVICE_RESET, 0, 'RESET');
        this.#migration.entered(MigrationState.RUNNING, -1);
      }),
    );
  }
}

/** The migration state; `undefined` where the device has none. On another thread: it is told only when no change is under way. */
async function stateOf(fd: number): Promise<number | undefined> {
  const block = new NativeBlock(16);
  block.view.setUint32(0, 16, true);
  block.view.setUint32(4, FEATURE_GET | Feature.MIG_DEVICE_STATE, true);
  try {
    await ioctlOffThread(fd, VfioRequest.DEVICE_FEATURE, block, 'MIG_DEVICE_STATE');
    return block.view.getUint32(FEATURE_HEADER_SIZE, true);
  } catch {
    return undefined;
  }
}

const REPORT = 'DMA_LOGGING_REPORT';
const NO_BITMAP = new Uint8Array(0);
const DIRECTIONS = FEATURE_GET | FEATURE_SET | FEATURE_PROBE;

/**
 * Index and directions, in one number. By single bytes: a DataView takes a small array out of the engine's heap, which costs more than the
 * ioctl.
 */
function requested(message: Uint8Array): number {
  const flags = message[4]! | (message[5]! << 8) | (message[6]! << 16) | (message[7]! << 24);
  return flags & (FEATURE_MASK | DIRECTIONS);
}

function operationOf(message: Uint8Array): string {
  return featureName(linux, requested(message) & FEATURE_MASK);
}

function invalid(errno: 'EINVAL' | 'E2BIG', field: string, message: string): VfioError {
  return new VfioError(errno, { operation: 'DEVICE_FEATURE', field, message });
}
