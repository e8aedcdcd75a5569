import type { Device } from '../src/device/index.js';
import { type IovaRange, VfioError } from '../src/uapi/index.js';

const PAGE = 4096n;
const ADDRESSES: IovaRange = { iova: 0n, length: 2n ** 64n };

/**
 * Looks on at a device's DMA and log, and keeps a set of pages of its own: what a report must have, and what it may have. It sees every
 * write, and that it is logged; every report, whoever asked for it, and whether it lacks a page or invents one. The device's log page is
 * 4 KiB. It marks when the log does, not when a write's promise is seen to be settled: a report may come between the two.
 */
export class LogWitness {
  readonly #must = new Set<bigint>();
  /** Pages that a report has covered in part: their bits may be kept. */
  readonly #may = new Set<bigint>();
  #ranges: readonly IovaRange[] = [];
  #records = 0;
  readonly #failures: string[] = [];

  constructor({ dma }: Device) {
    const { log } = dma;
    const record = log.record.bind(log);
    log.record = (iova, length) => {
      record(iova, length);
      this.#records++;
      this.#mark(BigInt(iova), length);
    };
    const write = dma.write.bind(dma);
    dma.write = (iova, from) => this.#watchWrite(BigInt(iova), from.length, () => write(iova, from));
    const start = log.start.bind(log);
    log.start = (hint, ranges) => {
      const pageSize = start(hint, ranges);
      this.#forget();
      this.#ranges = ranges === 'everything' ? [ADDRESSES] : ranges;
      return pageSize;
    };
    const stop = log.stop.bind(log);
    log.stop = () => {
      stop();
      this.#forget();
    };
    const report = log.report.bind(log);
    log.report = (iova, length, pageSize, bitmap) => {
      const before = bitmap.slice();
      report(iova, length, pageSize, bitmap);
      this.#take(iova, length, pageSize, bitmap, before);
    };
    const reportShared = log.reportShared.bind(log);
    log.reportShared = (iova, length, pageSize, bitmap) => {
      const before = bitmap.slice();
      reportShared(iova, length, pageSize, bitmap);
      this.#take(iova, length, pageSize, bitmap, before);
    };
  }

  /** Numbers of the pages that the next report of everything must have, ascending. */
  get dirtyPages(): bigint[] {
    return [...this.#must].sort((a, b) => (a < b ? -1 : 1));
  }

  /** What went wrong so far, in words. */
  get failures(): readonly string[] {
    return this.#failures;
  }

  #forget(): void {
    this.#must.clear();
    this.#may.clear();
    this.#ranges = [];
  }

  /** A write that has moved bytes, or may have, must be in the log when it is done. */
  #watchWrite(iova: bigint, length: number, write: () => void | Promise<void>): void | Promise<void> {
    const before = this.#records;
    const failed = (error: unknown): never => {
      // Nothing has moved after EFAULT, and nothing after a refusal.
      const refused = error instanceof VfioError && (error.errno === 'EFAULT' || error.errno === 'EPERM');
      if (!refused) this.#requireRecord(before, iova, length);
      throw error;
    };
    try {
      const pending = write();
      if (pending !== undefined) return pending.then(() => this.#requireRecord(before, iova, length), failed);
    } catch (error) {
      return failed(error);
    }
    this.#requireRecord(before, iova, length);
  }

  #requireRecord(before: number, iova: bigint, length: number): void {
    if (this.#records === before) this.#failures.push(`a write of ${length} at ${iova} was not logged`);
  }

  #mark(iova: bigint, length: number): void {
    for (const range of this.#ranges) {
      const start = iova > range.iova ? iova : range.iova;
      const end = smaller(iova + BigInt(length), range.iova + range.length);
      for (let page = start / PAGE; page * PAGE < end && start < end; page++) this.#must.add(page);
    }
  }

  /** Compares a report with the pages known, and clears those that it covers whole. */
  #take(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array, before: Uint32Array): void {
    const allowed = new Set<number>();
    const end = iova + length;
    for (const pages of [this.#must, this.#may]) {
      for (const page of [...pages]) {
        const from = page * PAGE > iova ? page * PAGE : iova;
        const to = smaller((page + 1n) * PAGE, end);
        if (from >= to) continue;
        for (let bit = (from - iova) / pageSize; bit <= (to - 1n - iova) / pageSize; bit++) {
          allowed.add(Number(bit));
          if (pages === this.#must && !isSet(bitmap, Number(bit))) {
            this.#failures.push(`page ${page} is lost: bit ${bit} of a report of ${length} at ${iova}`);
          }
        }
        const isWhole = to - from === PAGE;
        // Of a page that is covered in part, the rest must be kept only if it is logged at all.
        if (isWhole || !this.#isLoggedWhole(page)) pages.delete(page);
        if (!isWhole) this.#may.add(page);
      }
    }
    for (let bit = 0; bit < bitmap.length * 32; bit++) {
      if (isSet(bitmap, bit) && !isSet(before, bit) && !allowed.has(bit)) {
        this.#failures.push(`bit ${bit} of a report of ${length} at ${iova} speaks of no page that was written`);
      }
    }
  }

  #isLoggedWhole(page: bigint): boolean {
    return this.#ranges.some(({ iova, length }) => iova <= page * PAGE && (page + 1n) * PAGE <= iova + length);
  }
}

function isSet(bitmap: Uint32Array, bit: number): boolean {
  return ((bitmap[bit >>> 5]! >>> (bit & 31)) & 1) === 1;
}

function smaller(left: bigint, right: bigint): bigint {
  return left < right ? left : right;
}
