import { Worker } from 'node:worker_threads';
import { VfioError } from '../../uapi/index.js';
import type { CpuAnswer, CpuCall, CpuCalls, CpuThreadData } from './cpu-messages.js';

/** How long a thread may take until it serves, milliseconds. */
const READY_MS = 30_000;

interface Waiting {
  resolve: (value: unknown) => void;
  reject: (error: VfioError) => void;
}

/** One CPU, seen from its owner's thread. */
export class Cpu {
  readonly #name: string;
  readonly #worker: Worker;
  /** In the order in which they were asked. */
  readonly #waiting: Waiting[] = [];
  #failure: VfioError | undefined;

  private constructor(name: string, worker: Worker) {
    this.#name = name;
    this.#worker = worker;
    worker.on('message', (answer: CpuAnswer) => this.#take(answer));
    worker.on('error', error => this.#fail(`died: ${error.message}`));
    worker.on('exit', () => this.#fail('has ended'));
  }

  /** Starts a thread. @throws VfioError EIO when it does not start, ETIMEDOUT when it does not get ready */
  static async start(name: string, data: CpuThreadData): Promise<Cpu> {
    const cpu = new Cpu(name, new Worker(new URL('./cpu-thread.js', import.meta.url), { workerData: data, name }));
    const late = new VfioError('ETIMEDOUT', { operation: name, message: `is not ready after ${READY_MS} ms` });
    const timer = setTimeout(() => cpu.#waiting[0]?.reject(late), READY_MS);
    try {
      await cpu.#answer();
    } catch (error) {
      await cpu.end();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return cpu;
  }

  /** Why it does nothing any more, if it has died. */
  get failure(): VfioError | undefined {
    return this.#failure;
  }

  /** Asks the thread. @throws VfioError as it says; EIO when it has died, or dies meanwhile */
  ask<Call extends CpuCall>(
    call: Call,
    ...[parameters]: CpuCalls[Call]['parameters'] extends undefined ? [] : [CpuCalls[Call]['parameters']]
  ): Promise<CpuCalls[Call]['answer']> {
    this.#worker.postMessage({ call, parameters });
    return this.#answer() as Promise<CpuCalls[Call]['answer']>;
  }

  /** A thread keeps the process alive for as long as somebody waits for it. */
  #answer(): Promise<unknown> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    this.#worker.ref();
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #take(answer: CpuAnswer): void {
    const waiting = this.#waiting.shift();
    if (this.#waiting.length === 0) this.#worker.unref();
    if ('errno' in answer)
      waiting?.reject(new VfioError(answer.errno, { operation: this.#name, message: answer.message }));
    else waiting?.resolve(answer.value);
  }

  #fail(how: string): void {
    this.#failure ??= new VfioError('EIO', { operation: this.#name, message: how });
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }

  /** Ends the thread, wherever it is. Idempotent. */
  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}
