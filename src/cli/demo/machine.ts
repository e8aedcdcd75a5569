import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { MigrationEvent } from '../../migration/index.js';
import { ERRNO, type ErrnoName, VfioError } from '../../uapi/index.js';
import type { HostCall, HostCalls, HostMessage } from './host-protocol.js';

/** How long a device process may take until it serves, milliseconds. */
const READY_MS = 30_000;

/** One side of the demo: a device process and a host process that is connected to it. */
export class DemoMachine {
  readonly name: string;
  readonly #host: ChildProcess;
  readonly #device: ChildProcess;
  readonly #pending = new Map<number, { resolve: (result: unknown) => void; reject: (error: VfioError) => void }>();
  /** Path of the device's socket. */
  readonly socket: string;
  readonly #hostLost: Promise<never>;
  readonly #lost: Promise<never>;
  #nextId = 0;
  /** What the host tells while it migrates. */
  onEvent: (event: MigrationEvent) => void = () => {};

  private constructor(name: string, socket: string, device: ChildProcess, host: ChildProcess) {
    this.name = name;
    this.socket = socket;
    this.#device = device;
    this.#host = host;
    this.#hostLost = this.#rejectOnExit(host, 'host');
    this.#lost = Promise.race([this.#rejectOnExit(device, 'device'), this.#hostLost]);
    this.#lost.catch(() => {});
    host.on('message', message => this.#receive(message as HostMessage));
  }

  /** Starts both processes; the device's socket lies in `directory`. @throws VfioError EIO when one ends at once */
  static async start(name: string, directory: string): Promise<DemoMachine> {
    const socket = join(directory, `${name}.sock`);
    const main = fileURLToPath(new URL('../main.js', import.meta.url));
    // The channel tells a child that its parent is gone, even when that was killed.
    const device = fork(main, ['device', 'dma-engine', '--socket', socket], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const host = fork(fileURLToPath(new URL('./host-process.js', import.meta.url)), [directory], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const machine = new DemoMachine(name, socket, device, host);
    try {
      await Promise.race([
        once(device, 'message', { signal: AbortSignal.timeout(READY_MS) }).catch(() => {
          throw new VfioError('ETIMEDOUT', { operation: 'demo', message: `the ${name} device does not get ready` });
        }),
        machine.#lost,
      ]);
    } catch (error) {
      await machine.end();
      throw error;
    }
    return machine;
  }

  /** Process ids of host and device. */
  get processes(): { host: number; device: number } {
    return { host: this.#host.pid!, device: this.#device.pid! };
  }

  /** Asks the host to do something. @throws VfioError as the host says; EIO when one of the processes ends meanwhile */
  call<Call extends HostCall>(
    call: Call,
    ...[parameters]: HostCalls[Call]['parameters'] extends undefined ? [] : [HostCalls[Call]['parameters']]
  ): Promise<HostCalls[Call]['result']> {
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#host.send({ id, call, parameters }, error => {
        if (error) reject(new VfioError('EPIPE', { operation: call, message: `the ${this.name} host is gone` }));
      });
    });
    // A host whose device is gone still answers a migration with its report; only its own end leaves the question open.
    return Promise.race([answer, this.#hostLost]) as Promise<HostCalls[Call]['result']>;
  }

  #receive(message: HostMessage): void {
    if (message.kind === 'event') {
      this.onEvent(message.event);
      return;
    }
    const waiting = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.kind === 'result') waiting?.resolve(message.result);
    else waiting?.reject(remoteError(this.name, message));
  }

  #rejectOnExit(child: ChildProcess, role: string): Promise<never> {
    return new Promise((_, reject) => {
      const fail = (how: string) =>
        reject(new VfioError('EIO', { operation: 'demo', message: `the ${this.name} ${role} process ${how}` }));
      const ended = () => fail(`ended (${child.signalCode ?? child.exitCode})`);
      if (hasEnded(child)) ended();
      child.once('exit', ended);
      child.once('error', error => fail(`cannot be started: ${error.message}`));
    });
  }

  /** Ends both processes, the host first, so that the device sees its client leave. Idempotent. */
  async end(): Promise<void> {
    await endProcess(this.#host, 'SIGTERM');
    await endProcess(this.#device, 'SIGTERM');
  }
}

/** Ended, or never begun. */
function hasEnded(child: ChildProcess): boolean {
  return child.pid === undefined || child.exitCode !== null || child.signalCode !== null;
}

async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (hasEnded(child)) return;
  const ended = once(child, 'exit');
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), 2000);
  await ended;
  clearTimeout(timer);
}

function remoteError(name: string, { errno, message }: { errno: string; message: string }): VfioError {
  const known = Object.hasOwn(ERRNO, errno) ? (errno as ErrnoName) : 'EIO';
  return new VfioError(known, { operation: `${name} host`, message });
}
