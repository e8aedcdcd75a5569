import { ERRNO, errnoName, VfioError } from '../../uapi/index.js';
import { Command } from '../wire/constants.js';
import { checkDmaWritten, decodeDmaData, encodeDmaAccess, encodeDmaWrite } from '../wire/dma-access-messages.js';
import type { Frame } from '../wire/frame-parser.js';
import { encodeCommand } from '../wire/header.js';

/** How a {@link DmaRequests} asks. */
export interface DmaRequestOptions {
  /** Most bytes of data in one message: the client's `max_data_xfer_size`. */
  readonly maxData: number;
  /** How long the client may take for a reply, milliseconds. */
  readonly timeoutMs: number;
  /** Sends a message; what does not fit at once is queued. */
  send(message: Uint8Array): void;
  /** The first request began to wait, or the last one no longer does. */
  waitingChanged(): void;
}

/** A message whose reply is awaited. */
interface Pending {
  /** For whom it was sent: what {@link DmaRequests.abandon} goes by. */
  readonly owner: object;
  readonly command: number;
  /** On the clock of `performance.now()`, milliseconds. */
  readonly deadline: number;
  /** Looks at a reply. @throws VfioError when it does not fit the request */
  readonly take: (payload: Uint8Array) => void;
  readonly resolve: () => void;
  readonly reject: (error: VfioError) => void;
}

const MESSAGE_IDS = 0x10000;

/**
 * The server's own commands on one connection: DMA_READ and DMA_WRITE, for memory that only the client can reach (vfio-user 0.9.x).
 *
 * A DMA larger than a message is cut in pieces, one after the other; different DMAs are under way at the same time. Example: 2500 bytes to
 * a client that takes 1024 are three messages of 1024, 1024 and 452 bytes.
 *
 * A request that was given up, since its time was over or its region is gone, keeps its id until the client has answered: the late reply is
 * known as such, and never taken for that of a later request.
 */
export class DmaRequests {
  readonly #options: DmaRequestOptions;
  /** By message id, in the order in which they were sent. All wait equally long: the first is the first to be overdue. */
  readonly #pending = new Map<number, Pending>();
  /** Those of whom nothing is asked any more: a DMA of theirs may have pieces that were still to come. */
  readonly #abandoned = new WeakSet<object>();
  /** Commands of given up requests, by message id. */
  readonly #givenUp = new Map<number, number>();
  #nextId = 0;
  #timer: NodeJS.Timeout | undefined;
  #ended: VfioError | undefined;

  constructor(options: DmaRequestOptions) {
    this.#options = options;
  }

  /** Whether a reply is awaited by somebody. */
  get waiting(): boolean {
    return this.#pending.size > 0;
  }

