import type { DeviceHandle } from '../device/index.js';
import { GuestMemory } from '../memory/index.js';
import {
  bitmapBytes,
  DeviceFlag,
  type ErrnoName,
  encodeFeatureRequest,
  encodeRanges,
  encodeReport,
  encodeStartInline,
  encodeStartPointer,
  FEATURE_GET,
  FEATURE_HEADER_SIZE,
  FEATURE_SET,
  type IovaRange,
  MigrationState,
  type Profile,
  REPORT_INLINE_SIZE,
  VfioError,
  viewOf,
} from '../uapi/index.js';
import { VfioUserClient } from '../vfio-user/index.js';
import { Deviation, GoneError, StimulusError } from './deviation.js';
import { ExpectedLog, type ReportInterval } from './expected-log.js';
import { Random } from './random.js';
import { type DmaStimulus, requireUsable } from './stimulus.js';
import { withinLimit } from './time-limit.js';

/** Opens the device, again and again: some checks leave it and come back. */
export type OpenDevice = () => Promise<DeviceHandle>;

/** How a {@link Bench} works. */
export interface BenchOptions {
  stimulus?: DmaStimulus | undefined;
  /** How long a request or a DMA may take before the device counts as stuck, milliseconds. */
  timeLimitMs: number;
  /** Of {@link Bench.random}. */
  seed: number;
  /** Ends the run: whatever is asked of the bench next is thrown its reason. Cleaning up still works. */
  signal?: AbortSignal | undefined;
}

/** A feature request as it is sent, right or wrong. */
export interface RawRequest {
  index: number;
  /** FEATURE_GET, FEATURE_SET, FEATURE_PROBE, and bits that nobody knows. */
  flags: number;
  /** Default: the bytes that there are. */
  argsz?: number;
  data?: Uint8Array;
}

/** What a device answered. */
export interface Outcome {
  /** Missing: it succeeded. */
  errno: ErrnoName | undefined;
  /** The whole reply of a success. */
  reply: Uint8Array;
  /** The data of a success, behind the header. */
  data: Uint8Array;
}

/** START's arguments; by default the first window in pages of 4 KiB. */
export interface StartArguments {
  pageSize?: bigint;
  ranges?: readonly IovaRange[];
}

/** Errors that are the way's, not the device's answer: there is no device there any more. */
const GONE = new Set<ErrnoName>(['ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ETIMEDOUT', 'ENOTCONN']);

const NO_BYTES = new Uint8Array(0);
const MIB = 1n << 20n;
/** 16 MiB at 256 MiB, and 2 MiB that lie 64 GiB behind: a bitmap over both has a little more than 2 MiB at 4 KiB. */
const DEFAULT_WINDOWS: readonly IovaRange[] = [
  { iova: 256n * MIB, length: 16n * MIB },
  { iova: 256n * MIB + (1n << 36n), length: 2n * MIB },
];

/**
 * What a check works with: one device, asked in exact bytes, its answers within a time limit, and a naive account of what its log must hold.
 *
 * A check says what it expects in two ways: the `try…` calls give the device's answer, whatever it is; the others throw {@link Deviation} when it
 * is not a success.
 */
export class Bench {
  /** The same numbers for the same seed in each check. */
  random: Random;
  readonly #open: OpenDevice;
  readonly #options: BenchOptions;
  readonly #memory: GuestMemory;
  readonly #mappable: readonly IovaRange[];
  #device: DeviceHandle | undefined;
  #windows: readonly IovaRange[];
  #profile: Profile | undefined;
  #hasLogging = false;
  #migrationFlags = 0;
  #hasReset = false;
  #expected: ExpectedLog | undefined;
  #isUnmapped = false;
  #cleaning = false;

  private constructor(open: OpenDevice, options: BenchOptions) {
    this.#open = open;
    this.#options = options;
    this.random = new Random(options.seed);
    this.#mappable = options.stimulus?.windows ?? DEFAULT_WINDOWS;
    this.#windows = this.#mappable;
    this.#memory = GuestMemory.create(sizeOf(this.#mappable), 'conformance');
  }

  /** Opens the device, and lets it reach memory in the windows. @throws VfioError when it cannot be reached */
  static async open(open: OpenDevice, options: BenchOptions): Promise<Bench> {
    const bench = new Bench(open, options);
    try {
      await bench.#enter();
    } catch (error) {
      await bench.close();
      throw error;
    }
    return bench;
  }

