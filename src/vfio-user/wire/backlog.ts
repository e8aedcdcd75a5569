import { closeFds, type Frame } from './frame-parser.js';

/**
 * How many received messages may wait while one is served, with how much data and how many descriptors; beyond, the socket is not read,
 * unless a reply is awaited from it. The last message may go beyond by as much as a message may have.
 */
const COMFORTABLE_MESSAGES = 16;
const COMFORTABLE_BYTES = 4 * 1024 * 1024;
const COMFORTABLE_FDS = 32;

/**
 * How much may wait at most, when reading must go on for the sake of a reply behind it: as many messages as there are ids, the data of
 * several large requests, and a quarter of the 1024 descriptors that a process has by default. A peer that sends more without a reply
 * is not one that waits for any.
 */
const MOST_MESSAGES = 0x10000;
const MOST_BYTES = 64 * 1024 * 1024;
const MOST_FDS = 256;

/** Messages that have come and wait to be served, in order. */
export class Backlog {
  #frames: Frame[] = [];
  #bytes = 0;
  #fds = 0;

  /** How many messages wait. */
  get length(): number {
    return this.#frames.length;
  }

  /** Whether it is time to stop reading where that is possible. */
  get isFull(): boolean {
    return (
      this.#frames.length >= COMFORTABLE_MESSAGES || this.#bytes >= COMFORTABLE_BYTES || this.#fds >= COMFORTABLE_FDS
    );
  }

  /** Whether more waits than any peer may have waiting: nothing may be added. */
  get overflows(): boolean {
    return this.#frames.length > MOST_MESSAGES || this.#bytes > MOST_BYTES || this.#fds > MOST_FDS;
  }

  /** Puts a message behind the others. */
  push(frame: Frame): void {
    this.#frames.push(frame);
    this.#bytes += frame.payload.length;
    this.#fds += frame.fds.length;
  }

  /** Takes the first message. */
  shift(): Frame | undefined {
    const frame = this.#frames.shift();
    if (frame === undefined) return undefined;
    this.#bytes -= frame.payload.length;
    this.#fds -= frame.fds.length;
    return frame;
  }

  /** Drops all messages, and closes what came with them. */
  clear(): void {
    for (const frame of this.#frames.splice(0)) closeFds(frame.fds);
    this.#bytes = 0;
    this.#fds = 0;
  }
}
