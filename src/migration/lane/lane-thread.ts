import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import { type ErrnoName, VfioError } from '../../uapi/index.js';

/** What a lane's thread says when it cannot go on. */
export interface FailureWord {
  word: 'failed';
  errno: ErrnoName;
  message: string;
}

/** An error for the other side of a thread's port, which takes no classes. */
export function failureWord({ errno, message }: VfioError): FailureWord {
  const suffix = ` (${errno})`;
  return { word: 'failed', errno, message: message.endsWith(suffix) ? message.slice(0, -suffix.length) : message };
}

/** What a thread may fill with short-lived objects before it looks for garbage, MiB: it makes few, and would let 48 MiB come together. */
const YOUNG_MIB = 4;

/** The order that every lane's thread knows: to end, between two pieces of work. */
export interface StopOrder {
  order: 'stop';
}

/** How long a thread may take to end by itself, milliseconds. */
const STOP_MS = 5000;

/** Who hears a thread. */
export interface LaneThreadEvents<Word> {
  onWord(word: Word): void;
  /** It said that it cannot go on, or has died. Told once; not after {@link LaneThread.stop}. */
  onFailed(error: VfioError): void;
}

/**
 * A thread that moves memory for one lane, seen from the thread that directs the migration. Its program is the built one, wherever this file
 * runs from: `package.json` names it under `imports`.
 */
export class LaneThread<Order, Word extends { word: string }> {
  readonly #name: string;
  readonly #worker: Worker;
  readonly #events: LaneThreadEvents<Word>;
  readonly #exit: Promise<void>;
  #isOver = false;

  /** @param start what the thread finds in its `workerData` */
  constructor(name: string, program: '#lane-sender' | '#lane-receiver', start: object, events: LaneThreadEvents<Word>) {
    this.#name = name;
    this.#events = events;
    this.#worker = new Worker(createRequire(import.meta.url).resolve(program), {
      name,
      workerData: start,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MIB },
    });
    this.#worker.on('message', (word: Word | FailureWord) => this.#hear(word));
    this.#worker.on('error', error => this.#fail('EIO', `its thread died: ${error.message}`));
    this.#exit = new Promise(resolve => {
      this.#worker.once('exit', code => {
        this.#fail('EIO', `its thread ended with code ${code}`);
        resolve();
      });
    });
  }

  tell(order: Order): void {
    this.#worker.postMessage(order);
  }

  /**
   * Ends the thread, with its sockets: done when nothing of it is left, and it touches no memory any more. Idempotent.
   *
   * It ends by itself: one that is ended from outside in the middle of a call to the system's library takes the process with it, because the
   * binding cannot throw in it any more. Only a thread that hangs is ended so.
   */
  async stop(): Promise<void> {
    this.#isOver = true;
    this.#worker.postMessage({ order: 'stop' } satisfies StopOrder);
    const deadline = setTimeout(() => void this.#worker.terminate(), STOP_MS);
    await this.#exit;
    clearTimeout(deadline);
  }

  #hear(word: Word | FailureWord): void {
    if (this.#isOver) return;
    if (isFailure(word)) this.#fail(word.errno, word.message);
    else this.#events.onWord(word);
  }

  #fail(errno: ErrnoName, message: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#events.onFailed(new VfioError(errno, { operation: this.#name, message }));
  }
}

function isFailure(word: { word: string }): word is FailureWord {
  return word.word === 'failed';
}
