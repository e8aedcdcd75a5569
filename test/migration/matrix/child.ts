import { type ChildProcess, execFile, type ForkOptions, fork } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { promisify } from 'node:util';

/** What a child says by itself: its fault has shown, or it waits at its gate. */
export type ChildEvent = 'struck' | 'gate';

interface Message {
  event?: ChildEvent | 'ready';
  id?: number;
  result?: unknown;
  failure?: string;
}

/** A process of a run, whose calls are answered as long as it lives. */
export class Child {
  readonly name: string;
  readonly #process: ChildProcess;
  readonly #pending = new Map<number, { resolve: (result: never) => void; reject: (error: Error) => void }>();
  readonly #ended: Promise<void>;
  #nextId = 0;
  #isSilent = false;
  onEvent: (event: ChildEvent) => void = () => {};

  private constructor(name: string, process: ChildProcess) {
    this.name = name;
    this.#process = process;
    this.#ended = once(process, 'exit').then(() => this.#rejectAll());
    process.on('message', message => this.#take(message as Message));
    process.stderr!.on('data', words => this.#isSilent || console.error(`${name}: ${words}`));
  }

  /** Starts one of children/, and waits until it serves. The scripts lie where the project is, from where tests and soak are started. */
  static async start(name: string, script: string, ...parameters: string[]): Promise<Child> {
    const options: ForkOptions = {
      serialization: 'advanced',
      execArgv: [],
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
    };
    const path = resolve('test/migration/matrix/children', script);
    const child = new Child(name, fork(path, parameters, options));
    const isReady = await Promise.race([once(child.#process, 'message'), child.#ended.then(() => false)]);
    if (isReady === false) throw new Error(`${name} ended before it served`);
    return child;
  }

  get isAlive(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Done when the process is gone. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  /** @throws Error what the call throws there; or that the process has ended */
  call<Result>(call: string, parameters: unknown = {}): Promise<Result> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (!this.isAlive) return reject(new Error(`${this.name} has ended`));
      this.#pending.set(id, { resolve, reject });
      this.#process.send({ id, call, parameters }, error => error && reject(error));
    });
  }

  #take({ event, id, result, failure }: Message): void {
    if (event === 'struck' || event === 'gate') this.onEvent(event);
    if (id === undefined) return;
    const waiting = this.#pending.get(id);
    this.#pending.delete(id);
    if (failure === undefined) waiting?.resolve(result as never);
    else waiting?.reject(new Error(`${this.name}: ${failure}`));
  }

  #rejectAll(): void {
    for (const { reject } of this.#pending.values()) reject(new Error(`${this.name} has ended`));
    this.#pending.clear();
  }

  freeze(): void {
    this.#process.kill('SIGSTOP');
  }

  thaw(): void {
    this.#process.kill('SIGCONT');
  }

  /** What it says when it dies is expected, and long. */
  silence(): void {
    this.#isSilent = true;
  }

  /** Done when the process is gone. Idempotent. */
  async kill(): Promise<void> {
    if (this.isAlive) this.#process.kill('SIGKILL');
    await this.#ended;
  }

  /**
   * Gives the running process less of something than it has, by prlimit(1). The limit that a process has besides stays: it can be lifted again.
   * @param most `unlimited`: as much as there is
   */
  async limit(resource: 'fsize' | 'as' | 'nofile', most: number | 'unlimited'): Promise<void> {
    if (!this.isAlive) return;
    await promisify(execFile)('prlimit', ['--pid', `${this.#process.pid}`, `--${resource}=${most}:`]);
  }

  get pid(): number {
    return this.#process.pid!;
  }
}