  /** The device as it is open now. @throws GoneError while it is not */
  get device(): DeviceHandle {
    if (this.#device === undefined) throw new GoneError('the device is not open');
    return this.#device;
  }

  /** The device where its replies can be looked at as they come, with what a handle hides; `undefined`: it is behind no vfio-user socket. */
  get wire(): VfioUserClient | undefined {
    return this.device instanceof VfioUserClient ? this.device : undefined;
  }

  /** The dialect that is spoken with the device. */
  get profile(): Profile {
    return this.#profile!;
  }

  /** Where DMA can be made; without a stimulus, where logging is asked for. Bytes, multiples of 4096. */
  get windows(): readonly IovaRange[] {
    return this.#windows;
  }

  /** The first window. At least 1 MiB, unless the user has chosen a smaller one. */
  get window(): IovaRange {
    return this.#windows[0]!;
  }

  /** The memory behind the windows, one after the other, as the host sees it. */
  get memory(): GuestMemory {
    return this.#memory;
  }

  /** Whether the device says that it has any of START, STOP and REPORT. */
  get hasLogging(): boolean {
    return this.#hasLogging;
  }

  /** MIGRATION's flags; 0 for a device that cannot migrate. */
  get migrationFlags(): number {
    return this.#migrationFlags;
  }

  /** Whether the device says that it can be reset. */
  get hasReset(): boolean {
    return this.#hasReset;
  }

  /** How long the device may take for one thing, milliseconds. */
  get timeLimitMs(): number {
    return this.#options.timeLimitMs;
  }

  /** What makes the device do DMA. */
  get stimulus(): DmaStimulus | undefined {
    return this.#options.stimulus;
  }

  /** The account of the running log, for checks that keep it by themselves; `undefined` while nothing is logged. */
  get expected(): ExpectedLog | undefined {
    return this.#expected;
  }

  /** Waits for anything of the device's. @throws Deviation when it takes too long, GoneError when the device is gone */
  async within<T>(what: string, promise: Promise<T>): Promise<T> {
    const signal = this.#cleaning ? undefined : this.#options.signal;
    signal?.throwIfAborted();
    try {
      return await withinLimit(what, this.timeLimitMs, promise, signal);
    } catch (error) {
      if (error instanceof VfioError && GONE.has(error.errno)) {
        throw new GoneError(`${what}: the device went away: ${error.message}`);
      }
      throw error;
    }
  }

  /** Sends a request as it stands. */
  async request(request: RawRequest): Promise<Outcome> {
    const message = encodeFeatureRequest({ index: 0, data: request.data ?? new Uint8Array(0) });
    viewOf(message).setUint32(0, request.argsz ?? message.length, true);
    viewOf(message).setUint32(4, (request.index | request.flags) >>> 0, true);
    return this.requestBytes(message);
  }

  /** Sends the bytes of a request, header and all. */
  async requestBytes(message: Uint8Array): Promise<Outcome> {
    const { door } = this.device.features;
    const send = door.requestAsIs ?? door.request;
    try {
      const reply = await this.within('a feature request', send.call(door, message));
      return { errno: undefined, reply, data: reply.subarray(FEATURE_HEADER_SIZE) };
    } catch (error) {
      if (!(error instanceof VfioError)) throw error;
      return { errno: error.errno, reply: NO_BYTES, data: NO_BYTES };
    }
  }

  /** Pointer profiles: makes bytes reachable for the device while `use` runs. */
  async lending<T>(bytes: Uint8Array, use: (address: bigint) => Promise<T>): Promise<T> {
    const { door } = this.device.features;
    const address = door.lend!(bytes);
    try {
      return await use(address);
    } finally {
      door.take!(address);
    }
  }

  /** START. On success the account of what is logged begins anew; START's choice of page size is in `pageSize`. */
  async tryStart(start: StartArguments = {}): Promise<Outcome & { pageSize: bigint }> {
    const { pageSize = 4096n, ranges = [this.window] } = start;
    const index = this.profile.start;
    const set = (data: Uint8Array) => this.request({ index, flags: FEATURE_SET, data });
    const outcome = this.profile.pointers
      ? await this.lending(encodeRanges(ranges), rangesPointer =>
          set(encodeStartPointer({ pageSize, numRanges: ranges.length, rangesPointer })),
        )
      : await set(encodeStartInline(pageSize, ranges));
    if (outcome.errno !== undefined) return { ...outcome, pageSize: 0n };
    if (outcome.data.length < 8) throw new Deviation(`START succeeded with ${outcome.data.length} bytes of data`);
    const chosen = viewOf(outcome.data).getBigUint64(0, true);
    this.#expected = new ExpectedLog(ranges, chosen > 0n ? chosen : 1n);
    return { ...outcome, pageSize: chosen };
  }

  /** START that must succeed. @returns the page size that the device chose, bytes */
  async start(start: StartArguments = {}): Promise<bigint> {
    const { errno, pageSize } = await this.tryStart(start);
    if (errno !== undefined) throw new Deviation(`START failed with ${errno}`);
    return pageSize;
  }

  /** STOP. */
  async tryStop(): Promise<Outcome> {
    const outcome = await this.request({ index: this.profile.stop, flags: FEATURE_SET });
    if (outcome.errno === undefined) this.#expected = undefined;
    return outcome;
  }

  /** STOP that must succeed. */
  async stop(): Promise<void> {
    const { errno } = await this.tryStop();
    if (errno !== undefined) throw new Deviation(`STOP failed with ${errno}`);
  }

  /**
   * REPORT.
   * @param into pointer profiles: what the bitmap holds beforehand; default zeros
   * @returns the bitmap as it came back; empty when it failed
   */
  async tryReport(asked: ReportInterval, into?: Uint8Array): Promise<Outcome & { bitmap: Uint8Array }> {
    const index = this.profile.report;
    const size = Number(bitmapBytes(asked.length, asked.pageSize));
    if (this.profile.pointers) {
      const bitmap = into ?? new Uint8Array(size);
      const outcome = await this.lending(bitmap, address => this.reportAt(asked, address));
      return { ...outcome, bitmap };
    }
    const argsz = FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE + size;
    const outcome = await this.request({ index, flags: FEATURE_GET, argsz, data: encodeReport(asked) });
    if (outcome.errno === undefined && outcome.data.length !== REPORT_INLINE_SIZE + size) {
      const bytes = outcome.data.length - REPORT_INLINE_SIZE;
      throw new Deviation(`REPORT succeeded with ${bytes} bytes of bitmap where ${size} were asked for`);
    }
    return { ...outcome, bitmap: outcome.data.slice(REPORT_INLINE_SIZE) };
  }

  /** Pointer profiles: REPORT into a bitmap at an address, lent or not. */
  async reportAt(asked: ReportInterval, bitmapPointer: bigint): Promise<Outcome> {
    return this.request({
      index: this.profile.report,
      flags: FEATURE_GET,
      data: encodeReport({ ...asked, bitmapPointer }),
    });
  }

  /** REPORT that must succeed; its bitmap is not looked at. */
  async report(asked: ReportInterval): Promise<Uint8Array> {
    const { errno, bitmap } = await this.tryReport(asked);
    if (errno !== undefined) throw new Deviation(`REPORT of ${intervalText(asked)} failed with ${errno}`);
    return bitmap;
  }

  /**
   * REPORT that must succeed, and bring exactly what the device wrote since the last one.
   * @param asked default: the first window in pages of 4 KiB
   * @returns what was seen, for people
   */
  async checkReport(asked: ReportInterval = this.wholeWindow()): Promise<string> {
    const expected = this.#expected;
    if (expected === undefined) throw new Error('a report is checked while nothing is logged');
    const bitmap = await this.report(asked);
    return describing(`REPORT of ${intervalText(asked)}`, () => expected.report(asked, bitmap));
  }

  /** The report of the first window. */
  wholeWindow(pageSize = 4096n): ReportInterval {
    return { ...this.window, pageSize };
  }

  /** Makes the device write `length` bytes at `iova`. @throws StimulusError */
  async dmaWrite(iova: bigint, length: number): Promise<void> {
    const { stimulus } = this.#options;
    await this.#stimulate('write', iova, length, signal => stimulus!.write(iova, length, signal));
    this.#expected?.write(iova, length);
  }

  /** Makes the device read. @throws StimulusError */
  async dmaRead(iova: bigint, length: number): Promise<void> {
    const { stimulus } = this.#options;
    await this.#stimulate('read', iova, length, signal => stimulus!.read!(iova, length, signal));
  }

  async #stimulate(
    what: string,
    iova: bigint,
    length: number,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const { signal } = this.#options;
    signal?.throwIfAborted();
    const text = `DMA ${what} of ${length} bytes at 0x${iova.toString(16)}`;
    const waiting = new AbortController();
    try {
      await withinLimit('the stimulus', this.timeLimitMs, work(waiting.signal), signal);
    } catch (error) {
      throw new StimulusError(`${text}: ${error instanceof Error ? error.message : error}`);
    } finally {
      waiting.abort();
    }
  }

