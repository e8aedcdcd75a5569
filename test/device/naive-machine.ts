import { MigrationState } from '../../src/uapi/index.js';
import { nextState } from './next-states.js';

/** Which hook of the model fails next, and how. */
export interface Failure {
  hook: 'quiesce' | 'savePrecopy' | 'saveStopped' | 'load';
  known: boolean;
}

const { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY, PRE_COPY_P2P } = MigrationState;
const saving: readonly MigrationState[] = [PRE_COPY, PRE_COPY_P2P, STOP_COPY];
const active: readonly MigrationState[] = [RUNNING, PRE_COPY];

/**
 * What a migration machine must do, arc by arc as linux/vfio.h describes the arcs. The model's data are strings: 'pre' is what it gives before
 * it stops, 'stop' what it gives when it is stopped; 'pre' and 'stop' together are what it takes, anything else is EINVAL.
 */
export class NaiveMachine {
  readonly flags: number;
  state: MigrationState = RUNNING;
  running = true;
  outgoing = '';
  incoming = '';
  loads = 0;
  failure: Failure | undefined;

  constructor(flags: number) {
    this.flags = flags;
  }

  /** @returns the errno, or `undefined`. */
  setState(target: MigrationState): string | undefined {
    if (nextState(this.flags, this.state, target) === undefined) return 'EINVAL';
    while (this.state !== target) {
      const next = nextState(this.flags, this.state, target)!;
      const errno = this.#arc(this.state, next);
      if (errno !== undefined) return errno;
      this.state = next;
    }
    return undefined;
  }

  #arc(from: MigrationState, to: MigrationState): string | undefined {
    const stops = active.includes(from) && !active.includes(to);
    if (stops) {
      const failed = this.#fails('quiesce');
      if (failed !== undefined) return failed;
      this.running = false;
    }
    if (from === RESUMING && to === STOP) {
      const failed = this.#fails('load') ?? (this.incoming === 'prestop' ? undefined : 'EINVAL');
      if (failed !== undefined) return failed;
      this.loads++;
      this.incoming = '';
    }
    let gained = '';
    if (saving.includes(to) && !saving.includes(from)) {
      const failed = this.#fails('savePrecopy');
      if (failed !== undefined) return this.#undo(stops, failed);
      gained += 'pre';
    }
    if (to === STOP_COPY) {
      const failed = this.#fails('saveStopped');
      if (failed !== undefined) return this.#undo(stops, failed);
      gained += 'stop';
    }
    this.outgoing = saving.includes(to) ? this.outgoing + gained : '';
    if (to === RESUMING) this.incoming = '';
    if (active.includes(to)) this.running = true;
    return undefined;
  }

  /** An arc that fails leaves the device as it was: running, if it ran; unless it broke. */
  #undo(stopped: boolean, errno: string): string {
    if (stopped && this.state !== ERROR) this.running = true;
    return errno;
  }

  #fails(hook: Failure['hook']): string | undefined {
    if (this.failure?.hook !== hook) return undefined;
    const { known } = this.failure;
    this.failure = undefined;
    if (known) return 'EBUSY';
    this.state = ERROR;
    return 'EIO';
  }

  read(limit: number): string | undefined {
    if (!saving.includes(this.state)) return undefined;
    const text = this.outgoing.slice(0, limit);
    this.outgoing = this.outgoing.slice(limit);
    return text;
  }

  write(text: string): boolean {
    if (this.state !== RESUMING) return false;
    this.incoming += text;
    return true;
  }

  reset(): void {
    this.state = RUNNING;
    this.running = true;
    this.outgoing = '';
    this.incoming = '';
  }
}