  /**
   * Fills `into` from the client's memory.
   * @param owner see {@link DmaRequests.abandon}
   * @throws VfioError what the client answers; EIO for a reply that is short or otherwise wrong; ETIMEDOUT; ECANCELED when abandoned;
   *   ECONNRESET, ECONNABORTED when the connection is or gets over; ENOBUFS when all message ids wait for their replies
   */
  async read(owner: object, iova: number | bigint, into: Uint8Array): Promise<void> {
    for (let from = 0; from < into.length; from += this.#options.maxData) {
      const piece = into.subarray(from, from + this.#options.maxData);
      const request = encodeDmaAccess({ iova: addressAt(iova, from), count: piece.length });
      await this.#ask(owner, Command.DMA_READ, request, reply => piece.set(decodeDmaData(reply, piece.length)));
    }
  }

  /**
   * Writes `from` to the client's memory; it must stay as it is until that is done.
   * @throws VfioError as {@link DmaRequests.read}; a part may have been written then
   */
  async write(owner: object, iova: number | bigint, data: Uint8Array): Promise<void> {
    for (let from = 0; from < data.length; from += this.#options.maxData) {
      const piece = data.subarray(from, from + this.#options.maxData);
      const request = encodeDmaWrite(addressAt(iova, from), piece);
      await this.#ask(owner, Command.DMA_WRITE, request, reply => checkDmaWritten(reply, piece.length));
    }
  }

  #ask(owner: object, command: number, payload: Uint8Array, take: (payload: Uint8Array) => void): Promise<void> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    if (this.#abandoned.has(owner)) return Promise.reject(unmapped(command));
    if (this.#pending.size + this.#givenUp.size === MESSAGE_IDS) {
      const message = `${MESSAGE_IDS} requests have no reply`;
      return Promise.reject(new VfioError('ENOBUFS', { operation: operationOf(command), message }));
    }
    return new Promise((resolve, reject) => {
      const id = this.#freeId();
      const deadline = performance.now() + this.#options.timeoutMs;
      this.#pending.set(id, { owner, command, deadline, take, resolve, reject });
      this.#startTimer(this.#options.timeoutMs);
      if (this.#pending.size === 1) this.#options.waitingChanged();
      this.#options.send(encodeCommand(id, command, payload));
    });
  }

  #freeId(): number {
    while (this.#pending.has(this.#nextId) || this.#givenUp.has(this.#nextId)) {
      this.#nextId = (this.#nextId + 1) % MESSAGE_IDS;
    }
    const id = this.#nextId;
    this.#nextId = (id + 1) % MESSAGE_IDS;
    return id;
  }

  /** Takes a reply of the client. @returns false when it answers nothing that was asked. */
  receive({ header, payload }: Frame): boolean {
    if (this.#givenUp.get(header.id) === header.command) return this.#givenUp.delete(header.id);
    const request = this.#pending.get(header.id);
    if (request === undefined || request.command !== header.command) return false;
    this.#forget(header.id);
    if (header.error) request.reject(refusal(request.command, header.errno));
    else settle(request, payload);
    return true;
  }

  /** Rejects what is under way for `owner`, and what it asks for from now on, with ECANCELED. */
  abandon(owner: object): void {
    this.#abandoned.add(owner);
    for (const [id, request] of this.#pending) {
      if (request.owner === owner) this.#giveUp(id, request, unmapped(request.command));
    }
  }

  /** Rejects everything that is under way, and what is asked for from now on, with `reason`. A second call does nothing. */
  end(reason: VfioError): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    clearTimeout(this.#timer);
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const request of pending) request.reject(reason);
  }

  #giveUp(id: number, request: Pending, error: VfioError): void {
    this.#givenUp.set(id, request.command);
    this.#forget(id);
    request.reject(error);
  }

  #forget(id: number): void {
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#options.waitingChanged();
  }

  #startTimer(delay: number): void {
    // Beyond 31 bits a timer would fire at once.
    this.#timer ??= setTimeout(() => this.#expire(), Math.min(delay, 2 ** 31 - 1)).unref();
  }

  #expire(): void {
    this.#timer = undefined;
    const now = performance.now();
    for (const [id, request] of this.#pending) {
      if (request.deadline > now) {
        this.#startTimer(Math.ceil(request.deadline - now));
        return;
      }
      const message = `no reply within ${this.#options.timeoutMs} ms`;
      this.#giveUp(id, request, new VfioError('ETIMEDOUT', { operation: operationOf(request.command), message }));
    }
  }
}

/** Addresses that are exact as numbers stay numbers. */
function addressAt(iova: number | bigint, offset: number): number | bigint {
  return typeof iova === 'number' ? iova + offset : iova + BigInt(offset);
}

function settle(request: Pending, payload: Uint8Array): void {
  try {
    request.take(payload);
    request.resolve();
  } catch (error) {
    const operation = operationOf(request.command);
    request.reject(new VfioError('EIO', { operation, message: 'the reply does not fit the request', cause: error }));
  }
}

function unmapped(command: number): VfioError {
  return new VfioError('ECANCELED', { operation: operationOf(command), message: 'its region was unmapped' });
}

function refusal(command: number, number: number): VfioError {
  const errno = errnoName(number);
  const message = ERRNO[errno] === number ? 'the client refused' : `the client refused, errno ${number}`;
  return new VfioError(errno, { operation: operationOf(command), message });
}

function operationOf(command: number): string {
  return command === Command.DMA_READ ? 'DMA_READ' : 'DMA_WRITE';
}
