import { type ChildProcess, spawn } from 'node:child_process';
import type { DeviceHandle } from '../../device/index.js';
import { asVfioError, type IovaRange, VfioError } from '../../uapi/index.js';
import type { DmaStimulus, StimulusLimits } from '../stimulus.js';

/** What a {@link CommandLineStimulus} runs. */
export interface CommandLineOptions {
  /** A line for the shell that makes the device write. `{iova}` and `{length}` stand for address (`0x…`) and bytes (decimal). */
  command: string;
  /** The same, that makes it read. Default: it cannot. */
  readCommand?: string | undefined;
  /** Where the device can be made to write; default: wherever the suite wants it. */
  windows?: readonly IovaRange[] | undefined;
  /** What the command can do; default: single bytes, 1 MiB at once. */
  limits?: Partial<StimulusLimits> | undefined;
}

/** How much of what a command prints is kept to tell why it failed, bytes. */
const MOST_OUTPUT = 4096;

/**
 * A command of the user's that makes the device do one DMA, and ends when it is done: for hardware that has its own way of being told.
 *
 * The address and the size are also in its environment: DMALOG_ACCESS (`write` or `read`), DMALOG_IOVA, DMALOG_LENGTH, DMALOG_TARGET (the device).
 * A command that fails is an error of the stimulus, not of the device.
 *
 * @example
 * new CommandLineStimulus({ command: './poke --bus-address {iova} --bytes {length}', limits: { alignment: 64 } });
 */
export class CommandLineStimulus implements DmaStimulus {
  readonly name = 'command';
  readonly limits: StimulusLimits;
  readonly windows?: readonly IovaRange[];
  /** See {@link CommandLineOptions.readCommand}. */
  readonly read?: (iova: bigint, length: number, signal?: AbortSignal) => Promise<void>;
  readonly #options: CommandLineOptions;
  #target = '';
  #running: ChildProcess | undefined;

  constructor(options: CommandLineOptions) {
    const { readCommand, limits, windows } = options;
    this.#options = { ...options };
    this.limits = { alignment: limits?.alignment ?? 1, maxLength: limits?.maxLength ?? 2 ** 20 };
    if (windows !== undefined) this.windows = windows;
    if (readCommand !== undefined) {
      this.read = (iova, length, signal) => this.#run(readCommand, { access: 'read', iova, length, signal });
    }
  }

  async prepare(device: DeviceHandle, windows: readonly IovaRange[]): Promise<readonly IovaRange[]> {
    this.#target = device.target;
    return windows;
  }

  /** @throws VfioError EIO when the command fails, with the last line that it printed; ENOENT and the like when there is no shell */
  write(iova: bigint, length: number, signal?: AbortSignal): Promise<void> {
    return this.#run(this.#options.command, { access: 'write', iova, length, signal });
  }

  #run(command: string, { access, iova, length, signal }: Access): Promise<void> {
    const address = `0x${iova.toString(16)}`;
    const line = command.replaceAll('{iova}', address).replaceAll('{length}', `${length}`);
    const child = spawn(line, {
      shell: true,
      // A group of its own: whatever the line starts is ended with it, and a Ctrl-C is for the suite, which cleans up first.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        DMALOG_ACCESS: access,
        DMALOG_IOVA: address,
        DMALOG_LENGTH: `${length}`,
        DMALOG_TARGET: this.#target,
      },
    });
    this.#running = child;
    const end = () => endGroup(child);
    signal?.addEventListener('abort', end);
    let output = '';
    const keep = (text: string) => {
      output = (output + text).slice(-MOST_OUTPUT);
    };
    child.stdout.setEncoding('utf8').on('data', keep);
    child.stderr.setEncoding('utf8').on('data', keep);
    return new Promise((resolve, reject) => {
      child.on('error', error => reject(asVfioError(error, 'stimulus')));
      child.on('close', (code, endedBy) => {
        signal?.removeEventListener('abort', end);
        if (this.#running === child) this.#running = undefined;
        if (code === 0) resolve();
        else reject(failure(line, code === null ? `was ended by ${endedBy}` : `ended with ${code}`, output));
      });
    });
  }

  /** Ends a command that still runs, and all that it has started. */
  async close(): Promise<void> {
    if (this.#running !== undefined) endGroup(this.#running);
  }
}

/** One DMA that is to be made. */
interface Access {
  access: 'write' | 'read';
  iova: bigint;
  length: number;
  signal: AbortSignal | undefined;
}

/** By SIGKILL: a command that did not end in time has had its time, and would write when others look. */
function endGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

function failure(line: string, how: string, output: string): VfioError {
  const last = output.trim().split('\n').at(-1);
  return new VfioError('EIO', { operation: 'stimulus', message: `\`${line}\` ${how}${last ? `: ${last}` : ''}` });
}
