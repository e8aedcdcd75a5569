import type { MaybePromise } from '../../memory/index.js';
import { VfioError } from '../../uapi/index.js';
import { fillPage, findFault, generationIn } from './page-content.js';
import { NO_PAGE, PageFault } from './page-fault.js';
import { createPageOrder, type PageOrder } from './page-order.js';
import type { WorkloadSettings } from './workload-settings.js';

/** What a workload counts; registers of the same names. */
export interface WorkloadCounters {
  pagesWritten: number;
  pagesChecked: number;
  checkErrors: number;
  firstBadPage: number;
  firstBadFault: PageFault;
  firstBadExpected: number;
  firstBadFound: number;
}

/** Memory as a workload reaches it: a device's `DmaPort`, a CPU's loads and stores. */
export interface WorkloadMemory {
  /** Fills `into`. @throws VfioError, or rejects so */
  read(iova: number, into: Uint8Array): MaybePromise<void>;
  /** Writes all of `from`. @throws VfioError, or rejects so; EFAULT and EPERM say that nothing was written */
  write(iova: number, from: Uint8Array): MaybePromise<void>;
}

/** Where a workload is; with its settings, all that it needs to go on elsewhere. */
export interface WorkloadProgress {
  /** What `PageOrder.save` gave. */
  order: Uint32Array;
  /** How often each page was written. */
  generations: Uint32Array;
  counters: WorkloadCounters;
}

/**
 * Writes pages in an order that follows from the seed, and knows of each what must be in it.
 *
 * How often a page was written, its generation, is counted; what is written depends on it. So a page that reaches another machine in an older
 * state is found when it is checked there: before a write, and by VERIFY. A page that was never written is not checked: its content is the
 * guest's.
 *
 * Where memory answers at once, nothing here makes a promise or allocates.
 */
export class Workload {
  readonly settings: WorkloadSettings;
  readonly counters: WorkloadCounters;
  /** Every n-th write first checks what is in the page; 0: none does. */
  checkInterval: number;
  /** Writes that take a promise end after the page that they are at. */
  resting = false;
  /** The first bad page was found. */
  onFirstBad: () => void = () => {};
  readonly #memory: WorkloadMemory;
  readonly #order: PageOrder;
  readonly #generations: Uint32Array;
  readonly #written: Int32Array;
  readonly #writtenBytes: Uint8Array;
  readonly #seen: Int32Array;
  readonly #seenBytes: Uint8Array;
  /** Set while a promise is under way: what is in memory and what the table says may differ until then. Never rejects. */
  #turn: Promise<void> | undefined;

  /** @throws VfioError EINVAL for progress that no such workload has */
  constructor(memory: WorkloadMemory, settings: WorkloadSettings, checkInterval: number, progress?: WorkloadProgress) {
    this.settings = settings;
    this.checkInterval = checkInterval;
    this.counters = progress?.counters ?? noCounters();
    this.#memory = memory;
    this.#order = createPageOrder(settings, progress?.order);
    this.#generations = progress?.generations ?? new Uint32Array(settings.pages);
    this.#writtenBytes = new Uint8Array(settings.pageSize);
    this.#written = new Int32Array(this.#writtenBytes.buffer);
    this.#seenBytes = new Uint8Array(settings.pageSize);
    this.#seen = new Int32Array(this.#seenBytes.buffer);
  }

  /** The workload's progress: its own, not a copy. Only while nothing is under way. */
  get progress(): WorkloadProgress {
    return { order: this.#order.save(), generations: this.#generations, counters: this.counters };
  }

  /**
   * Writes the next `count` pages. Where that takes a promise, {@link Workload.resting} ends it early.
   * @throws VfioError as {@link WorkloadMemory.write}, or rejects so
   */
  write(count: number): MaybePromise<void> {
    if (this.#turn !== undefined) return this.#turn.then(() => (this.resting ? undefined : this.write(count)));
    for (let left = count; left > 0; left--) {
      const done = this.#writeNext();
      if (done !== undefined) return this.#take(this.#writeRest(done, left - 1));
    }
    return undefined;
  }

  async #writeRest(first: Promise<void>, count: number): Promise<void> {
    await first;
    for (let left = count; left > 0 && !this.resting; left--) await this.#writeNext();
  }

  #writeNext(): MaybePromise<void> {
    const page = this.#order.next();
    if (!this.#isCheckDue(page)) return this.#overwrite(page);
    const done = this.#memory.read(this.#addressOf(page), this.#seenBytes);
    if (done !== undefined) return this.#checkAndOverwrite(done, page);
    this.#count(page, this.#faultOf(page));
    return this.#overwrite(page);
  }

  async #checkAndOverwrite(read: Promise<void>, page: number): Promise<void> {
    await read;
    this.#count(page, this.#faultOf(page));
    await this.#overwrite(page);
  }

