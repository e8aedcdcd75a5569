import { viewOf } from '../../uapi/index.js';
import type { Request } from './request.js';
import type { NvmeStatus } from './status.js';

/** Errors that the log keeps. Identify's ELPE says one less. */
export const ERROR_LOG_ENTRIES = 64;
/** Bytes of an entry. */
export const ERROR_ENTRY_SIZE = 64;

/** Queue id and command id of an error that no command made; parameter location of one that is not about a parameter. */
const NONE = 0xffff;

/** What migrates of the log. */
export interface ErrorLogState {
  /** Errors so far. */
  count: number;
  /** The entries, newest first, {@link ERROR_ENTRY_SIZE} bytes each. */
  entries: Uint8Array;
}

/** The error information log (NVMe 1.4, section 5.14.1.1): the last errors, newest first. */
export class ErrorLog {
  #count = 0;
  #entries: Uint8Array[] = [];

  /** Errors so far. */
  get count(): number {
    return this.#count;
  }

  /** A command ended with an error. */
  addCommand(request: Request, queueId: number, status: NvmeStatus): void {
    const entry = this.#add(queueId, request.commandId, status);
    entry.setUint32(16, request.dword(10), true);
    entry.setUint32(20, request.dword(11), true);
    entry.setUint32(24, request.namespaceId, true);
  }

  /** Something went wrong that no command made. */
  addOther(status: NvmeStatus): void {
    this.#add(NONE, NONE, status);
  }

  #add(queueId: number, commandId: number, status: NvmeStatus): DataView {
    const entry = new Uint8Array(ERROR_ENTRY_SIZE);
    const view = viewOf(entry);
    this.#count++;
    view.setBigUint64(0, BigInt(this.#count), true);
    view.setUint16(8, queueId, true);
    view.setUint16(10, commandId, true);
    view.setUint16(12, status << 1, true);
    view.setUint16(14, NONE, true);
    this.#entries.unshift(entry);
    if (this.#entries.length > ERROR_LOG_ENTRIES) this.#entries.pop();
    return view;
  }

  /** The log page. */
  page(): Uint8Array {
    const page = new Uint8Array(ERROR_LOG_ENTRIES * ERROR_ENTRY_SIZE);
    page.set(this.save().entries);
    return page;
  }

  save(): ErrorLogState {
    return { count: this.#count, entries: new Uint8Array(Buffer.concat(this.#entries)) };
  }

  /** Takes what {@link ErrorLog.save} gave and {@link isErrorLogState} accepts. */
  load({ count, entries }: ErrorLogState): void {
    this.#count = count;
    this.#entries = [];
    for (let at = 0; at < entries.length; at += ERROR_ENTRY_SIZE) {
      this.#entries.push(entries.slice(at, at + ERROR_ENTRY_SIZE));
    }
  }
}

/** Whether a state is one that an {@link ErrorLog} can have: an entry for each error, up to the most that are kept. */
export function isErrorLogState({ count, entries }: ErrorLogState): boolean {
  return entries.length === Math.min(count, ERROR_LOG_ENTRIES) * ERROR_ENTRY_SIZE;
}
