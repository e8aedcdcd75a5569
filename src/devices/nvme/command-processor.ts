import type { DmaPort } from '../../device/index.js';
import type { MaybePromise } from '../../memory/index.js';
import { viewOf } from '../../uapi/index.js';
import { DEFERRED, type Outcome } from './admin-commands.js';
import type { EventCompletion } from './async-events.js';
import type { CompletionQueue, QueueSet, SubmissionQueue } from './queues.js';
import { COMPLETION_ENTRY_SIZE } from './registers.js';
import { Request } from './request.js';
import { isRetryable, NvmeStatus, STATUS_DO_NOT_RETRY, STATUS_MORE } from './status.js';

/*
 * The way of a command:
 *
 *   doorbell -> turn: fetch (the entry is read from host memory) -> execute -> completion entry written -> end of the turn: interrupt
 *
 * A turn is one callback of the event loop. It takes commands from the queues in turn, at most COMMANDS_PER_TURN, and then lets others have the
 * loop. What can be done at once (mapped memory, a disk in memory) is done within the turn, without a promise; the rest goes on by promises, at
 * most MAX_IN_FLIGHT at a time, and what ends in one pass of the event loop shares the interrupt of the next turn.
 *
 * A command is fetched only if its completion queue has an entry to spare, which is then kept for it. So a queue that the host does not empty
 * holds back its own commands and no others', and nothing that was fetched ever waits for the host: a device that stops finishes what it has
 * begun.
 */

/** Most commands that one turn fetches. */
const COMMANDS_PER_TURN = 64;
/** Most commands that are fetched and not completed, waiting event requests left out. Each may hold a buffer of the largest transfer. */
const MAX_IN_FLIGHT = 64;

/** What the processor asks of the controller. */
export interface ProcessorHooks {
  /** Does a command. */
  execute(request: Request): MaybePromise<Outcome>;
  /** A command was completed. */
  completed(request: Request, queueId: number, status: NvmeStatus): void;
  /** The next event to tell, if there is one. It counts as told. */
  nextEvent(): EventCompletion | undefined;
  /** Most commands of one queue before the next one's turn. */
  arbitrationBurst(): number;
  /** Raises a queue's interrupt. */
  interrupt(queue: CompletionQueue): void;
  /** Host memory with a queue in it cannot be reached: the controller cannot go on. */
  fail(): void;
}

/** Fetches commands, has them done, and completes them. */
export class CommandProcessor {
  readonly #dma: DmaPort;
  readonly #queues: QueueSet;
  readonly #hooks: ProcessorHooks;
  readonly #free: Request[] = [];
  #inFlight = 0;
  #enabled = false;
  #stopped = false;
  #held = false;
  #discarding = false;
  #isTurnDue = false;
  /** The submission queue whose turn it is. */
  #turnOf = 0;
  #whenSettled: (() => void)[] = [];
  #whenIdle: (() => void)[] = [];

  constructor(dma: DmaPort, queues: QueueSet, hooks: ProcessorHooks) {
    this.#dma = dma;
    this.#queues = queues;
    this.#hooks = hooks;
  }

  /** Commands that were fetched and not completed. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Commands may be fetched from now on, unless held or stopped. */
  enable(): void {
    this.#enabled = true;
    this.ring();
  }

  /** No more commands are fetched. */
  disable(): void {
    this.#enabled = false;
    this.ring();
  }

  /** The completions of what is in flight are not written: the queues are about to go. Until the next {@link settle} is done. */
  discard(): void {
    this.#discarding = this.#inFlight > 0;
  }

  /** No more commands are fetched, for as long as the device is stopped. */
  stop(): void {
    this.#stopped = true;
  }

  /** Reverse of {@link CommandProcessor.stop}. */
  start(): void {
    this.#stopped = false;
    this.ring();
  }

  /** No more commands are fetched, until {@link CommandProcessor.release}. */
  hold(): void {
    this.#held = true;
  }

  /** Reverse of {@link CommandProcessor.hold}. */
  release(): void {
    this.#held = false;
    this.ring();
  }

