import type { Device } from '../../device/index.js';
import type { MaybePromise } from '../../memory/index.js';
import type { OwnedFd } from '../../native/index.js';
import { asVfioError, ERRNO, VfioError } from '../../uapi/index.js';
import { Backlog } from '../wire/backlog.js';
import { Command, commandName, MessageType } from '../wire/constants.js';
import { closeFds, type Frame } from '../wire/frame-parser.js';
import { encodeErrorReply, encodeReply, type Header, writeReplyHeader } from '../wire/header.js';
import { MAX_VERSION_PAYLOAD, STRUCTURE_ROOM } from '../wire/limits.js';
import { MessageStream } from '../wire/message-stream.js';
import type { AgreedFeatures } from '../wire/version.js';
import { serveCommand } from './commands.js';
import type { CommandContext, LentReply, Reply } from './context.js';
import { type Agreement, agree, establish, type SessionOptions } from './establish.js';
import { LoopTime } from './loop-time.js';
import { QuickPath } from './quick-path.js';
import type { TwinSocket } from './twin-socket.js';

/** Whom a connection is for: the VMM, of which there is one at a time, or one of the trackers beside it. */
export type ClientRole = AgreedFeatures['role'];

/** What a {@link ServerSession} asks and tells its server. */
export interface SessionEvents {
  /**
   * A client has said who it is. Its VERSION is answered when this is done; a client that leaves before waits no longer.
   * @throws VfioError EBUSY when there is no place for it, and never will be
   */
  admit(role: ClientRole): MaybePromise<void>;
  /** A version was agreed on. */
  connected(role: ClientRole): void;
  /** Something failed that the client's reply does not tell. */
  error(error: unknown): void;
  /** The client is gone; what it has sent may still be served. */
  left(): void;
  /** The session is over, and nothing of the client is left. `reason` is missing when the client left by itself. */
  finished(reason: VfioError | undefined): void;
  /** Whether nothing but this session's socket may need the event loop soon, so that it may be waited for in the kernel. */
  mayWait(): boolean;
}

/**
 * One client's connection.
 *
 * **Its own commands** are served strictly one after the other, in the order in which they came: one that the device takes time for holds up
 * the next, and one whose reply the client does not read holds up all. What waits is bounded (`Backlog`); beyond that the socket is not read.
 *
 * **Replies** to the server's DMA requests overtake them. A device that awaits `dma.read` while it serves a REGION_WRITE must get its answer,
 * and the answer comes behind whatever the client has sent meanwhile: so for as long as a reply is awaited from this socket, it is read, and
 * what comes in front of the reply waits in the backlog. A client that goes beyond even that loses its connection. With a twin socket the
 * replies come there, and the backlog never grows.
 *
 * **Other connections** of the device go on meanwhile: a tracker's REPORT is served between two commands of the VMM, and while one of them
 * awaits its DMA. Only feature requests and migration data wait for each other (`Turns`). Example, the VMM's messages left, a tracker's right:
 *
 *     REGION_WRITE (doorbell)  ->  the device asks DMA_READ          | REPORT -> served now
 *     REGION_READ              ->  waits behind the REGION_WRITE     | SET state STOP_COPY -> waits until the DMA has landed
 *     reply to DMA_READ        ->  taken at once: the REGION_WRITE   | REPORT -> waits for the SET
 *                                  is answered, then the REGION_READ | SET is answered, then the REPORT
 *
 * When the client leaves, what it has sent completely is still served, as it would have been had the client left a moment later; only DMA
 * that needs the client fails at once. Then its memory and interrupts are let go (`device.disconnect()`), and only then is the session over:
 * so a device never loses its memory in the middle of a request, and the next client never meets the last one's.
 */
export class ServerSession {
  readonly #device: Device;
  readonly #options: SessionOptions;
  readonly #events: SessionEvents;
  readonly #stream: MessageStream;
  readonly #versionTimer: NodeJS.Timeout;
  readonly #backlog = new Backlog();
  readonly #loopTime = new LoopTime();
  /** Missing until VERSION is answered. */
  #context: CommandContext | undefined;
  /** For the VMM, once it is there. */
  #quickPath: QuickPath | undefined;
  #twin: TwinSocket | undefined;
  /** What cannot be read on after; answered when everything before it is served. */
  #broken: { header: Header; error: VfioError } | undefined;
  #busy = false;
  #refusing = false;
  #streamClosed = false;
  #finished = false;
  #reason: VfioError | undefined;

