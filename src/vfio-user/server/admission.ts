import type { MaybePromise } from '../../memory/index.js';
import { VfioError } from '../../uapi/index.js';
import type { ClientRole, ServerSession } from './session.js';

/** Most connections that may be there and not be served yet: silent ones, and those that wait for the VMM to leave. */
const MOST_WAITING = 8;

/** Most trackers beside the VMM. */
const MOST_TRACKERS = 8;

interface WaitingVmm {
  readonly session: ServerSession;
  readonly admit: () => void;
  readonly refuse: (error: VfioError) => void;
}

/**
 * Who may use a device: one VMM at a time, and trackers beside it, before it and after it. A second VMM waits, without an answer to its
 * VERSION, until the first one is gone with everything that was its own.
 */
export class Admission {
  readonly #sessions = new Set<ServerSession>();
  readonly #trackers = new Set<ServerSession>();
  #vmm: ServerSession | undefined;
  #waiting: WaitingVmm[] = [];

  /** All connections. */
  get sessions(): ReadonlySet<ServerSession> {
    return this.#sessions;
  }

  /** The VMM's connection. */
  get vmm(): ServerSession | undefined {
    return this.#vmm;
  }

  /** How many clients are served. */
  get served(): number {
    return this.#trackers.size + (this.#vmm === undefined ? 0 : 1);
  }

  /** Whether another connection may be accepted. */
  get hasRoom(): boolean {
    return this.#sessions.size - this.served < MOST_WAITING;
  }

  /** A connection is there; nobody knows yet for whom. */
  enter(session: ServerSession): void {
    this.#sessions.add(session);
  }

  /** Gives a client its place, now or when it is free. @throws VfioError EBUSY for a tracker too many */
  admit(session: ServerSession, role: ClientRole): MaybePromise<void> {
    if (role === 'tracker') return this.#admitTracker(session);
    if (this.#vmm === undefined) {
      this.#vmm = session;
      return undefined;
    }
    return new Promise<void>((admit, refuse) => this.#waiting.push({ session, admit, refuse }));
  }

  #admitTracker(session: ServerSession): void {
    if (this.#trackers.size >= MOST_TRACKERS) {
      const message = `${MOST_TRACKERS} trackers are there already`;
      throw new VfioError('EBUSY', { operation: 'VERSION', field: 'role', message });
    }
    this.#trackers.add(session);
  }

  /** A client that waits is gone: nobody waits for it any more. */
  withdraw(session: ServerSession): void {
    const gone = this.#waiting.find(waiting => waiting.session === session);
    if (gone === undefined) return;
    this.#waiting = this.#waiting.filter(waiting => waiting !== gone);
    gone.refuse(new VfioError('ECONNRESET', { operation: 'VERSION', message: 'the client is gone' }));
  }

  /** A connection is over; the one that has waited longest for its place gets it. */
  leave(session: ServerSession): void {
    this.#sessions.delete(session);
    this.#trackers.delete(session);
    if (this.#vmm !== session) return;
    const next = this.#waiting.shift();
    this.#vmm = next?.session;
    next?.admit();
  }
}
