/*
 * What the downtime is made of, and how long it is going to be.
 *
 * Worked example: one page took 5.2 µs in the last passes, until the other end had it. 6,000 pages are dirty, and 20,000 become dirty in a
 * second; reading the logs took 2 ms and stopping will take 1 ms, in which 60 more become dirty: 6,060 pages, 31.5 ms. The devices' states are 1 MB at
 * 250 MB/s: 4 ms. Loading and starting the devices at the other end is taken as long as stopping them here, 1 ms each, and two round trips are
 * 0.4 ms: 40.9 ms in all.
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
  // The devices go on until they are stopped, and the log that says so is read after that.
  const morePages = (measured.dirtyPagesPerSecond * (logMs + pauseMs)) / 1000;
  return downtimeOf({
    pauseMs,
    logMs,
    memoryMs: (measured.dirtyPages + morePages) * measured.msPerPage + roundTripMs,
    // Of every device: the data, and that there is no more.
    stateMs: 2 * requestMs + measured.stateBytes / measured.stateBytesPerMs,
    loadMs: requestMs,
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
