import type { MaybePromise } from '../../memory/index.js';
import { asVfioError, ERRNO, VfioError } from '../../uapi/index.js';
import { Backlog } from '../wire/backlog.js';
import { closeFds, type Frame } from '../wire/frame-parser.js';
import { encodeErrorReply, encodeReply, type Header } from '../wire/header.js';
import { MAX_REPLIES_QUEUED } from '../wire/limits.js';
import type { MessageStream } from '../wire/message-stream.js';

/**
 * The server's commands on one stream: served one after the other, and only while the replies before them leave. What waits is its owner's to
 * bound, by no longer reading or by ending the connection.
 */
export class ServedCommands {
  readonly #stream: Pick<MessageStream, 'send' | 'queuedBytes' | 'destroy'>;
  readonly #serve: (frame: Frame) => MaybePromise<Uint8Array>;
  readonly #backlog = new Backlog();
  readonly #allServed: () => void;
  #busy = false;

  /**
   * @param serve gives a reply's payload; throws or rejects with the errno to answer
   * @param allServed is told when nothing waits any more
   */
  constructor(
    stream: Pick<MessageStream, 'send' | 'queuedBytes' | 'destroy'>,
    serve: (frame: Frame) => MaybePromise<Uint8Array>,
    allServed: () => void,
  ) {
    this.#stream = stream;
    this.#serve = serve;
    this.#allServed = allServed;
  }

  /** Whether commands wait. */
  get waiting(): boolean {
    return this.#backlog.length > 0;
  }

  /** Whether more waits than any server may have waiting. */
  get overflows(): boolean {
    return this.#backlog.overflows;
  }

  /** Takes a command. No command has a use for descriptors. */
  push(frame: Frame): void {
    closeFds(frame.fds.splice(0));
    this.#backlog.push(frame);
    this.pump();
  }

  /** Serves what waits, for as long as each is done at once and its reply leaves. */
  pump(): void {
    while (!this.#busy && this.#stream.queuedBytes <= MAX_REPLIES_QUEUED) {
      const frame = this.#backlog.shift();
      if (frame === undefined) {
        this.#allServed();
        return;
      }
      this.#begin(frame);
    }
  }

  /** Drops what waits. */
  clear(): void {
    this.#backlog.clear();
  }

  #begin(frame: Frame): void {
    try {
      const reply = this.#serve(frame);
      if (reply instanceof Promise) this.#finishLater(frame.header, reply);
      else this.#reply(frame.header, reply);
    } catch (error) {
      this.#fail(frame.header, error);
    }
  }

  #finishLater(header: Header, reply: Promise<Uint8Array>): void {
    this.#busy = true;
    reply
      .then(
        payload => this.#reply(header, payload),
        error => this.#fail(header, error),
      )
      .then(() => {
        this.#busy = false;
        this.pump();
      });
  }

  #reply(header: Header, payload: Uint8Array): void {
    if (!header.noReply) this.#send(encodeReply(header, payload));
  }

  #fail(header: Header, error: unknown): void {
    if (header.noReply) return;
    this.#send(encodeErrorReply(header, error instanceof VfioError ? error.number : ERRNO.EIO));
  }

  #send(message: Uint8Array): void {
    try {
      this.#stream.send(message);
    } catch (error) {
      this.#stream.destroy(asVfioError(error, 'send'));
    }
  }
}
