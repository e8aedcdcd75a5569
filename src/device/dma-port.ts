import type { DmaLog } from '../log/index.js';
import type { DmaMap, MaybePromise } from '../memory/index.js';
import { VfioError } from '../uapi/index.js';

/** What a {@link DmaPort} counts, since it was made. */
export interface DmaStatistics {
  /** DMAs that were done, and their bytes. */
  readonly reads: number;
  readonly writes: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** DMAs refused while the device might do none; those to unmapped memory are the map's to count. */
  readonly refused: number;
}

/**
 * The one way of a device to guest memory. Every write that goes through it is logged, so no device author can forget to.
 *
 * A call gives `undefined` when it is done at once (memory that is mapped or a file), a promise when the memory is reached by messages:
 * `await port.write(…)` is right for both; a hot loop looks at the value and waits only for a promise.
 *
 * Order: the bytes move first, the log marks after. Were it the other way round, a report between the two would take the mark, the host
 * would copy the page as it was, and the bytes that then arrive would be lost. The other order only reports a page once more.
 */
export class DmaPort {
  /** IOVA to memory. */
  readonly map: DmaMap;
  /** The log of this port's writes. */
  readonly log: DmaLog;
  #stopped: string | undefined;
  #busMaster = true;
  #refusal: string | undefined;
  /** DMAs that memory answers late, each until it has landed. */
  readonly #inFlight = new Set<Promise<void>>();
  #whenIdle: (() => void)[] = [];
  #reads = 0;
  #writes = 0;
  #bytesRead = 0;
  #bytesWritten = 0;
  #refused = 0;

  constructor(map: DmaMap, log: DmaLog) {
    this.map = map;
    this.log = log;
  }

  /**
   * Reads guest memory into `into`.
   * @throws VfioError EFAULT when the interval is not wholly mapped for reading (nothing was moved); EPERM while the device may not do DMA;
   *   ETIMEDOUT, ECONNRESET and the like where memory is reached by messages.
   */
  read(iova: number | bigint, into: Uint8Array): MaybePromise<void> {
    if (this.#refusal !== undefined) throw this.#refuse();
    const done = this.map.read(iova, into);
    if (done !== undefined) return this.#track(this.#finishRead(done, into.length));
    this.#reads++;
    this.#bytesRead += into.length;
    return undefined;
  }

  /**
   * Writes `from` to guest memory and logs it.
   * @throws VfioError as {@link DmaPort.read}.
   */
  write(iova: number | bigint, from: Uint8Array): MaybePromise<void> {
    if (this.#refusal !== undefined) throw this.#refuse();
    let done: MaybePromise<void>;
    try {
      done = this.map.write(iova, from);
    } catch (error) {
      this.#recordFailed(error, iova, from.length);
      throw error;
    }
    if (done !== undefined) return this.#track(this.#finishWrite(done, iova, from.length));
    this.#recordDone(iova, from.length);
    return undefined;
  }

  /** A write is in flight until it is logged: what waits for {@link DmaPort.idle} and then reports must find it. */
  async #finishWrite(done: Promise<void>, iova: number | bigint, length: number): Promise<void> {
    try {
      await done;
    } catch (error) {
      this.#recordFailed(error, iova, length);
      throw error;
    }
    this.#recordDone(iova, length);
  }

  #recordDone(iova: number | bigint, length: number): void {
    this.log.record(iova, length);
    this.#writes++;
    this.#bytesWritten += length;
  }

  /** A write that failed on its way may have changed memory; one refused with EFAULT has not. */
  #recordFailed(error: unknown, iova: number | bigint, length: number): void {
    if (!(error instanceof VfioError && error.errno === 'EFAULT')) this.log.record(iova, length);
  }

  async #finishRead(done: Promise<void>, length: number): Promise<void> {
    await done;
    this.#reads++;
    this.#bytesRead += length;
  }

  #track(pending: Promise<void>): Promise<void> {
    const landing = pending.finally(() => this.#land(landing));
    this.#inFlight.add(landing);
    return landing;
  }

  #land(landing: Promise<void>): void {
    this.#inFlight.delete(landing);
    if (this.#inFlight.size === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
  }

  /** Whether DMA is in flight. Reads and writes of mapped memory never are. */
  get busy(): boolean {
    return this.#inFlight.size > 0;
  }

  /** Done when no DMA is in flight. */
  idle(): MaybePromise<void> {
    if (this.#inFlight.size === 0) return undefined;
    return new Promise<void>(resolve => this.#whenIdle.push(resolve));
  }

  /** Done when all DMA that is in flight now has landed, well or not, and is logged; DMA that begins later is not waited for. */
  landed(): MaybePromise<void> {
    if (this.#inFlight.size === 0) return undefined;
    return Promise.allSettled([...this.#inFlight]).then(() => undefined);
  }

  /** What was done until now. */
  get statistics(): DmaStatistics {
    return {
      reads: this.#reads,
      writes: this.#writes,
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
      refused: this.#refused,
    };
  }

  /** Refuses all DMA from now on, naming the reason in errors: the device is stopped for migration. */
  stop(reason: string): void {
    this.#stopped = reason;
    this.#refresh();
  }

  /** Allows DMA again. */
  start(): void {
    this.#stopped = undefined;
    this.#refresh();
  }

  /** Follows the bus master bit of the PCI command register. */
  set busMaster(enabled: boolean) {
    this.#busMaster = enabled;
    this.#refresh();
  }

  /** Whether DMA is allowed now. */
  get allowed(): boolean {
    return this.#refusal === undefined;
  }

  #refresh(): void {
    this.#refusal = this.#stopped ?? (this.#busMaster ? undefined : 'bus mastering is off in the command register');
  }

  #refuse(): VfioError {
    this.#refused++;
    return new VfioError('EPERM', { operation: 'DMA', message: this.#refusal });
  }
}
