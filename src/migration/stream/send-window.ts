import { VfioError } from '../../uapi/index.js';
import { FRAME_HEADER_SIZE, MAX_PAYLOAD } from './stream-format.js';

/** How many frames may be sent and not yet acknowledged where nothing else is asked for. Each holds one block: 8 MiB. */
const FRAMES = 8;

/**
 * The frames that were sent and that the other end has not yet applied: a connection that comes after a lost one begins with them.
 *
 * Worked example: frames 0 to 4 were sent, and 2 was acknowledged: 0 and 1 are free again. The connection is lost, and the other end says
 * that it expects 3: it has 2 whole, but is still busy with it. Frames 3 and 4 are sent again; 2 is kept until it is acknowledged.
 */
export class SendWindow {
  readonly #free: Uint8Array[] = [];
  /** Whole frames, the oldest first, each at the beginning of its buffer. */
  readonly #sent: { buffer: Uint8Array; size: number }[] = [];
  readonly #most: number;
  #made = 0;
  #acknowledged = 0;
  #waiting: { resolve: (buffer: Uint8Array) => void; reject: (error: VfioError) => void }[] = [];
  #flushes: { resolve: () => void; reject: (error: VfioError) => void }[] = [];

  /** @param most how many frames may be sent and not yet acknowledged; each takes memory for a block */
  constructor(most = FRAMES) {
    this.#most = most;
  }

  /** The sequence of the oldest frame that is not acknowledged. */
  get acknowledged(): number {
    return this.#acknowledged;
  }

  /** The sequence of the next frame. */
  get next(): number {
    return this.#acknowledged + this.#sent.length;
  }

  /** Whether somebody waits for the other end to acknowledge. */
  get isAwaited(): boolean {
    return this.#waiting.length > 0 || this.#flushes.length > 0;
  }

  /** A buffer for a frame, as soon as one is free. @throws what {@link SendWindow.fail} was told */
  buffer(): Promise<Uint8Array> | Uint8Array {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made < this.#most) {
      this.#made++;
      return new Uint8Array(FRAME_HEADER_SIZE + MAX_PAYLOAD);
    }
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Takes back a buffer that nothing was sent in, or is needed in any more. */
  giveBack(buffer: Uint8Array): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(buffer);
    else next.resolve(buffer);
  }

  /** Keeps a frame, the next one, until it is acknowledged. */
  keep(buffer: Uint8Array, size: number): void {
    this.#sent.push({ buffer, size });
  }

  /** The other end has applied all frames before `next`. @throws VfioError EPROTO for frames that were never sent */
  acknowledge(next: number): void {
    if (next > this.next) throw outside('ACK', next, this.#acknowledged, this.next);
    while (this.#acknowledged < next) {
      this.#acknowledged++;
      this.giveBack(this.#sent.shift()!.buffer);
    }
    if (this.#sent.length === 0) for (const { resolve } of this.#flushes.splice(0)) resolve();
  }

  /** The frames from sequence `next` on, to send them again. @throws VfioError EPROTO for one that is not kept any more, or was never sent */
  from(next: number): Uint8Array[] {
    if (next < this.#acknowledged || next > this.next) throw outside('RESUME', next, this.#acknowledged, this.next);
    return this.#sent.slice(next - this.#acknowledged).map(({ buffer, size }) => buffer.subarray(0, size));
  }

  /** Done when all that was sent is acknowledged. */
  flushed(): Promise<void> {
    if (this.#sent.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => this.#flushes.push({ resolve, reject }));
  }

  /** Whoever waits gets `error`. */
  fail(error: VfioError): void {
    for (const { reject } of [...this.#waiting.splice(0), ...this.#flushes.splice(0)]) reject(error);
  }
}

function outside(operation: string, sequence: number, from: number, to: number): VfioError {
  return new VfioError('EPROTO', {
    operation,
    field: 'sequence',
    message: `${sequence} is not between ${from} and ${to}, the frames that are kept here`,
  });
}
