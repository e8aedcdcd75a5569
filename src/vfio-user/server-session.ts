import type { Device } from '../device/index.js';
import type { MaybePromise } from '../memory/index.js';
import type { OwnedFd } from '../native/index.js';
import { asVfioError, ERRNO, VfioError } from '../uapi/index.js';
import { Command, commandName, MessageType } from './constants.js';
import { closeFds, type Frame } from './frame-parser.js';
import { encodeErrorReply, encodeReply, type Header } from './header.js';
import { MAX_VERSION_PAYLOAD, MAX_WAITING_MESSAGES, STRUCTURE_ROOM, TURN_MS, type VfioUserLimits } from './limits.js';
import { MessageStream } from './message-stream.js';
import { type CommandContext, serveCommand } from './server-commands.js';
import { answerVersion, decodeVersion, encodeVersion } from './version.js';

/** What a {@link ServerSession} tells its server. */
export interface SessionEvents {
  /** A version was agreed on. */
  connected(): void;
  /** Something failed that the client's reply does not tell. */
  error(error: unknown): void;
  /** The session is over, and nothing of the client is left. `reason` is missing when the client left by itself. */
  finished(reason: VfioError | undefined): void;
}

/** What a {@link ServerSession} needs to know. */
export interface SessionOptions {
  readonly limits: VfioUserLimits;
  readonly versionTimeoutMs: number;
}

/**
 * One client's connection.
 *
 * Messages are served strictly one after the other, in the order in which they came: one that the device takes time for holds up the next,
 * and one whose reply the client does not read holds up all. What waits is bounded; beyond that the socket is not read.
 *
 * When the client leaves, what it has sent completely is still served, as it would have been had the client left a moment later. Then its
 * memory and interrupts are let go (`device.disconnect()`), and only then is the session over: so a device never loses its memory in the
 * middle of a request, and the next client never meets the last one's.
 */
export class ServerSession {
  readonly #device: Device;
  readonly #options: SessionOptions;
  readonly #events: SessionEvents;
  readonly #stream: MessageStream;
  readonly #versionTimer: NodeJS.Timeout;
  /** Missing until VERSION. */
  #context: CommandContext | undefined;
  #waiting: Frame[] = [];
  /** What cannot be read on after; answered when everything before it is served. */
  #broken: { header: Header; error: VfioError } | undefined;
  #busy = false;
  #turnStartedAt = 0;
  #refusing = false;
  #streamClosed = false;
  #finished = false;
  #reason: VfioError | undefined;

