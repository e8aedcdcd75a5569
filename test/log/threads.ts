import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import typescript from 'typescript';
import { afterAll, beforeAll } from 'vitest';

/*
 * Threads and processes of their own. Node runs no TypeScript, so the sources are translated, without checking types, into a
 * folder that looks like the project: once for a test file.
 */

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Where translated programs of this folder are: `path('writer-thread')`. Call it at the top of a test file. */
export function translatedPrograms(...names: string[]): (name: string) => string {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'dmalog-threads-'));
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
    for (const room of ['uapi', 'bitmap', 'native', 'log']) {
      cpSync(join(root, 'src', room), join(folder, 'src', room), { recursive: true });
    }
    for (const name of names) cpSync(join(root, 'test/log', `${name}.ts`), join(folder, 'test/log', `${name}.ts`));
    for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      if (name.endsWith('.ts') && !name.startsWith('node_modules')) translate(join(folder, name));
    }
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return name => join(folder, 'test/log', `${name}.js`);
}

function translate(path: string): void {
  const { outputText } = typescript.transpileModule(readFileSync(path, 'utf8'), {
    compilerOptions: { module: typescript.ModuleKind.ESNext, target: typescript.ScriptTarget.ES2022 },
  });
  writeFileSync(path.replace(/\.ts$/, '.js'), outputText);
}

/** A thread that waits for {@link Crew.start}, works, and says when it is done. */
export interface CrewMember<Data> {
  /** Index 0: how many are ready. 1: set to 1 when all may start. 2: how many are done. */
  readonly signals: Int32Array;
  readonly data: Data;
}

/** Threads that start at one moment and are awaited without giving up the calling thread. */
export class Crew {
  readonly #signals = new Int32Array(new SharedArrayBuffer(12));
  readonly #workers: Worker[];
  readonly #ended: Promise<unknown>;

  constructor(program: string, members: readonly unknown[]) {
    this.#workers = members.map(data => new Worker(program, { workerData: { signals: this.#signals, data } }));
    this.#ended = Promise.all(
      this.#workers.map(
        worker =>
          new Promise((resolve, reject) => {
            worker.once('error', reject);
            worker.once('exit', resolve);
          }),
      ),
    );
  }

  /** Lets all of them start, once every one is ready. */
  async start(): Promise<void> {
    const ready = async () => {
      while (Atomics.load(this.#signals, 0) < this.#workers.length)
        await new Promise(resolve => setTimeout(resolve, 5));
    };
    await Promise.race([ready(), this.#ended]);
    Atomics.store(this.#signals, 1, 1);
    Atomics.notify(this.#signals, 1);
  }

  /** Whether all are done. */
  get done(): boolean {
    return Atomics.load(this.#signals, 2) === this.#workers.length;
  }

  /** Waits for the threads to end; throws what one of them threw. */
  async join(): Promise<void> {
    await this.#ended;
  }
}