  /** @param socket owned by the session from now on; closed when this throws. */
  constructor(device: Device, socket: OwnedFd, options: SessionOptions, events: SessionEvents) {
    this.#device = device;
    this.#options = options;
    this.#events = events;
    this.#stream = new MessageStream(
      socket,
      MAX_VERSION_PAYLOAD,
      options.limits.maxMessageFds,
      {
        take: (bytes, length) => this.#takeQuickly(bytes, length),
        frame: frame => this.#receive(frame),
        broken: (header, error) => {
          this.#broken = { header, error };
          this.#pump();
        },
        drained: () => this.#pump(),
        closed: reason => this.#leave(reason),
      },
      options.loop === 'dedicated' ? () => this.#mayWait() : undefined,
    );
    this.#versionTimer = setTimeout(() => this.#expire(), options.versionTimeoutMs);
  }

  /** Whom the client is; `undefined` until a version was agreed on. */
  get role(): ClientRole | undefined {
    return this.#context?.features.role;
  }

  /** Ends the session; what waits is not served. It is over when the request under way is. A second call does nothing. */
  close(): void {
    this.#backlog.clear();
    this.#stream.destroy(new VfioError('ECONNABORTED', { operation: 'close', message: 'the server was closed' }));
  }

  #expire(): void {
    this.#stream.destroy(new VfioError('ETIMEDOUT', { operation: 'VERSION', message: 'the client did not send it' }));
  }

  #receive(frame: Frame): void {
    if (frame.header.type === MessageType.REPLY && this.#takeReply(frame)) return;
    if (this.#backlog.overflows) {
      closeFds(frame.fds);
      const message = `${this.#backlog.length} messages wait, and the reply to a DMA has not come`;
      this.#stream.destroy(new VfioError('ENOBUFS', { operation: 'connection', message }));
      return;
    }
    this.#backlog.push(frame);
    this.#pump();
  }

  /** The quick path serves as {@link ServerSession.#pump} does: the session cannot be over before the device has returned. */
  #takeQuickly(bytes: Uint8Array, length: number): number {
    const quickPath = this.#quickPath;
    if (quickPath === undefined || this.#busy || this.#backlog.length > 0) return 0;
    this.#loopTime.begin(this.#stream.wakeUps);
    this.#busy = true;
    try {
      return quickPath.take(bytes, length);
    } finally {
      this.#busy = quickPath.answersLater;
      if (this.#streamClosed) this.#pump();
    }
  }

  /** @returns false for a reply that nothing asked for: it is refused in its turn. */
  #takeReply(frame: Frame): boolean {
    if (this.#twin !== undefined || this.#context?.dmaRequests.receive(frame) !== true) return false;
    closeFds(frame.fds);
    return true;
  }

  /** Serves what waits, for as long as each is done at once, its reply leaves at once, and nobody else has waited for too long. */
  #pump(): void {
    this.#loopTime.begin(this.#stream.wakeUps);
    while (!this.#busy && this.#stream.queuedBytes === 0) {
      const frame = this.#backlog.shift();
      if (frame === undefined) break;
      this.#busy = true;
      const pending = this.#serve(frame);
      if (pending === undefined) this.#served();
      else pending.then(() => this.#resume());
    }
    this.#readOrNot();
    if (!this.#busy && this.#backlog.length === 0) this.#finishIfOver();
  }

  /** What comes next is served when the event loop has gone round, if it is time for that. */
  #served(): void {
    if (this.#loopTime.isOver) setImmediate(() => this.#goOn());
    else this.#busy = false;
  }

  #goOn(): void {
    this.#loopTime.restart();
    this.#busy = false;
    this.#pump();
  }

  #resume(): void {
    this.#served();
    this.#pump();
  }

  #readOrNot(): void {
    if (this.#backlog.isFull && !this.#awaitsReplyHere()) this.#stream.pause();
    else if (!this.#refusing) this.#stream.resume();
  }

  #awaitsReplyHere(): boolean {
    return this.#twin === undefined && this.#context?.dmaRequests.waiting === true;
  }

  #mayWait(): boolean {
    return !this.#busy && this.#context !== undefined && !this.#context.dmaRequests.waiting && this.#events.mayWait();
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

  async #finishLater({ header, fds }: Pick<Frame, 'header' | 'fds'>, reply: Promise<Reply>): Promise<void> {
    try {
      this.#reply(header, await reply);
    } catch (error) {
      this.#fail(header, error);
    }
    closeFds(fds);
  }

  #replyTo(frame: Frame): MaybePromise<Reply> {
    const { header, payload } = frame;
    if (header.type !== MessageType.COMMAND) return this.#refuse(invalid(header, 'type', 'is not a command'));
    if (this.#context === undefined) return this.#agree(header, payload);
    if (header.command !== Command.VERSION) return serveCommand(this.#context, frame);
    throw invalid(header, 'command', 'a version was agreed on already');
  }

  #agree(header: Header, payload: Uint8Array): MaybePromise<Reply> {
    if (header.command !== Command.VERSION) return this.#refuse(invalid(header, 'command', 'VERSION comes first'));
    clearTimeout(this.#versionTimer);
    const agreement = this.#orRefuse(() => agree(this.#options.limits, payload));
    const admission = this.#orRefuse(() => this.#events.admit(agreement.features.role));
    if (admission === undefined) return this.#establish(agreement);
    return admission.then(() => this.#establish(agreement));
  }

  #establish(agreement: Agreement): Reply {
    if (this.#streamClosed) throw clientGone();
    const { context, twin, reply } = this.#orRefuse(() =>
      establish(this.#device, this.#options, agreement, {
        send: message => this.#send(message),
        waitingChanged: () => this.#readOrNot(),
        twinEnded: reason => this.#leaveTwin(reason),
      }),
    );
    this.#context = context;
    this.#twin = twin;
    this.#stream.maxPayload = this.#options.limits.maxDataTransfer + STRUCTURE_ROOM;
    const { role } = context.features;
    if (role === 'vmm') this.#quickPath = this.#openQuickPath();
    this.#tell(() => this.#events.connected(role));
    return reply;
  }

  #openQuickPath(): QuickPath {
    return new QuickPath(this.#device, {
      mayServe: () => this.#stream.queuedBytes === 0 && !this.#stream.closed && !this.#loopTime.isOverByNow,
      send: (bytes, length) => this.#orDestroy(() => this.#stream.sendFrom(bytes, length)),
      answerLater: (header, reply) => {
        this.#finishLater({ header, fds: [] }, reply).then(() => this.#resume());
      },
      fail: (header, error) => this.#fail(header, error),
    });
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

  #reply(header: Header, reply: Reply): void {
    if ('message' in reply) this.#replyLent(header, reply);
    else if (!header.noReply) {
      if (reply instanceof Uint8Array) this.#send(encodeReply(header, reply));
      else this.#send(encodeReply(header, reply.payload), reply.fds);
    }
    // Its socket has left with the answer.
    if (header.command === Command.VERSION) this.#twin?.clientEnd.close();
  }

  #replyLent(header: Header, { message, giveBack }: LentReply): void {
    if (header.noReply) {
      giveBack();
      return;
    }
    writeReplyHeader(header, message);
    this.#orDestroy(() => this.#stream.sendLent(message, giveBack));
  }

  #fail(header: Header, error: unknown): void {
    const known = error instanceof VfioError ? error : undefined;
    if (known === undefined) this.#tell(() => this.#events.error(error));
    if (header.type === MessageType.COMMAND && !header.noReply) {
      this.#send(encodeErrorReply(header, known?.number ?? ERRNO.EIO));
    }
    if (!this.#refusing) return;
    this.#backlog.clear();
    this.#stream.end(known);
  }

  #send(message: Uint8Array, fds: readonly number[] = []): void {
    this.#orDestroy(() => this.#stream.send(message, fds));
  }

  /** A message that cannot be sent would leave a hole among the others. */
  #orDestroy(send: () => void): void {
    try {
      send();
    } catch (error) {
      this.#stream.destroy(asVfioError(error, 'send'));
    }
  }

  /** A client that has left its twin socket is leaving: what it has sent here is still read, up to its end. */
  #leaveTwin(reason: VfioError | undefined): void {
    this.#context?.dmaRequests.end(clientGone());
    if (reason !== undefined) this.#stream.destroy(reason);
    else this.#stream.endReceiving();
  }

  #leave(reason: VfioError | undefined): void {
    this.#streamClosed = true;
    this.#reason = reason;
    clearTimeout(this.#versionTimer);
    this.#context?.dmaRequests.end(clientGone(reason));
    this.#twin?.close();
    // Who left before the place was free asks for nothing any more: served now, it would ask for the place again, and keep it.
    if (this.#context === undefined) this.#backlog.clear();
    this.#events.left();
    this.#pump();
  }

  /** Nothing is being served, and nothing waits. */
  #finishIfOver(): void {
    if (this.#broken !== undefined) this.#answerBroken(this.#broken);
    if (this.#finished || !this.#streamClosed) return;
    this.#finished = true;
    this.#context?.bitmaps.close();
    if (this.role === 'vmm') this.#tell(() => this.#device.disconnect());
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

function clientGone(reason?: VfioError): VfioError {
  return new VfioError('ECONNRESET', { operation: 'connection', message: 'the client is gone', cause: reason });
}