  /** Something may be there to do: it is looked for in a turn of its own. */
  ring(): void {
    if (this.#isTurnDue) return;
    this.#isTurnDue = true;
    setImmediate(() => this.#turn());
  }

  /** Done when nothing is in flight, interrupts included: what has completed by then has been told. */
  settle(): MaybePromise<void> {
    if (this.#inFlight > 0) return new Promise(resolve => this.#whenSettled.push(resolve));
    this.#signal();
    return undefined;
  }

  /** Done when nothing is in flight, and no queue holds a command that will be fetched. */
  async idle(): Promise<void> {
    if (!this.#isIdle) await new Promise<void>(resolve => this.#whenIdle.push(resolve));
  }

  get #isIdle(): boolean {
    if (this.#inFlight > 0 || this.#isTurnDue) return false;
    return !this.#enabled || this.#queues.submission.every(queue => queue === undefined || queue.head === queue.tail);
  }

  get #mayFetch(): boolean {
    return this.#enabled && !this.#stopped && !this.#held && this.#dma.allowed;
  }

  #turn(): void {
    // First of all, or commands that come without end would take all the room that their completions and the aborted requests need.
    if (this.#mayFetch) this.#tellEvents();
    const isMoreDue = this.#mayFetch && this.#fetchInTurn();
    // Until here what ends within the turn asks for no other one: the turn looks at all queues itself.
    this.#isTurnDue = false;
    if (this.#mayFetch) this.#tellEvents();
    this.#signal();
    if (isMoreDue) this.ring();
    if (this.#whenIdle.length > 0 && this.#isIdle) for (const resolve of this.#whenIdle.splice(0)) resolve();
  }

  /** Goes around the queues until none has a command that can be fetched; returns whether it had to leave some for another turn. */
  #fetchInTurn(): boolean {
    const { submission } = this.#queues;
    const burst = this.#hooks.arbitrationBurst();
    let left = COMMANDS_PER_TURN;
    for (let passed = 0; passed < submission.length; ) {
      this.#turnOf = (this.#turnOf + 1) % submission.length;
      const fetched = this.#fetchFrom(this.#turnOf, Math.min(burst, left));
      passed = fetched === 0 ? passed + 1 : 0;
      left -= fetched;
      if (left === 0) return true;
    }
    return false;
  }

  /** Fetches at most `limit` commands of a queue; returns how many. A command may delete the queue, or disable the controller. */
  #fetchFrom(id: number, limit: number): number {
    for (let fetched = 0; fetched < limit; fetched++) {
      const queue = this.#queues.submission[id];
      if (!queue?.isReady || this.#inFlight === MAX_IN_FLIGHT || !this.#mayFetch) return fetched;
      this.#fetch(queue);
    }
    return limit;
  }

  #fetch(queue: SubmissionQueue): void {
    const request = this.#free.pop() ?? new Request();
    request.queue = queue;
    request.result = 0;
    this.#inFlight++;
    queue.inFlight++;
    queue.completions.reserved++;
    let fetched: MaybePromise<void>;
    try {
      fetched = this.#dma.read(queue.nextAddress(), request.entry);
    } catch {
      this.#failFetch(request);
      return;
    }
    if (fetched === undefined) this.#execute(request);
    else void this.#executeLater(request, fetched);
  }

  async #executeLater(request: Request, fetched: Promise<void>): Promise<void> {
    try {
      await fetched;
    } catch {
      this.#failFetch(request);
      return;
    }
    this.#execute(request);
  }

  #failFetch(request: Request): void {
    this.#hooks.fail();
    this.#end(request);
  }

  #execute(request: Request): void {
    const outcome = this.#outcomeOf(request);
    if (outcome instanceof Promise) void outcome.then(value => this.#finish(request, value));
    else this.#finish(request, outcome);
  }

  /** Neither fused commands nor scatter gather lists are supported (NVMe 1.4, figure 104). */
  #outcomeOf(request: Request): MaybePromise<Outcome> {
    if (request.commandFlags !== 0) return NvmeStatus.INVALID_FIELD;
    try {
      const outcome = this.#hooks.execute(request);
      return outcome instanceof Promise ? outcome.catch(() => NvmeStatus.INTERNAL_ERROR) : outcome;
    } catch {
      return NvmeStatus.INTERNAL_ERROR;
    }
  }

  #finish(request: Request, outcome: Outcome): void {
    const queue = request.queue!;
    if (outcome === DEFERRED) {
      this.#end(request);
      return;
    }
    this.#hooks.completed(request, queue.id, outcome);
    if (this.#discarding) {
      this.#end(request);
      return;
    }
    const { completion, commandId, result } = request;
    const written = this.#complete(completion, queue, { commandId, status: outcome, result });
    if (written === undefined) this.#end(request);
    else void written.then(() => this.#end(request));
  }

  /** The command is over, and its object is free for another. */
  #end(request: Request): void {
    const queue = request.queue!;
    request.queue = undefined;
    this.#free.push(request);
    queue.completions.reserved--;
    queue.inFlight--;
    if (queue.inFlight === 0) queue.onIdle?.();
    this.#landed();
  }

  #landed(): void {
    this.#inFlight--;
    if (this.#inFlight === 0) {
      this.#discarding = false;
      if (this.#whenSettled.length > 0) this.#signal();
      for (const resolve of this.#whenSettled.splice(0)) resolve();
    }
    this.ring();
  }

  #tellEvents(): void {
    const queue = this.#queues.submission[0];
    while (queue !== undefined && queue.completions.room > 0) {
      const event = this.#hooks.nextEvent();
      if (event === undefined) return;
      const written = this.#complete(new Uint8Array(COMPLETION_ENTRY_SIZE), queue, event);
      if (written === undefined) continue;
      this.#inFlight++;
      void written.then(() => this.#landed());
    }
  }

  /** Writes a completion queue entry (NVMe 1.4, section 4.6). Never throws or rejects. */
  #complete(entry: Uint8Array, queue: SubmissionQueue, completion: EventCompletion): MaybePromise<void> {
    const { completions } = queue;
    const view = viewOf(entry);
    view.setUint32(0, completion.result, true);
    view.setUint16(8, queue.head, true);
    view.setUint16(10, queue.id, true);
    view.setUint16(12, completion.commandId, true);
    view.setUint16(14, (statusField(completion.status) << 1) | completions.phase, true);
    try {
      const written = this.#dma.write(completions.nextAddress(), entry);
      if (written !== undefined) return this.#completeLater(written, completions);
      completions.signalDue = true;
    } catch {
      this.#hooks.fail();
    }
    return undefined;
  }

  async #completeLater(written: Promise<void>, completions: CompletionQueue): Promise<void> {
    try {
      await written;
      completions.signalDue = true;
    } catch {
      this.#hooks.fail();
    }
  }

  #signal(): void {
    for (const queue of this.#queues.completion) {
      if (queue === undefined || !queue.signalDue) continue;
      queue.signalDue = false;
      if (queue.interruptsEnabled) this.#hooks.interrupt(queue);
    }
  }
}

/** The status field without its phase tag: what is in the error log, and what will fail again, say so. */
function statusField(status: NvmeStatus): number {
  if (status === NvmeStatus.SUCCESS) return 0;
  if (status === NvmeStatus.ABORT_REQUESTED) return status;
  return status | STATUS_MORE | (isRetryable(status) ? 0 : STATUS_DO_NOT_RETRY);
}
