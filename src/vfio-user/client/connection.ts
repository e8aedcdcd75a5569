import type { MaybePromise } from '../../memory/index.js';
import type { OwnedFd } from '../../native/index.js';
import { asVfioError, ERRNO, type ErrnoName, errnoName, VfioError } from '../../uapi/index.js';
import { commandName, MessageType } from '../wire/constants.js';
import { closeFds, type Frame } from '../wire/frame-parser.js';
import { encodeCommand } from '../wire/header.js';
import { MAX_POSTED_QUEUED, STRUCTURE_ROOM, TURN_MS, type VfioUserLimits } from '../wire/limits.js';
import { MessageStream, type StreamEvents } from '../wire/message-stream.js';
import { RequestBatch } from './request-batch.js';
import { ServedCommands } from './served-commands.js';
import { TwinSocket } from './twin-socket.js';

interface PendingRequest {
  command: number;
  operation: string;
  /** On the clock of `performance.now()`, milliseconds. */
  deadline: number;
  /** Takes the reply's descriptors; without it they are closed. */
  received: OwnedFd[] | undefined;
  resolve: (payload: Uint8Array) => void;
  reject: (error: VfioError) => void;
  /** Takes the payload of an error reply, for who looks at replies as they come; without it the request is rejected, whatever the payload. */
  refused?: (errno: ErrnoName, payload: Uint8Array) => void;
}

/** A reply as it came. */
export interface WireReply {
  /** Missing: it is a success. */
  readonly errno: ErrnoName | undefined;
  /** All that is behind the header; of an error too. */
  readonly payload: Uint8Array;
}

const MESSAGE_IDS = 0x10000;
const NO_FDS: readonly number[] = [];

/** How a {@link ClientConnection} behaves. */
export interface ConnectionOptions {
  readonly limits: VfioUserLimits;
  /** How long a request waits for its reply, milliseconds; 0: for ever. */
  readonly timeoutMs: number;
  /**
   * For a client whose thread has nothing else to do: whether it may wait for replies in the kernel just now, also while the server may ask
   * something on the twin socket. Missing: the event loop brings the replies.
   */
  readonly mayWait: ((hasTwin: boolean) => boolean) | undefined;
  /** Serves a command of the server: gives the reply's payload; throws or rejects with the errno to answer. */
  readonly serve: (frame: Frame) => MaybePromise<Uint8Array>;
}

/**
 * The client's end of a connection: sends commands, gives each its reply by the message's id, and serves the server's commands meanwhile.
 *
 * Requests that are made in one turn of the event loop leave together at its end. All wait equally long, so the one that was sent first is
 * the first to be overdue: one timer, for that one, serves all.
 */
export class ClientConnection {
  readonly #options: ConnectionOptions;
  readonly #stream: MessageStream;
  readonly #commands: ServedCommands;
  readonly #batch = new RequestBatch();
  /** By message id, in the order in which they were sent. */
  readonly #pending = new Map<number, PendingRequest>();
  #twin: TwinSocket | undefined;
  #nextId = 0;
  /** When the requests that leave together were made. */
  #turnTime = 0;
  #turnEnds = false;
  #waitingSince = 0;
  #timer: NodeJS.Timeout | undefined;
  #ended: { reason: VfioError | undefined } | undefined;
  #listeners: ((reason: VfioError | undefined) => void)[] = [];
  #whenDrained: (() => void)[] = [];

  /** @param socket owned by the connection from now on; closed when this throws. */
  constructor(socket: OwnedFd, options: ConnectionOptions) {
    this.#options = options;
    const { limits } = options;
    const events: StreamEvents = {
      frame: frame => this.#receive(frame),
      broken: (_header, error) => this.#giveUp(error.message),
      drained: () => this.#drained(),
      closed: reason => this.#end(reason ?? serverEnded()),
    };
    const maxPayload = limits.maxDataTransfer + STRUCTURE_ROOM;
    // The stream itself never waits: only this side knows when a reply is to come.
    const neverByItself = options.mayWait && (() => false);
    this.#stream = new MessageStream(socket, maxPayload, limits.maxMessageFds, events, neverByItself);
    this.#commands = new ServedCommands(this.#stream, options.serve, () => {});
  }

  /** Whether the connection is over. */
  get closed(): boolean {
    return this.#ended !== undefined;
  }

