import { DmaLog } from '../../log/index.js';
import type { IovaRange } from '../../uapi/index.js';

/** One START of this client, from the moment before it is sent. */
interface Session {
  readonly pageSize: bigint;
  /** None: everything. */
  readonly ranges: readonly IovaRange[];
  /** Made when the first write comes: most clients never see one. */
  log: DmaLog | undefined;
  /** Whether its START has succeeded. */
  confirmed: boolean;
}

/** What to do when the server has answered a START or a STOP. */
export interface Answered {
  succeeded(): void;
  failed(): void;
}

/** Page sizes that can be logged here: powers of two from 4 KiB to 1 GiB. */
const PAGE_SIZES = Array.from({ length: 19 }, (_, index) => 4096n << BigInt(index));

/**
 * The client's half of the device's DMA log: which pages arrived by DMA_WRITE. A server need not log those, so that the whole set is what the
 * device reports, and what is here.
 *
 * It must log whenever the device may. So a session begins before its START is sent and ends after its STOP is answered, and where both
 * sides may think differently of what runs (a STOP that fails, a device that takes a START twice), more than one session logs.
 * Example: STOP fails, because somebody else has stopped the device. Its session goes on here until the next START succeeds.
 *
 * A STOP speaks of the sessions that were there when it was sent. Example: STOP and START leave one right behind the other; the answer to
 * STOP ends the old session, and not the one of the START, which is there already.
 */
export class ClientWriteLog {
  readonly #sessions = new Set<Session>();
  /** Sessions whose STOP has failed. */
  readonly #doubtful = new Set<Session>();

  /** Whether a write would be logged. */
  get active(): boolean {
    return this.#sessions.size > 0;
  }

  /** Whether a START has succeeded whose STOP has not been tried: then everything that came by DMA_WRITE since is here. */
  get complete(): boolean {
    for (const session of this.#sessions) if (session.confirmed && !this.#doubtful.has(session)) return true;
    return false;
  }

  /**
   * A START is about to be sent.
   * @param pageSize the hint, bytes
   * @returns what to do when the answer is there
   */
  starting(pageSize: bigint, ranges: readonly IovaRange[]): Answered {
    const session: Session = { pageSize: pageSize > 0n ? pageSize : 4096n, ranges, log: undefined, confirmed: false };
    this.#sessions.add(session);
    return {
      succeeded: () => {
        session.confirmed = true;
        for (const old of this.#doubtful) this.#sessions.delete(old);
        this.#doubtful.clear();
      },
      failed: () => this.#sessions.delete(session),
    };
  }

  /**
   * A STOP is about to be sent.
   * @returns what to do when the answer is there; after a failure the device may be logging, or not
   */
  stopping(): Answered {
    const before = [...this.#sessions];
    return {
      succeeded: () => {
        for (const session of before) {
          this.#sessions.delete(session);
          this.#doubtful.delete(session);
        }
      },
      failed: () => {
        for (const session of before) if (this.#sessions.has(session)) this.#doubtful.add(session);
      },
    };
  }

  /** Logs a write whose bytes are in memory. */
  record(iova: number | bigint, length: number): void {
    for (const session of this.#sessions) {
      session.log ??= startLog(session);
      session.log.record(iova, length);
    }
  }

  /** Reads and clears, as {@link DmaLog.report}: ORs into `bitmap`. */
  report({ iova, length }: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    for (const { log } of this.#sessions) log?.report(iova, length, pageSize, bitmap);
  }

  /** The same into a bitmap that others report into at the same time, as {@link DmaLog.reportShared}. */
  reportShared({ iova, length }: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    for (const { log } of this.#sessions) log?.reportShared(iova, length, pageSize, bitmap);
  }
}

/**
 * Ranges that only the device can make sense of, or that there is no memory for, are logged as everything: more than was asked for, never
 * less. That takes no memory before there is something to log, and says at a report if it ran out of memory since.
 */
function startLog({ pageSize, ranges }: Session): DmaLog {
  const log = new DmaLog({ pageSizes: PAGE_SIZES });
  try {
    log.start(pageSize, ranges.length === 0 ? 'everything' : ranges);
  } catch {
    log.start(pageSize, 'everything');
  }
  return log;
}
