import type { DmaPort } from '../../device/index.js';
import type { MaybePromise } from '../../memory/index.js';
import { ADDRESS_LIMIT, VfioError, viewOf } from '../../uapi/index.js';
import type { Workload } from '../workload/index.js';
import type { RegisterBlock } from './register-block.js';
import {
  COMMAND_CHUNK,
  DmaEngineCommand,
  DmaEngineRegister,
  NO_PAGE,
  PageFault,
  SCATTER_ENTRY_SIZE,
  SCATTER_MAX_LENGTH,
} from './registers.js';

const { SOURCE, DESTINATION, LENGTH, PATTERN, COMMAND, COMMAND_DONE } = DmaEngineRegister;
const { VERIFY_CHECKED, VERIFY_BAD, VERIFY_STALE, VERIFY_FIRST_BAD } = DmaEngineRegister;
const CHUNK = BigInt(COMMAND_CHUNK);
const VERIFY_PAGES = 16;

/**
 * Does commands chunk by chunk. Where a command is, is in the registers and nowhere else: what moves with them to another machine goes on
 * there at the next chunk.
 */
export class CommandUnit {
  readonly #dma: DmaPort;
  readonly #block: RegisterBlock;
  readonly #workload: () => Workload | undefined;
  readonly #buffer = new Uint8Array(COMMAND_CHUNK);
  readonly #entry = new Uint8Array(SCATTER_ENTRY_SIZE);

  /** @param workload the armed workload, which VERIFY checks */
  constructor(dma: DmaPort, block: RegisterBlock, workload: () => Workload | undefined) {
    this.#dma = dma;
    this.#block = block;
    this.#workload = workload;
  }

  /** A new command: progress and results from zero. */
  begin(command: number): void {
    this.#block.setU32(COMMAND, command);
    this.#block.setU64(COMMAND_DONE, 0n);
    if (command !== DmaEngineCommand.VERIFY) return;
    this.#block.setCount(VERIFY_CHECKED, 0);
    this.#block.setCount(VERIFY_BAD, 0);
    this.#block.setCount(VERIFY_STALE, 0);
    this.#block.setU32(VERIFY_FIRST_BAD, NO_PAGE);
  }

  /**
   * Does the next chunk.
   * @returns whether that was the last one
   * @throws VfioError (or rejects): what the command ends with; the chunk then counts as not done
   */
  advance(): MaybePromise<boolean> {
    switch (this.#block.u32(COMMAND)) {
      case DmaEngineCommand.COPY:
        return this.#copy();
      case DmaEngineCommand.FILL:
        return this.#fill();
      case DmaEngineCommand.SCATTER:
        return this.#scatter();
      case DmaEngineCommand.VERIFY:
        return this.#verify();
      default:
        throw invalid('command', 'there is no such command');
    }
  }

