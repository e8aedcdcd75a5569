import { type Address, addressAfter } from './address.js';
import { COMPLETION_ENTRY_SIZE, SUBMISSION_ENTRY_SIZE } from './registers.js';

/*
 * Queues are rings in host memory (NVMe 1.4, section 4.1). The producer owns the tail, the consumer the head; a ring of n entries holds n - 1.
 */

/** A completion queue: the controller writes at the tail, the host consumes at the head. */
export class CompletionQueue {
  readonly id: number;
  readonly base: Address;
  /** Entries. */
  readonly size: number;
  /** MSI-X vector. */
  readonly vector: number;
  readonly interruptsEnabled: boolean;
  head = 0;
  tail = 0;
  /** What the phase tag of the next entry is: 1 on the first way through the ring, then 0, … */
  phase = 1;
  /** Entries promised to commands in flight. */
  reserved = 0;
  /** Submission queues that complete here. */
  users = 0;
  /** An entry was written since the last interrupt. */
  signalDue = false;

  constructor(id: number, base: Address, size: number, vector: number, interruptsEnabled: boolean) {
    this.id = id;
    this.base = base;
    this.size = size;
    this.vector = vector;
    this.interruptsEnabled = interruptsEnabled;
  }

  /** Entries that the host has not consumed. */
  get used(): number {
    return (this.tail - this.head + this.size) % this.size;
  }

  /** Entries that are neither used nor promised. */
  get room(): number {
    return this.size - 1 - this.used - this.reserved;
  }

  /** The host has consumed up to `head`. @returns false, with nothing changed, for what it cannot have consumed */
  consume(head: number): boolean {
    if (head >= this.size || (head - this.head + this.size) % this.size > this.used) return false;
    this.head = head;
    return true;
  }

  /** Where the next entry goes; it counts as written. Only with an entry that is free or promised. */
  nextAddress(): Address {
    const address = addressAfter(this.base, this.tail * COMPLETION_ENTRY_SIZE);
    this.tail++;
    if (this.tail === this.size) {
      this.tail = 0;
      this.phase ^= 1;
    }
    return address;
  }
}

/** A submission queue: the host writes at the tail, the controller fetches at the head. */
export class SubmissionQueue {
  readonly id: number;
  readonly base: Address;
  /** Entries. */
  readonly size: number;
  readonly completions: CompletionQueue;
  head = 0;
  tail = 0;
  /** Commands that were fetched and not completed. */
  inFlight = 0;
  /** No more commands are taken: the queue is being deleted. */
  closing = false;
  /** Called when `inFlight` gets 0. */
  onIdle: (() => void) | undefined;

  constructor(id: number, base: Address, size: number, completions: CompletionQueue) {
    this.id = id;
    this.base = base;
    this.size = size;
    this.completions = completions;
  }

  /** Whether a command can be fetched: its completion must be certain to find room. */
  get isReady(): boolean {
    return this.head !== this.tail && this.completions.room > 0 && !this.closing;
  }

  /** The host has written up to `tail`. @returns false, with nothing changed, for what is no entry of the ring */
  submit(tail: number): boolean {
    if (tail >= this.size) return false;
    this.tail = tail;
    return true;
  }

  /** Where the next command lies; it counts as fetched. */
  nextAddress(): Address {
    const address = addressAfter(this.base, this.head * SUBMISSION_ENTRY_SIZE);
    this.head = (this.head + 1) % this.size;
    return address;
  }
}

/** The queues of a controller by id; 0 are the admin queues. */
export class QueueSet {
  readonly submission: (SubmissionQueue | undefined)[];
  readonly completion: (CompletionQueue | undefined)[];

  /** @param ioQueues how many pairs besides the admin queues there may be */
  constructor(ioQueues: number) {
    this.submission = new Array(ioQueues + 1).fill(undefined);
    this.completion = new Array(ioQueues + 1).fill(undefined);
  }

  /** Whether the host may create a queue of this id. */
  isIoQueueId(id: number): boolean {
    return id > 0 && id < this.submission.length;
  }

  /** Whether any queue was created besides the admin queues. */
  get hasIoQueues(): boolean {
    return this.completion.some((queue, id) => id > 0 && queue !== undefined);
  }

  addCompletion(queue: CompletionQueue): void {
    this.completion[queue.id] = queue;
  }

  addSubmission(queue: SubmissionQueue): void {
    this.submission[queue.id] = queue;
    queue.completions.users++;
  }

  removeSubmission(queue: SubmissionQueue): void {
    this.submission[queue.id] = undefined;
    queue.completions.users--;
  }

  /** Whether an interrupt pin must be asserted: some queue has entries that the host has not consumed, and its vector is not masked. */
  wantsPin(mask: number): boolean {
    for (const queue of this.completion) {
      if (queue?.interruptsEnabled && queue.head !== queue.tail && ((mask >>> queue.vector) & 1) === 0) return true;
    }
    return false;
  }

  /** Takes the queues of another set of the same size. */
  replace(other: QueueSet): void {
    for (let id = 0; id < this.submission.length; id++) {
      this.submission[id] = other.submission[id];
      this.completion[id] = other.completion[id];
    }
  }

  /**
   * Has an interrupt raised for each queue with entries that the host has not consumed: whoever received the one before may be gone. One too many
   * does no harm.
   */
  signalUsed(): void {
    for (const queue of this.completion) {
      if (queue !== undefined) queue.signalDue = queue.used > 0;
    }
  }

  clear(): void {
    this.submission.fill(undefined);
    this.completion.fill(undefined);
  }
}