  /** Resets the device. Its log stays; DMA can be made again afterwards. */
  async reset(): Promise<void> {
    await this.within('RESET', this.device.reset());
    await this.#prepare();
  }

  /** Leaves the device as it is, without a word, and comes back. */
  async reopen(): Promise<void> {
    await this.leave();
    await this.#enter();
  }

  /** Leaves the device as it is, without a word. */
  async leave(): Promise<void> {
    const device = this.#device;
    this.#device = undefined;
    if (device !== undefined) await withinLimit('closing the device', this.timeLimitMs, device.close());
  }

  async #enter(): Promise<void> {
    const opening = this.#open();
    try {
      this.#device = await withinLimit('opening the device', this.timeLimitMs, opening);
    } catch (error) {
      // One that opens after all is nobody's by then.
      opening.then(
        late => late.close(),
        () => {},
      );
      throw error;
    }
    const { features } = this.#device;
    this.#profile = features.profile;
    const { start, stop, report } = features.profile;
    const offers = [
      features.probe(start, { set: true }),
      features.probe(stop, { set: true }),
      features.probe(report, { get: true }),
    ];
    this.#hasLogging = (await this.within('PROBE', Promise.all(offers))).includes(true);
    this.#migrationFlags = await this.#readMigrationFlags();
    this.#hasReset = await this.#readHasReset();
    for (const window of this.#mappable) await this.#map(window);
    this.#isUnmapped = false;
    await this.#prepare();
  }

