import { VfioError } from '../../uapi/index.js';
import { ExitCode } from '../exit-code.js';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** The wish of somebody at the terminal, or of the system, that a command ends. */
export class EndWish implements Disposable {
  readonly #controller = new AbortController();
  readonly #onSignal = () => {
    this.#controller.abort(new VfioError('EINTR', { operation: 'dmalog', message: 'interrupted' }));
  };

  constructor() {
    for (const signal of SIGNALS) process.on(signal, this.#onSignal);
  }

  /** Aborted by the first signal. Later ones change nothing. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Waits for what may take long, but not beyond the wish. @throws VfioError EINTR */
  unlessCame<T>(work: Promise<T>): Promise<T> {
    const ended = this.came.then((): never => {
      throw this.signal.reason;
    });
    return Promise.race([work, ended]);
  }

  /** Done when the wish is there. */
  get came(): Promise<void> {
    const { signal } = this;
    return new Promise(resolve => {
      if (signal.aborted) resolve();
      else signal.addEventListener('abort', () => resolve(), { once: true });
    });
  }

  /** The command has ended: a signal that comes while its process goes hurries it on, and its exit code stays what it said. */
  [Symbol.dispose](): void {
    for (const signal of SIGNALS) {
      process.on(signal, () => process.exit());
      process.off(signal, this.#onSignal);
    }
  }
}

/** A command has ended with this code. */
export function endWith(code: number): void {
  // Output that could not be written has set its own.
  process.exitCode ??= code;
  // A connection that was still being made would keep the process, and nobody waits for it any more.
  if (code === ExitCode.INTERRUPTED) process.exit();
}
