import type { DmaLog } from '../log/index.js';
import type { DmaMap, MaybePromise } from '../memory/index.js';
import { VfioError } from '../uapi/index.js';

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
  #inFlight = 0;
  #whenIdle: (() => void)[] = [];

  constructor(map: DmaMap, log: DmaLog) {
    this.map = map;
    this.log = log;
  }

  /**
   * Reads guest memory into `into`.
   * @throws VfioError EFAULT when the interval is not wholly mapped for reading (nothing was moved); EPERM while the device may not do DMA.
   */
  read(iova: number | bigint, into: Uint8Array): MaybePromise<void> {
    if (this.#refusal !== undefined) throw this.#refused();
    const done = this.map.read(iova, into);
    return done === undefined ? undefined : this.#finishRead(done);
  }

  /**
   * Writes `from` to guest memory and logs it.
   * @throws VfioError as {@link DmaPort.read}.
   */
  write(iova: number | bigint, from: Uint8Array): MaybePromise<void> {
    if (this.#refusal !== undefined) throw this.#refused();
    let done: MaybePromise<void>;
    try {
      done = this.map.write(iova, from);
    } catch (error) {
      this.#recordFailed(error, iova, from.length);
      throw error;
    }
    if (done !== undefined) return this.#finishWrite(done, iova, from.length);
    this.log.record(iova, from.length);
    return undefined;
  }

  /** A write is in flight until it is logged: what waits for {@link DmaPort.idle} and then reports must find it. */
  async #finishWrite(done: Promise<void>, iova: number | bigint, length: number): Promise<void> {
    this.#inFlight++;
    try {
      await done;
      this.log.record(iova, length);
    } catch (error) {
      this.#recordFailed(error, iova, length);
      throw error;
    } finally {
      this.#landed();
    }
  }

  /** A write that failed on its way may have changed memory; one refused with EFAULT has not. */
  #recordFailed(error: unknown, iova: number | bigint, length: number): void {
    if (!(error instanceof VfioError && error.errno === 'EFAULT')) this.log.record(iova, length);
  }

  async #finishRead(done: Promise<void>): Promise<void> {
    this.#inFlight++;
    try {
      await done;
    } finally {
      this.#landed();
    }
  }

  #landed(): void {
    this.#inFlight--;
    if (this.#inFlight === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
  }

  /** Done when no DMA is in flight. Reads and writes of mapped memory never are. */
  idle(): MaybePromise<void> {
    if (this.#inFlight === 0) return undefined;
    return new Promise<void>(resolve => this.#whenIdle.push(resolve));
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

  #refused(): VfioError {
    return new VfioError('EPERM', { operation: 'DMA', message: this.#refusal });
  }
}