  #isCheckDue(page: number): boolean {
    if (this.checkInterval === 0 || this.#generations[page] === 0) return false;
    return this.counters.pagesWritten % this.checkInterval === 0;
  }

  #overwrite(page: number): MaybePromise<void> {
    // 0 means "never written", so the count steps over it when it wraps.
    const generation = (this.#generations[page]! + 1) >>> 0 || 1;
    fillPage(this.#written, page, generation, this.settings.seed);
    let done: MaybePromise<void>;
    try {
      done = this.#memory.write(this.#addressOf(page), this.#writtenBytes);
    } catch (error) {
      this.#forget(page, error);
      throw error;
    }
    if (done !== undefined) return this.#overwriteLater(done, page, generation);
    this.#wrote(page, generation);
    return undefined;
  }

  async #overwriteLater(write: Promise<void>, page: number, generation: number): Promise<void> {
    try {
      await write;
    } catch (error) {
      this.#forget(page, error);
      throw error;
    }
    this.#wrote(page, generation);
  }

  #wrote(page: number, generation: number): void {
    this.#generations[page] = generation;
    this.counters.pagesWritten++;
  }

  /** A write that broke off may have written a part: what the page holds is not known any more. One that was refused wrote nothing. */
  #forget(page: number, error: unknown): void {
    const refused = error instanceof VfioError && (error.errno === 'EFAULT' || error.errno === 'EPERM');
    if (!refused) this.#generations[page] = 0;
  }

  /**
   * Compares a page with what was written to it last; it counts nothing.
   * @returns `undefined` for a page that was never written
   * @throws VfioError as {@link WorkloadMemory.read}, or rejects so
   */
  check(page: number): MaybePromise<PageFault | undefined> {
    if (this.#turn !== undefined) return this.#turn.then(() => this.check(page));
    if (this.#generations[page] === 0) return undefined;
    const done = this.#memory.read(this.#addressOf(page), this.#seenBytes);
    if (done !== undefined) return this.#take(done.then(() => this.#faultOf(page)));
    return this.#faultOf(page);
  }

  #faultOf(page: number): PageFault {
    return findFault(this.#seen, page, this.#generations[page]!, this.settings.seed);
  }

  #count(page: number, fault: PageFault): void {
    const { counters } = this;
    counters.pagesChecked++;
    if (fault === PageFault.NONE) return;
    counters.checkErrors++;
    if (counters.firstBadPage !== NO_PAGE) return;
    counters.firstBadPage = page;
    counters.firstBadFault = fault;
    counters.firstBadExpected = this.#generations[page]!;
    counters.firstBadFound = fault === PageFault.BLANK ? 0 : generationIn(this.#seen);
    this.onFirstBad();
  }

  #addressOf(page: number): number {
    return this.settings.base + page * this.settings.pageSize;
  }

  /** Holds others back until `work` is done. */
  #take<T>(work: Promise<T>): Promise<T> {
    const release = () => {
      this.#turn = undefined;
    };
    this.#turn = work.then(release, release);
    return work;
  }
}

/** Nothing was written yet. */
export function noCounters(): WorkloadCounters {
  return {
    pagesWritten: 0,
    pagesChecked: 0,
    checkErrors: 0,
    firstBadPage: NO_PAGE,
    firstBadFault: PageFault.NONE,
    firstBadExpected: 0,
    firstBadFound: 0,
  };
}