  async #map(window: IovaRange): Promise<void> {
    const index = this.#mappable.indexOf(window);
    const offset = BigInt(sizeOf(this.#mappable.slice(0, index)));
    const region = { ...window, readable: true, writable: true };
    await this.within('mapping memory', this.device.mapMemory(region, this.#memory, offset));
  }

  /** Takes the first window's memory away from the device, until {@link Bench.mapWindow} or the end of the check. */
  async unmapWindow(): Promise<void> {
    const { iova, length } = this.#mappable[0]!;
    await this.within('unmapping memory', this.device.unmapMemory(iova, length));
    this.#isUnmapped = true;
  }

  /** Gives the first window's memory back. */
  async mapWindow(): Promise<void> {
    await this.#map(this.#mappable[0]!);
    this.#isUnmapped = false;
  }

  /** A device whose answer cannot be read counts as one that cannot migrate. */
  async #readMigrationFlags(): Promise<number> {
    try {
      return await this.within('GET MIGRATION', this.device.features.migrationFlags());
    } catch (error) {
      if (error instanceof VfioError) return 0;
      throw error;
    }
  }

  /** A device that does not say what it is counts as one without a reset. */
  async #readHasReset(): Promise<boolean> {
    try {
      const { flags } = await this.within('GET_INFO', this.device.info());
      return (flags & DeviceFlag.RESET) !== 0;
    } catch (error) {
      if (error instanceof VfioError) return false;
      throw error;
    }
  }

  async #prepare(): Promise<void> {
    const { stimulus } = this.#options;
    if (stimulus === undefined) return;
    try {
      this.#windows = await withinLimit(
        'preparing DMA',
        this.timeLimitMs,
        stimulus.prepare(this.device, this.#mappable),
      );
    } catch (error) {
      throw new StimulusError(`${stimulus.name}: ${error instanceof Error ? error.message : error}`);
    }
    requireUsable(stimulus, this.#windows);
  }

  /**
   * Puts the device where a check finds it, whatever the last one left: not logging, RUNNING. One that is gone or stuck is opened anew.
   * @throws GoneError, VfioError when that does not help
   */
  async clean(): Promise<void> {
    this.#cleaning = true;
    try {
      await this.#clean();
    } catch {
      await this.leave();
      await this.#enter();
      await this.#clean();
    } finally {
      this.#cleaning = false;
    }
    this.random = new Random(this.#options.seed);
  }

  async #clean(): Promise<void> {
    // Not started, no logging: all the same here.
    await this.tryStop();
    this.#expected = undefined;
    if (this.#isUnmapped) await this.mapWindow();
    if (this.#migrationFlags === 0) return;
    const { features } = this.device;
    if ((await this.within('GET state', features.migrationState())) === MigrationState.RUNNING) return;
    try {
      await this.within('SET RUNNING', features.setMigrationState(MigrationState.RUNNING));
    } catch (error) {
      if (!(error instanceof VfioError)) throw error;
      await this.reset();
    }
  }

  /** Lets go of device and stimulus. What the device was doing is not undone: {@link Bench.clean} does that. */
  async close(): Promise<void> {
    try {
      await this.#options.stimulus?.close();
    } finally {
      await this.leave();
      this.#memory.close();
    }
  }
}

function sizeOf(windows: readonly IovaRange[]): number {
  return windows.reduce((sum, { length }) => sum + Number(length), 0);
}

/** Says where a deviation was seen. */
function describing<T>(where: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof Deviation) throw new Deviation(`${where}: ${error.message}`);
    throw error;
  }
}

function intervalText({ iova, length, pageSize }: ReportInterval): string {
  return `0x${iova.toString(16)} + 0x${length.toString(16)} in pages of ${pageSize}`;
}
