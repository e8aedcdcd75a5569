/*
 * What the downtime is made of, and how long it is going to be.
 *
 * Worked example: asking the devices for something small takes 1 ms, for the size of their states 3 ms, because they go over it; at the other end
 * small things take 0.5 ms. Stopping them is two requests and once over their states: 5 ms; reading the logs took 2 ms. A page took 5.2 µs lately,
 * until the other end had it. 6,000 pages are dirty, and 20,000 are written in a second: in those 7 ms 140 more. 6,140 pages and a round trip of
 * 0.2 ms are 32.1 ms. The states are 1 MB at 250 MB/s, 4 ms, and two requests: 6 ms. At the other end they are loaded with a request, twice over them,
 * and as long again for their bytes: 10.5 ms; starting the devices is three requests, 1.5 ms. Two more round trips, and two more requests there, are
 * 1.4 ms: 58.5 ms in all.
 */

/** The parts of a downtime, milliseconds. Nothing of it belongs to two, and nothing to none. */
export interface DowntimeParts {
  /** Stopping the devices. */
  pauseMs: number;
  /** Reading the logs for the last time. */
  logMs: number;
  /** Sending the memory that is still dirty. */
  memoryMs: number;
  /** Reading and sending the devices' states. */
  stateMs: number;
  /** The destination's devices load their states. */
  loadMs: number;
  /** The destination's devices start. */
  resumeMs: number;
  /** Round trips, the ownership record's change, and whatever was still under way. */
  switchMs: number;
}

/** A downtime and its parts, milliseconds. */
export interface Downtime extends DowntimeParts {
  totalMs: number;
}

/** Adds up. */
export function downtimeOf(parts: DowntimeParts): Downtime {
  const { pauseMs, logMs, memoryMs, stateMs, loadMs, resumeMs, switchMs } = parts;
  return { ...parts, totalMs: pauseMs + logMs + memoryMs + stateMs + loadMs + resumeMs + switchMs };
}

/** What was measured while the machine ran. */
export interface DowntimeMeasurements {
  /** Pages to send, if the machine stopped now. */
  dirtyPages: number;
  dirtyPagesPerSecond: number;
  /** Milliseconds until a page, of those sent lately, was at the other end. */
  msPerPage: number;
  /** State that the devices still have to send, bytes. */
  stateBytes: number;
  /** How fast state moved lately, bytes per millisecond. */
  stateBytesPerMs: number;
  /** Asking every device for something small, milliseconds. */
  requestMs: number;
  /** Asking every device how much state it has, milliseconds. A device that must go over its state to answer shows how long that takes. */
  sizeMs: number;
  /** Asking every device at the destination for something small, milliseconds. */
  destinationRequestMs: number;
  /** Stopping the devices, the last time that this was done, milliseconds; `undefined` when it never was. */
  lastPauseMs: number | undefined;
  /** Reading the logs, milliseconds. */
  logMs: number;
  /** To the other end and back, milliseconds. */
  roundTripMs: number;
  /** Asking the ownership record's store for something once, milliseconds; 0 without one. */
  storeMs: number;
}

/** Stopping takes every device two state changes: to where it starts nothing any more, and to where it saves. */
const CHANGES_TO_STOP = 2;
/** Starting them takes three requests at the destination: what each can, and two state changes. */
const REQUESTS_TO_START = 3;
/** Beside that the destination gives each device its state, and asks each whether it still has it when the machine is taken. */
const REQUESTS_AT_SWITCH = 2;

/** The downtime to expect if the machine stopped now. */
export function estimateDowntime(measured: DowntimeMeasurements): Downtime {
  const { requestMs, sizeMs, destinationRequestMs, roundTripMs, storeMs, logMs } = measured;
  const bytesMs = measured.stateBytes / measured.stateBytesPerMs;
  // A device that stops to save goes over its state.
  const pauseMs = measured.lastPauseMs ?? CHANGES_TO_STOP * requestMs + sizeMs;
  // Until the devices are stopped they go on: while the logs are read, the owner is asked for, and each of them is told.
  const morePages = (measured.dirtyPagesPerSecond * (logMs + storeMs + pauseMs)) / 1000;
  return downtimeOf({
    pauseMs,
    logMs,
    memoryMs: (measured.dirtyPages + morePages) * measured.msPerPage + roundTripMs,
    // Of every device: the data, and that there is no more.
    stateMs: 2 * requestMs + bytesMs,
    // Whoever loads a state goes over all of it, to check it before anything changes and to take it, and over its bytes.
    loadMs: destinationRequestMs + 2 * sizeMs + bytesMs,
    resumeMs: REQUESTS_TO_START * destinationRequestMs,
    switchMs: 2 * roundTripMs + 2 * storeMs + REQUESTS_AT_SWITCH * destinationRequestMs,
  });
}

/** Measures a downtime, part by part: what goes by between two laps belongs to the second. */
export class DowntimeWatch {
  #parts: DowntimeParts = noDowntime();
  #since = 0;

  /** The machine is about to stop. What was measured before is forgotten. */
  start(now: number): void {
    this.#parts = noDowntime();
    this.#since = now;
  }

  /** Everything since the last lap was this part. */
  lap(part: keyof DowntimeParts, now: number): void {
    this.#parts[part] += now - this.#since;
    this.#since = now;
  }

  /**
   * Everything since the last lap was the destination's work, for as long as it says, and the way there and back.
   * @param saidMs what the destination says; the clocks here have the last word
   */
  lapElsewhere(part: 'loadMs' | 'resumeMs', saidMs: number, now: number): void {
    const workMs = Math.min(saidMs, now - this.#since);
    this.#parts[part] += workMs;
    this.#since += workMs;
    this.lap('switchMs', now);
  }

  /** What went by since the last lap is not counted. */
  skip(now: number): void {
    this.#since = now;
  }

  /** What was measured so far. */
  get downtime(): Downtime {
    return downtimeOf(this.#parts);
  }
}

function noDowntime(): DowntimeParts {
  return { pauseMs: 0, logMs: 0, memoryMs: 0, stateMs: 0, loadMs: 0, resumeMs: 0, switchMs: 0 };
}