  /** @param socket owned by the session from now on; closed when this throws. */
  constructor(device: Device, socket: OwnedFd, options: SessionOptions, events: SessionEvents) {
    this.#device = device;
    this.#options = options;
    this.#events = events;
    this.#stream = new MessageStream(socket, MAX_VERSION_PAYLOAD, options.limits.maxMessageFds, {
      frame: frame => this.#receive(frame),
      broken: (header, error) => {
        this.#broken = { header, error };
        this.#pump();
      },
      drained: () => this.#pump(),
      closed: reason => this.#leave(reason),
    });
    this.#versionTimer = setTimeout(() => this.#expire(), options.versionTimeoutMs);
  }

  /** Whether a version was agreed on. */
  get established(): boolean {
    return this.#context !== undefined;
  }

  /** Ends the session; what waits is not served. It is over when the request under way is. A second call does nothing. */
  close(): void {
    this.#dropWaiting();
    this.#stream.destroy(new VfioError('ECONNABORTED', { operation: 'close', message: 'the server was closed' }));
  }

  #expire(): void {
    this.#stream.destroy(new VfioError('ETIMEDOUT', { operation: 'VERSION', message: 'the client did not send it' }));
  }

  #receive(frame: Frame): void {
    if (!this.#busy) this.#turnStartedAt = performance.now();
    this.#waiting.push(frame);
    this.#pump();
  }

  /** Serves what waits, for as long as each is done at once and its reply leaves at once. */
  #pump(): void {
    while (!this.#busy && this.#stream.queuedBytes === 0) {
      const frame = this.#waiting.shift();
      if (frame === undefined) break;
      this.#busy = true;
      const pending = this.#serve(frame);
      if (pending === undefined) this.#busy = false;
      else pending.then(() => this.#resume());
    }
    if (this.#waiting.length >= MAX_WAITING_MESSAGES) this.#stream.pause();
    else if (!this.#refusing) this.#stream.resume();
    if (!this.#busy && this.#waiting.length === 0) this.#finishIfOver();
  }

  /** What waits is served on, but not for ever: other devices and timers of this process have their turn too. */
  #resume(): void {
    this.#busy = false;
    if (performance.now() - this.#turnStartedAt < TURN_MS) {
      this.#pump();
      return;
    }
    setImmediate(() => {
      this.#turnStartedAt = performance.now();
      this.#pump();
    });
  }

  /** Never throws, never rejects. */
  #serve(frame: Frame): MaybePromise<void> {
    const { header, fds } = frame;
    try {
      const reply = this.#replyTo(frame);
      if (reply instanceof Promise) return this.#finishLater(frame, reply);
      this.#reply(header, reply);
    } catch (error) {
      this.#fail(header, error);
    }
    closeFds(fds);
  }

  async #finishLater({ header, fds }: Frame, reply: Promise<Uint8Array>): Promise<void> {
    try {
      this.#reply(header, await reply);
    } catch (error) {
      this.#fail(header, error);
    }
    closeFds(fds);
  }

  #replyTo(frame: Frame): MaybePromise<Uint8Array> {
    const { header, payload } = frame;
    if (header.type !== MessageType.COMMAND) return this.#refuse(invalid(header, 'type', 'is not a command'));
    if (this.#context === undefined) return this.#agree(header, payload);
    if (header.command !== Command.VERSION) return serveCommand(this.#context, frame);
    throw invalid(header, 'command', 'a version was agreed on already');
  }

  #agree(header: Header, payload: Uint8Array): Uint8Array {
    if (header.command !== Command.VERSION) return this.#refuse(invalid(header, 'command', 'VERSION comes first'));
    const { limits } = this.#options;
    const { answer, agreed } = this.#orRefuse(() => answerVersion(limits, decodeVersion(payload)));
    this.#context = { device: this.#device, limits: agreed };
    clearTimeout(this.#versionTimer);
    this.#stream.maxPayload = limits.maxDataTransfer + STRUCTURE_ROOM;
    this.#tell(() => this.#events.connected());
    return encodeVersion(answer);
  }

  #orRefuse<T>(attempt: () => T): T {
    try {
      return attempt();
    } catch (error) {
      return this.#refuse(asVfioError(error, 'VERSION'));
    }
  }

  /** Throws an error after which nothing the client says can be understood: it is answered, and the connection ends. */
  #refuse(error: VfioError): never {
    this.#refusing = true;
    throw error;
  }

  #reply(header: Header, payload: Uint8Array): void {
    if (!header.noReply) this.#send(encodeReply(header, payload));
  }

  #fail(header: Header, error: unknown): void {
    const known = error instanceof VfioError ? error : undefined;
    if (known === undefined) this.#tell(() => this.#events.error(error));
    if (header.type === MessageType.COMMAND && !header.noReply) {
      this.#send(encodeErrorReply(header, known?.number ?? ERRNO.EIO));
    }
    if (!this.#refusing) return;
    this.#dropWaiting();
    this.#stream.end(known);
  }

  #send(message: Uint8Array): void {
    try {
      this.#stream.send(message);
    } catch (error) {
      this.#stream.destroy(asVfioError(error, 'send'));
    }
  }

  #dropWaiting(): void {
    for (const frame of this.#waiting.splice(0)) closeFds(frame.fds);
  }

  #leave(reason: VfioError | undefined): void {
    this.#streamClosed = true;
    this.#reason = reason;
    clearTimeout(this.#versionTimer);
    this.#pump();
  }

  /** Nothing is being served, and nothing waits. */
  #finishIfOver(): void {
    if (this.#broken !== undefined) this.#answerBroken(this.#broken);
    if (this.#finished || !this.#streamClosed) return;
    this.#finished = true;
    if (this.#context !== undefined) this.#tell(() => this.#device.disconnect());
    this.#events.finished(this.#reason);
  }

  #answerBroken({ header, error }: { header: Header; error: VfioError }): void {
    this.#broken = undefined;
    this.#refusing = true;
    this.#fail(header, error);
  }

  /** A device's or a user's code must not end the session's own. */
  #tell(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#events.error(error);
    }
  }
}

function invalid(header: Header, field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: commandName(header.command), field, message });
}
