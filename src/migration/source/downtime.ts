/*
 * What the downtime is made of, and how long it is going to be.
 *
 * Worked example: a page took 5.2 µs lately, until the other end had it. 6,000 pages are dirty, and 20,000 are written in a second; asking the
 * devices for anything takes 1 ms, so stopping them 2 ms, and reading the logs took 2 ms: in 4 ms 80 more pages become dirty. 6,080 pages and a
 * round trip of 0.2 ms are 31.8 ms. The devices' states are 1 MB at 250 MB/s, 4 ms, and two requests: 6 ms, and 5 ms for loading them. Starting the
 * devices there is a request, 1 ms, and two more round trips are 0.4 ms: 48.2 ms in all.
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
  /** Asking every device for something once, milliseconds. */
  requestMs: number;
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

/** The downtime to expect if the machine stopped now. */
export function estimateDowntime(measured: DowntimeMeasurements): Downtime {
  const { requestMs, roundTripMs, storeMs, logMs } = measured;
  const pauseMs = measured.lastPauseMs ?? CHANGES_TO_STOP * requestMs;
  // Until the devices are stopped they go on: while the logs are read, the owner is asked for, and each of them is told.
  const morePages = (measured.dirtyPagesPerSecond * (logMs + storeMs + pauseMs)) / 1000;
  return downtimeOf({
    pauseMs,
    logMs,
    memoryMs: (measured.dirtyPages + morePages) * measured.msPerPage + roundTripMs,
    // Of every device: the data, and that there is no more.
    stateMs: 2 * requestMs + measured.stateBytes / measured.stateBytesPerMs,
    // Whoever loads a state goes over all of it once more.
    loadMs: requestMs + measured.stateBytes / measured.stateBytesPerMs,
    resumeMs: requestMs,
    switchMs: 2 * roundTripMs + 2 * storeMs,
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