  /** Calls back once when the connection is over, soon if it is already; without a reason when {@link ClientConnection.close} ended it. */
  onClose(listener: (reason: VfioError | undefined) => void): void {
    if (this.#ended === undefined) this.#listeners.push(listener);
    else queueMicrotask(() => listener(this.#ended?.reason));
  }

  /**
   * Sends a command.
   * @param operation what errors call it
   * @param fds stay the caller's, who may close them when this has returned
   * @param received takes the descriptors of a successful reply, which are the caller's then; without it they are closed
   * @returns the reply's payload
   * @throws VfioError what the server answers; ECONNRESET, ECONNABORTED when the connection is or gets over; ETIMEDOUT; ENOBUFS when all
   *   65536 message ids are waiting for their replies; EBADF, EMFILE for descriptors that cannot be sent, EMFILE for those that cannot be
   *   received
   */
  request(
    command: number,
    payload: Uint8Array,
    operation: string,
    fds: readonly number[] = NO_FDS,
    received?: OwnedFd[],
  ): Promise<Uint8Array> {
    return new Promise((resolve, reject) =>
      this.#start({ command, operation, deadline: 0, received, resolve, reject }, payload, fds),
    );
  }

  /** {@link ClientConnection.request}, but an error of the server's is an answer like any other. */
  exchange(command: number, payload: Uint8Array, operation: string): Promise<WireReply> {
    return new Promise((resolve, reject) => {
      const succeeded = (reply: Uint8Array) => resolve({ errno: undefined, payload: reply });
      const refused = (errno: ErrnoName, reply: Uint8Array) => resolve({ errno, payload: reply });
      const request = { command, operation, deadline: 0, received: undefined, resolve: succeeded, reject, refused };
      this.#start(request, payload, NO_FDS);
    });
  }

  /** {@link ClientConnection.request} for a command whose reply says no more than that it is done. */
  run(command: number, payload: Uint8Array, operation: string, fds: readonly number[] = NO_FDS): Promise<void> {
    return new Promise((resolve, reject) =>
      this.#start(
        { command, operation, deadline: 0, received: undefined, resolve: () => resolve(), reject },
        payload,
        fds,
      ),
    );
  }

  #start(request: PendingRequest, payload: Uint8Array, fds: readonly number[]): void {
    const { command, operation } = request;
    if (this.#ended !== undefined) throw this.#overError(operation);
    if (this.#pending.size === MESSAGE_IDS) {
      throw new VfioError('ENOBUFS', { operation, message: `${MESSAGE_IDS} requests are waiting` });
    }
    const id = this.#freeId();
    if (fds.length === 0) this.#gather(id, command, payload, false);
    else this.#sendAlone(encodeCommand(id, command, payload), fds);
    request.deadline = this.#turnTime + this.#options.timeoutMs;
    this.#pending.set(id, request);
    this.#startTimer(this.#options.timeoutMs);
  }

  /**
   * Sends a command that gets no reply, not even an error.
   * @returns `undefined`, or a promise for when so much of what was sent has left that more may follow
   * @throws VfioError ECONNRESET, ECONNABORTED when the connection is over
   */
  post(command: number, payload: Uint8Array, operation: string): MaybePromise<void> {
    if (this.#ended !== undefined) throw this.#overError(operation);
    this.#gather(this.#freeId(), command, payload, true);
    if (this.#stream.queuedBytes <= MAX_POSTED_QUEUED) return undefined;
    return new Promise(resolve => this.#whenDrained.push(resolve));
  }

  /** Takes the memory of a reply that was read, and that nobody holds any more, for the next large one. */
  reuse(payload: Uint8Array): void {
    this.#stream.reuse(payload);
  }

  /** Serves the server's commands on a socket of their own, too, which is owned from now on. @throws VfioError as `watch` */
  addTwin(socket: OwnedFd): void {
    const { limits, serve } = this.#options;
    this.#twin = new TwinSocket(socket, limits, serve, reason => this.#end(reason ?? serverEnded()));
  }

  /** Ends the connection. A second call does nothing. */
  close(): void {
    if (this.#ended === undefined) this.#flush();
    this.#end(undefined);
  }

  #freeId(): number {
    while (this.#pending.has(this.#nextId)) this.#nextId = (this.#nextId + 1) % MESSAGE_IDS;
    const id = this.#nextId;
    this.#nextId = (id + 1) % MESSAGE_IDS;
    return id;
  }

  #gather(id: number, command: number, payload: Uint8Array, noReply: boolean): void {
    if (this.#batch.count === 0) this.#beginTurn();
    if (this.#batch.add(id, command, payload, noReply)) return;
    this.#flush();
    if (!this.#batch.add(id, command, payload, noReply)) {
      this.#stream.send(encodeCommand(id, command, payload, noReply));
    }
  }

  /** Descriptors travel with the first byte of their own message, and are the caller's to close after this. */
  #sendAlone(message: Uint8Array, fds: readonly number[]): void {
    this.#turnTime = performance.now();
    this.#flush();
    this.#stream.send(message, fds);
  }

  #beginTurn(): void {
    this.#turnTime = performance.now();
    this.#endTurnSoon();
  }

  /** A tick of Node's comes after all that promises have to do now, and before anything of the event loop. */
  #endTurnSoon(): void {
    if (this.#turnEnds) return;
    this.#turnEnds = true;
    process.nextTick(this.#endTurn);
  }

  readonly #endTurn = (): void => {
    this.#turnEnds = false;
    if (!this.#options.mayWait?.(this.#twin !== undefined)) this.#flush();
    else this.#endWaitingTurn();
  };

  /**
   * Waits in the kernel for the next reply, but the event loop has its turn now and then, and when nothing comes.
   *
   * While the server has more to do than there is to send, that waits too: a reply would else be followed by a request, one by one, and
   * nothing would ever leave together. Example: of 32 requests under way 16 are answered before 16 new ones leave.
   */
  #endWaitingTurn(): void {
    if (2 * this.#batch.count >= this.#pending.size) this.#flush();
    if (this.#pending.size === 0) return;
    if (performance.now() - this.#waitingSince > TURN_MS) {
      this.#flush();
      setImmediate(() => {
        this.#waitingSince = performance.now();
        if (this.#ended === undefined) this.#endTurnSoon();
      });
      return;
    }
    if (this.#receiveNext()) this.#endTurnSoon();
    else this.#flush();
  }

  #receiveNext(): boolean {
    try {
      return this.#stream.receiveNext();
    } catch (error) {
      this.#end(asVfioError(error, 'connection'));
      return false;
    }
  }

  #flush(): void {
    try {
      this.#batch.flush(this.#sendBatch);
    } catch (error) {
      this.#end(asVfioError(error, 'send'));
    }
  }

  readonly #sendBatch = (bytes: Uint8Array): boolean => {
    this.#stream.send(bytes);
    return this.#stream.queuedBytes > 0;
  };

  #drained(): void {
    this.#commands.pump();
    for (const resolve of this.#whenDrained.splice(0)) resolve();
  }

  #receive(frame: Frame): void {
    const { header, payload, fds, fdsLost } = frame;
    if (header.type === MessageType.COMMAND) {
      this.#commands.push(frame);
      if (this.#commands.overflows) this.#giveUp('the server asks and asks, and reads no answer');
      return;
    }
    const request = this.#pending.get(header.id);
    if (header.type !== MessageType.REPLY || request === undefined || request.command !== header.command) {
      closeFds(fds);
      const message = `message ${header.id}, ${commandName(header.command)}, type ${header.type}, answers no request`;
      this.#giveUp(message);
      return;
    }
    this.#pending.delete(header.id);
    const { operation, received } = request;
    const lost = fdsLost && received !== undefined;
    if (header.error || received === undefined || lost) closeFds(fds);
    else received.push(...fds);
    if (header.error && request.refused !== undefined) request.refused(errnoName(header.errno), payload);
    else if (header.error) request.reject(refusal(operation, header.errno));
    else if (lost) request.reject(noRoomForFds(operation));
    else request.resolve(payload);
  }

  #startTimer(delay: number): void {
    if (this.#options.timeoutMs === 0 || this.#timer !== undefined) return;
    // Beyond 31 bits a timer would fire at once.
    this.#timer = setTimeout(() => this.#expire(), Math.min(delay, 2 ** 31 - 1));
    this.#timer.unref();
  }

  #expire(): void {
    this.#timer = undefined;
    const [oldest] = this.#pending;
    if (oldest === undefined) return;
    const [id, request] = oldest;
    const rest = request.deadline - performance.now();
    if (rest > 0) {
      this.#startTimer(Math.ceil(rest));
      return;
    }
    const message = `no reply within ${this.#options.timeoutMs} ms`;
    const error = new VfioError('ETIMEDOUT', { operation: request.operation, message });
    this.#pending.delete(id);
    request.reject(error);
    this.#end(error);
  }

  #giveUp(message: string): void {
    this.#end(new VfioError('EPROTO', { operation: 'connection', message }));
  }

  #end(reason: VfioError | undefined): void {
    if (this.#ended !== undefined) return;
    this.#ended = { reason };
    clearTimeout(this.#timer);
    this.#commands.clear();
    this.#stream.destroy(reason);
    this.#twin?.close();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const request of pending) request.reject(this.#overError(request.operation));
    for (const resolve of this.#whenDrained.splice(0)) resolve();
    for (const listener of this.#listeners.splice(0)) queueMicrotask(() => listener(reason));
  }

  /** What a request gets that the end of the connection leaves without a reply. */
  #overError(operation: string): VfioError {
    const reason = this.#ended?.reason;
    if (reason === undefined) {
      return new VfioError('ECONNABORTED', { operation, message: 'the connection was closed here' });
    }
    return new VfioError('ECONNRESET', { operation, message: reason.message, cause: reason });
  }
}

function serverEnded(): VfioError {
  return new VfioError('ECONNRESET', { operation: 'connection', message: 'the server ended the connection' });
}

/** Descriptors that came and that this process could not take: without them, the reply would seem to say that there are none. */
function noRoomForFds(operation: string): VfioError {
  return new VfioError('EMFILE', { operation, message: 'there was no room for the descriptors of the reply' });
}

/** What the server answered. An errno without a name here is told by its number. */
function refusal(operation: string, number: number): VfioError {
  const errno = errnoName(number);
  const message = ERRNO[errno] === number ? 'the device refused' : `the device refused, errno ${number}`;
  return new VfioError(errno, { operation, message });
}
