import { viewOf } from '../../uapi/index.js';
import { type Address, readAddress } from './address.js';
import { DataSegments } from './prp.js';
import type { SubmissionQueue } from './queues.js';
import { COMPLETION_ENTRY_SIZE, SUBMISSION_ENTRY_SIZE } from './registers.js';

/** Buffers grow in powers of two from here on, bytes. */
const SMALLEST_BUFFER = 4096;

/**
 * A command from its fetch to its completion: the submission queue entry (NVMe 1.4, figure 105), a buffer for its data, and where in host memory
 * that goes. One object serves one command after the other, so that a command allocates next to nothing.
 */
export class Request {
  /** The submission queue entry. */
  readonly entry = new Uint8Array(SUBMISSION_ENTRY_SIZE);
  /** The completion queue entry, until it has been written. */
  readonly completion = new Uint8Array(COMPLETION_ENTRY_SIZE);
  readonly segments = new DataSegments();
  /** The queue that it came from. */
  queue: SubmissionQueue | undefined;
  /** Dword 0 of its completion. */
  result = 0;
  readonly #view = viewOf(this.entry);
  #buffer = new Uint8Array(0);
  #data = this.#buffer;

  get opcode(): number {
    return this.entry[0]!;
  }

  /** FUSE and PSDT: 0 for a command by itself with PRPs. */
  get commandFlags(): number {
    return this.entry[1]!;
  }

  get commandId(): number {
    return this.#view.getUint16(2, true);
  }

  get namespaceId(): number {
    return this.#view.getUint32(4, true);
  }

  get prp1(): Address {
    return readAddress(this.#view, 24);
  }

  get prp2(): Address {
    return readAddress(this.#view, 32);
  }

  /** A command dword, 10 to 15. */
  dword(index: number): number {
    return this.#view.getUint32(index * 4, true);
  }

  /** Command dwords 10 and 11 of a read or write: the first block. Beyond 2^53 it is rounded, which is far beyond any disk. */
  get startingBlock(): number {
    return this.dword(11) * 2 ** 32 + this.dword(10);
  }

  /** A buffer of `length` bytes, with anything in it. */
  data(length: number): Uint8Array {
    if (this.#data.length === length) return this.#data;
    if (this.#buffer.length < length) {
      this.#buffer = new Uint8Array(Math.max(SMALLEST_BUFFER, 2 ** Math.ceil(Math.log2(length))));
    }
    this.#data = this.#buffer.subarray(0, length);
    return this.#data;
  }
}
