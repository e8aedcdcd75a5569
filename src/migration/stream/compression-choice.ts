/*
 * Whether compressing pays, found out while sending.
 *
 * It pays when it takes less time than the link would have needed for the bytes that it saves. Worked example: a link moves 120,000 bytes a
 * millisecond. Compressing 1 MiB takes 3 ms and leaves 400 KiB: 640 KiB less are 5.5 ms of the link, so it pays. Over loopback, at 900,000
 * bytes a millisecond, they are 0.7 ms, and it does not.
 *
 * How fast the link is shows only while it is what everybody waits for. Blocks are counted in windows of 16, more than the buffers on the way
 * hold: a window without compression shows what the link and the rest of the way do together; one with compression shows it only when most of
 * its time was spent outside of the encoder. Otherwise the link may have become faster unseen, and now and then a window goes plain to see.
 */

/** Blocks after which is decided anew. */
const WINDOW = 16;
/** Of so many compressed windows in a row one goes plain: 1.6 % at worst. */
const WINDOWS_UNSEEN = 64;
/** The part of all time that trying may take while it does not pay. */
const MOST_FOR_TRIALS = 0.02;
/** Milliseconds between trials at least: what one leaves behind waits for the garbage collector, and was 10 MiB a thread without this. */
const BETWEEN_TRIALS_MS = 50;
/** Weight of the latest block in what compressing costs and saves. */
const LATEST = 0.3;

/** Decides block by block whether to compress. Times are milliseconds of any clock that never goes back. */
export class CompressionChoice {
  /** What the way moves uncompressed, bytes per millisecond; 0 as long as nobody knows. */
  #bytesPerMs = 0;
  /** Milliseconds that compressing a byte takes. */
  #costPerByte = 0;
  /** Part of a byte that it saves. */
  #savedPerByte = 0;
  #hasTried = false;
  #compresses = false;
  #nextTrialAt = Number.NEGATIVE_INFINITY;
  #windowsUnseen = 0;
  #blocks = 0;
  #bytes = 0;
  #workMs = 0;
  #startedAt: number | undefined;

  /** Whether most blocks are compressed now. */
  get compresses(): boolean {
    return this.#compresses;
  }

  /** Sending rests: the time until the next block says nothing about the link. */
  rest(): void {
    this.#startedAt = undefined;
  }

  /** Whether the next block, which begins now, should be compressed: because it pays, or to see whether it would. */
  next(now: number): boolean {
    if (this.#startedAt === undefined) this.#beginWindow(now);
    if (this.#blocks === WINDOW) this.#endWindow(now);
    if (this.#compresses) return true;
    return now >= this.#nextTrialAt;
  }

  /** A block was sent as it is. */
  sentPlain(bytes: number): void {
    this.#blocks++;
    this.#bytes += bytes;
  }

  /**
   * A block was compressed.
   * @param before bytes that went in
   * @param after bytes that are sent, the same when it did not shrink
   */
  sentCompressed(before: number, after: number, startedAt: number, endedAt: number): void {
    this.#blocks++;
    this.#bytes += after;
    this.tried(before, after, startedAt, endedAt);
  }

  /** A part of a block was compressed, to see what that brings; the block is still to be sent. Parameters as of {@link sentCompressed}. */
  tried(before: number, after: number, startedAt: number, endedAt: number): void {
    const tookMs = endedAt - startedAt;
    this.#workMs += tookMs;
    this.#nextTrialAt = endedAt + Math.max(tookMs / MOST_FOR_TRIALS, BETWEEN_TRIALS_MS);
    const weight = this.#hasTried ? LATEST : 1;
    this.#hasTried = true;
    this.#costPerByte += weight * (tookMs / before - this.#costPerByte);
    this.#savedPerByte += weight * ((before - after) / before - this.#savedPerByte);
  }

  #beginWindow(now: number): void {
    this.#startedAt = now;
    this.#blocks = 0;
    this.#bytes = 0;
    this.#workMs = 0;
  }

  #endWindow(now: number): void {
    const tookMs = Math.max(now - this.#startedAt!, Number.EPSILON);
    const showsTheLink = !this.#compresses || this.#workMs < tookMs / 2;
    // Trials are no part of the way; compressing that goes on while the link is busy is.
    const wayMs = this.#compresses ? tookMs : Math.max(tookMs - this.#workMs, Number.EPSILON);
    if (showsTheLink) this.#bytesPerMs = this.#bytes / wayMs;
    this.#windowsUnseen = showsTheLink ? 0 : this.#windowsUnseen + 1;
    const pays = this.#hasTried && this.#costPerByte * this.#bytesPerMs < this.#savedPerByte;
    this.#compresses = pays && this.#windowsUnseen < WINDOWS_UNSEEN;
    this.#beginWindow(now);
  }
}
