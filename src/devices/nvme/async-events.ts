import { NvmeStatus } from './status.js';

/** An event's type and what happened (NVMe 1.4, figures 146 to 149), with the log page that tells more. */
export interface AsyncEvent {
  type: number;
  information: number;
  logPage: number;
}

/** The events of this controller. */
export const NvmeEvent = {
  INVALID_DOORBELL_REGISTER: { type: 0, information: 0x00, logPage: 0x01 },
  INVALID_DOORBELL_VALUE: { type: 0, information: 0x01, logPage: 0x01 },
  TEMPERATURE_THRESHOLD: { type: 1, information: 0x01, logPage: 0x02 },
} as const satisfies Record<string, AsyncEvent>;

const EVENTS: readonly AsyncEvent[] = Object.values(NvmeEvent);

/** Most Asynchronous Event Requests that wait at a time. Identify's AERL says one less. */
export const MAX_ASYNC_REQUESTS = 4;

/** How a waiting Asynchronous Event Request ends. */
export interface EventCompletion {
  commandId: number;
  status: NvmeStatus;
  result: number;
}

/** What migrates of the events. */
export interface AsyncEventsState {
  /** Command ids of the requests that wait, first come first. */
  waiting: number[];
  /** Command ids of the requests that were aborted, which is not told yet. */
  aborted: number[];
  /** A bit for each of {@link NvmeEvent} that has happened and was not told. */
  pending: number;
  /** A bit for each event type that is masked. */
  masked: number;
}

/**
 * Asynchronous events (NVMe 1.4, section 5.2). The host leaves requests with the controller, which completes one when something happens. Then
 * further events of that type wait until the host has read the log page that the first one named.
 */
export class AsyncEvents {
  #waiting: number[] = [];
  #aborted: number[] = [];
  #pending = 0;
  #masked = 0;

  /** Leaves a request here. @returns false when there are too many */
  request(commandId: number): boolean {
    if (this.#waiting.length >= MAX_ASYNC_REQUESTS) return false;
    this.#waiting.push(commandId);
    return true;
  }

  /** Something happened. The same event is told once, however often it happens before that. */
  raise(event: AsyncEvent): void {
    this.#pending |= 1 << EVENTS.indexOf(event);
  }

  /** Ends a request that waits, as aborted. @returns whether it waited */
  abort(commandId: number): boolean {
    const index = this.#waiting.indexOf(commandId);
    if (index === -1) return false;
    this.#aborted.push(...this.#waiting.splice(index, 1));
    return true;
  }

  /** The host has read a log page: events that named it may be told again. */
  acknowledge(logPage: number): void {
    for (const event of EVENTS) {
      if (event.logPage === logPage) this.#masked &= ~(1 << event.type);
    }
  }

  /** Takes the next completion that is due, if there is one. */
  next(): EventCompletion | undefined {
    const aborted = this.#aborted.shift();
    if (aborted !== undefined) return { commandId: aborted, status: NvmeStatus.ABORT_REQUESTED, result: 0 };
    if (this.#pending === 0 || this.#waiting.length === 0) return undefined;
    const index = EVENTS.findIndex(
      ({ type }, bit) => ((this.#pending >>> bit) & 1) === 1 && ((this.#masked >>> type) & 1) === 0,
    );
    const event = EVENTS[index];
    if (event === undefined) return undefined;
    this.#pending &= ~(1 << index);
    this.#masked |= 1 << event.type;
    const result = event.type | (event.information << 8) | (event.logPage << 16);
    return { commandId: this.#waiting.shift()!, status: NvmeStatus.SUCCESS, result };
  }

  /** Forgets requests and events: the controller was reset. */
  reset(): void {
    this.load({ waiting: [], aborted: [], pending: 0, masked: 0 });
  }

  save(): AsyncEventsState {
    return { waiting: [...this.#waiting], aborted: [...this.#aborted], pending: this.#pending, masked: this.#masked };
  }

  /** Takes what {@link AsyncEvents.save} gave and {@link isAsyncEventsState} accepts. */
  load({ waiting, aborted, pending, masked }: AsyncEventsState): void {
    this.#waiting = [...waiting];
    this.#aborted = [...aborted];
    this.#pending = pending;
    this.#masked = masked;
  }
}

/** Whether a state is one that {@link AsyncEvents} can have. */
export function isAsyncEventsState({ waiting, pending, masked }: AsyncEventsState): boolean {
  return waiting.length <= MAX_ASYNC_REQUESTS && pending < 1 << EVENTS.length && masked <= 0b11;
}