  #copy(): MaybePromise<boolean> {
    const source = this.#interval(SOURCE);
    const destination = this.#interval(DESTINATION);
    const length = this.#block.u64(LENGTH);
    const { done, size } = this.#nextBytes();
    // From the end where the destination begins inside the source: a chunk would overwrite what is still to be read.
    const backwards = source < destination && destination < source + length;
    const offset = backwards ? length - done - size : done;
    const bytes = this.#buffer.subarray(0, Number(size));
    const write = () => this.#dma.write(address(destination + offset), bytes);
    const read = this.#dma.read(address(source + offset), bytes);
    const written = read === undefined ? write() : read.then(write);
    return this.#after(written, done + size, length);
  }

  #fill(): MaybePromise<boolean> {
    const destination = this.#interval(DESTINATION);
    const length = this.#block.u64(LENGTH);
    const { done, size } = this.#nextBytes();
    const bytes = this.#buffer.subarray(0, Number(size));
    repeat(bytes, this.#block.bytes.subarray(PATTERN, PATTERN + 8));
    return this.#after(this.#dma.write(address(destination + done), bytes), done + size, length);
  }

  /** Where an interval of LENGTH bytes begins. @throws VfioError EOVERFLOW when it ends beyond 2^64 */
  #interval(register: number): bigint {
    const start = this.#block.u64(register);
    if (start + this.#block.u64(LENGTH) > ADDRESS_LIMIT) {
      throw new VfioError('EOVERFLOW', { operation: 'COMMAND', field: 'length', message: 'reaches beyond 2^64' });
    }
    return start;
  }

  #nextBytes(): { done: bigint; size: bigint } {
    const done = this.#block.u64(COMMAND_DONE);
    const left = this.#block.u64(LENGTH) - done;
    return { done, size: left < CHUNK ? left : CHUNK };
  }

  #scatter(): MaybePromise<boolean> {
    const entries = this.#block.u64(LENGTH);
    const done = this.#block.u64(COMMAND_DONE);
    if (done === entries) return true;
    const at = this.#block.u64(SOURCE) + done * BigInt(SCATTER_ENTRY_SIZE);
    const read = this.#dma.read(address(at), this.#entry);
    const written = read === undefined ? this.#writeEntry() : read.then(() => this.#writeEntry());
    return this.#after(written, done + 1n, entries);
  }

  #writeEntry(): MaybePromise<void> {
    const entry = viewOf(this.#entry);
    const length = entry.getUint32(8, true);
    if (length > SCATTER_MAX_LENGTH) throw invalid('length', `${length} bytes, at most ${SCATTER_MAX_LENGTH}`);
    if (length === 0) return undefined;
    const bytes = this.#buffer.subarray(0, length);
    repeat(bytes, this.#entry.subarray(12));
    return this.#dma.write(address(entry.getBigUint64(0, true)), bytes);
  }

  /** Progress is told when a chunk is done, so that a stop in between does it again rather than never. */
  #after(written: MaybePromise<void>, done: bigint, total: bigint): MaybePromise<boolean> {
    const advanced = () => {
      this.#block.setU64(COMMAND_DONE, done);
      return done === total;
    };
    return written === undefined ? advanced() : written.then(advanced);
  }

  #verify(): MaybePromise<boolean> {
    const workload = this.#workload();
    if (workload === undefined) throw invalid('workload', 'none is armed');
    const first = this.#block.count(COMMAND_DONE);
    const end = Math.min(first + VERIFY_PAGES, workload.settings.pages);
    return this.#verifyPages(workload, first, end);
  }

  #verifyPages(workload: Workload, first: number, end: number): MaybePromise<boolean> {
    for (let page = first; page < end; page++) {
      const fault = workload.check(page);
      if (fault instanceof Promise) {
        return fault.then(found => {
          this.#countVerified(page, found);
          return this.#verifyPages(workload, page + 1, end);
        });
      }
      this.#countVerified(page, fault);
    }
    return end === workload.settings.pages;
  }

  /** Progress goes page by page with the counts, so that no page is counted twice. */
  #countVerified(page: number, fault: PageFault | undefined): void {
    const block = this.#block;
    block.setCount(COMMAND_DONE, page + 1);
    if (fault === undefined) return;
    block.setCount(VERIFY_CHECKED, block.count(VERIFY_CHECKED) + 1);
    if (fault === PageFault.NONE) return;
    block.setCount(VERIFY_BAD, block.count(VERIFY_BAD) + 1);
    if (fault === PageFault.STALE || fault === PageFault.BLANK) {
      block.setCount(VERIFY_STALE, block.count(VERIFY_STALE) + 1);
    }
    if (block.u32(VERIFY_FIRST_BAD) === NO_PAGE) block.setU32(VERIFY_FIRST_BAD, page);
  }
}

/** An address as the cheapest type that holds it. */
function address(iova: bigint): number | bigint {
  return iova <= Number.MAX_SAFE_INTEGER ? Number(iova) : iova;
}

/** Fills `bytes` with `pattern`, repeated. 16 bytes of ab cd: the first two, then two, four, eight copied behind. */
function repeat(bytes: Uint8Array, pattern: Uint8Array): void {
  bytes.set(pattern.subarray(0, bytes.length));
  for (let filled = pattern.length; filled < bytes.length; filled *= 2) bytes.copyWithin(filled, 0, filled);
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'COMMAND', field, message });
}
