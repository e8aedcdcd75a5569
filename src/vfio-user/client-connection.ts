import type { OwnedFd } from '../native/index.js';
import { ERRNO, errnoName, VfioError } from '../uapi/index.js';
import { commandName, MessageType } from './constants.js';
import { closeFds, type Frame } from './frame-parser.js';
import { encodeCommand, encodeErrorReply } from './header.js';
import { MAX_REFUSALS_QUEUED, STRUCTURE_ROOM, type VfioUserLimits } from './limits.js';
import { MessageStream } from './message-stream.js';

interface PendingRequest {
  command: number;
  operation: string;
  /** On the clock of `performance.now()`, milliseconds. */
  deadline: number;
  resolve: (payload: Uint8Array) => void;
  reject: (error: VfioError) => void;
}

const MESSAGE_IDS = 0x10000;

/**
 * The client's end of a connection: sends commands, and gives each its reply by the message's id.
 *
 * All requests wait equally long, so the one that was sent first is the first to be overdue: one timer, for that one, serves all.
 */
export class ClientConnection {
  readonly #stream: MessageStream;
  readonly #timeoutMs: number;
  /** By message id, in the order in which they were sent. */
  readonly #pending = new Map<number, PendingRequest>();
  #nextId = 0;
  #timer: NodeJS.Timeout | undefined;
  #ended: { reason: VfioError | undefined } | undefined;
  #listeners: ((reason: VfioError | undefined) => void)[] = [];

  /**
   * @param socket owned by the connection from now on; closed when this throws.
   * @param timeoutMs how long a request waits; 0: for ever
   */
  constructor(socket: OwnedFd, limits: VfioUserLimits, timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    this.#stream = new MessageStream(socket, limits.maxDataTransfer + STRUCTURE_ROOM, limits.maxMessageFds, {
      frame: frame => this.#receive(frame),
      broken: (_header, error) => this.#giveUp(error.message),
      drained: () => {},
      closed: reason => this.#end(reason ?? serverEnded()),
    });
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
   * @returns the reply's payload
   * @throws VfioError what the server answers; ECONNRESET, ECONNABORTED when the connection is or gets over; ETIMEDOUT; ENOBUFS when all
   *   65536 message ids are waiting for their replies; EBADF, EMFILE for descriptors that cannot be sent
   */
  request(command: number, payload: Uint8Array, operation: string, fds: readonly number[] = []): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) return reject(this.#overError(operation));
      if (this.#pending.size === MESSAGE_IDS) {
        return reject(new VfioError('ENOBUFS', { operation, message: `${MESSAGE_IDS} requests are waiting` }));
      }
      const id = this.#freeId();
      this.#stream.send(encodeCommand(id, command, payload), fds);
      const deadline = performance.now() + this.#timeoutMs;
      this.#pending.set(id, { command, operation, deadline, resolve, reject });
      this.#startTimer(this.#timeoutMs);
    });
  }

  /** Ends the connection. A second call does nothing. */
  close(): void {
    this.#end(undefined);
  }

  #freeId(): number {
    while (this.#pending.has(this.#nextId)) this.#nextId = (this.#nextId + 1) % MESSAGE_IDS;
    const id = this.#nextId;
    this.#nextId = (id + 1) % MESSAGE_IDS;
    return id;
  }

  #receive({ header, payload, fds }: Frame): void {
    // No reply that is asked for here brings descriptors.
    closeFds(fds);
    if (header.type === MessageType.COMMAND) {
      if (!header.noReply) this.#stream.send(encodeErrorReply(header, ERRNO.EOPNOTSUPP));
      if (this.#stream.queuedBytes > MAX_REFUSALS_QUEUED) this.#giveUp('the server asks and asks, and reads no answer');
      return;
    }
    const request = this.#pending.get(header.id);
    if (header.type !== MessageType.REPLY || request === undefined || request.command !== header.command) {
      const message = `message ${header.id}, ${commandName(header.command)}, type ${header.type}, answers no request`;
      this.#giveUp(message);
      return;
    }
    this.#pending.delete(header.id);
    if (header.error) request.reject(refusal(request.operation, header.errno));
    else request.resolve(payload);
  }

  #startTimer(delay: number): void {
    if (this.#timeoutMs === 0 || this.#timer !== undefined) return;
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
    const message = `no reply within ${this.#timeoutMs} ms`;
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
    this.#stream.destroy(reason);
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const request of pending) request.reject(this.#overError(request.operation));
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

/** What the server answered. An errno without a name here is told by its number. */
function refusal(operation: string, number: number): VfioError {
  const errno = errnoName(number);
  const message = ERRNO[errno] === number ? 'the device refused' : `the device refused, errno ${number}`;
  return new VfioError(errno, { operation, message });
}
