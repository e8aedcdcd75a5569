import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DmaEngineDriver } from '../../src/devices/dma-engine/index.js';
import { GuestMemory, VfioUserClient } from '../../src/index.js';
import { type Finished, parseLines, start } from './run-cli.js';

/** Bytes of memory of a machine under test. */
export const MEMORY_BYTES = 8 * 2 ** 20;

/** A command that runs, and the JSON events that it prints. */
export class Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  // biome-ignore lint/suspicious/noExplicitAny: what the command printed, looked at by its test
  readonly events: any[] = [];
  // biome-ignore lint/suspicious/noExplicitAny: as above
  #listeners: ((event: any) => void)[] = [];

  constructor(parameters: readonly string[]) {
    const { child, finished } = start(parameters);
    this.child = child;
    this.finished = finished;
    let rest = '';
    child.stdout!.on('data', (text: string) => {
      rest += text;
      const lines = rest.split('\n');
      rest = lines.pop()!;
      for (const event of lines.filter(line => line.startsWith('{')).map(line => JSON.parse(line))) {
        this.events.push(event);
        for (const listener of this.#listeners) listener(event);
      }
    });
  }

  /** The first event that `holds` says yes to, past or to come. @throws when the command ends without it */
  // biome-ignore lint/suspicious/noExplicitAny: as above
  event(holds: (event: any) => boolean): Promise<any> {
    const past = this.events.find(holds);
    if (past !== undefined) return Promise.resolve(past);
    return new Promise((resolve, reject) => {
      this.#listeners.push(event => {
        if (holds(event)) resolve(event);
      });
      void this.finished.then(({ stdout, stderr }) => reject(new Error(`it ended without it: ${stdout} ${stderr}`)));
    });
  }

  /** How it ended, and its last event. */
  // biome-ignore lint/suspicious/noExplicitAny: as above
  async end(): Promise<Finished & { result: any }> {
    const finished = await this.finished;
    return { ...finished, result: parseLines(finished.stdout).at(-1) };
  }
}

/** Hosts on this machine: engines that are served, memory files, commands. All of it is gone after {@link Hosts.close}. */
export class Hosts {
  readonly folder = mkdtempSync(join(tmpdir(), 'dmalog-hosts-'));
  readonly #children: { child: ChildProcess; finished: Promise<unknown> }[] = [];

  path(name: string): string {
    return join(this.folder, name);
  }

  /** The arguments that name a host's machine. */
  machine(name: string): string[] {
    return [`vfio-user:${this.path(name)}.sock`, '--memory', this.path(`${name}.mem`)];
  }

  /** Serves an engine and makes memory for it. @param workload options of `dmalog device dma-engine` */
  async engine(name: string, ...workload: string[]): Promise<ChildProcess> {
    writeFileSync(this.path(`${name}.mem`), '', { mode: 0o600 });
    truncateSync(this.path(`${name}.mem`), MEMORY_BYTES);
    const { child } = this.run('device', 'dma-engine', '--socket', `${this.path(name)}.sock`, ...workload);
    await once(child.stdout!, 'data');
    return child;
  }

  run(...parameters: string[]): Running {
    const running = new Running(parameters);
    this.#children.push(running);
    return running;
  }

  /** A receiver that listens; and where. */
  async receive(name: string, ...options: string[]): Promise<{ receiver: Running; to: string }> {
    const receiver = this.run('receive', ...this.machine(name), '--listen', '127.0.0.1:0', '--json', ...options);
    const { host, port } = await receiver.event(({ event }) => event === 'listening');
    return { receiver, to: `${host}:${port}` };
  }

  migrate(name: string, to: string, ...options: string[]): Running {
    return this.run('migrate', ...this.machine(name), '--to', to, '--json', ...options);
  }

  /** Looks at an engine as its host: where it is, and whether the memory is as its workload left it. */
  async inspect(name: string) {
    const client = await VfioUserClient.connect(`${this.path(name)}.sock`, { timeoutMs: 5000 });
    const memory = GuestMemory.open(this.path(`${name}.mem`));
    try {
      await client.mapMemory({ iova: 0n, length: memory.size, readable: true, writable: true }, memory);
      const state = await client.features.migrationState();
      const isLogging = !(await startsLogging(client));
      const engine = await DmaEngineDriver.attach(client);
      const statistics = await engine.statistics();
      const verify = statistics.pagesWritten > 0 && state === 2 ? await engine.verify() : undefined;
      return { state, isLogging, statistics, verify };
    } finally {
      await client.close();
      memory.close();
    }
  }

  async close(): Promise<void> {
    for (const { child } of this.#children) child.kill('SIGKILL');
    await Promise.all(this.#children.map(({ finished }) => finished));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function startsLogging(client: VfioUserClient): Promise<boolean> {
  try {
    await client.features.startLogging(4096n, [{ iova: 0n, length: 4096n }]);
  } catch {
    return false;
  }
  await client.features.stopLogging();
  return true;
}
