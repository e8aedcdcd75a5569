import type { Socket } from 'node:net';
import { createInterface, type Interface } from 'node:readline';

interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

interface QmpLine {
  QMP?: unknown;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
}

/**
 * QEMU's machine protocol (docs/interop/qmp-spec.rst): a line of JSON for each command and each reply, in order.
 */
export class Qmp {
  readonly #socket: Socket;
  readonly #lines: Interface;
  readonly #pending: Pending[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#lines = createInterface({ input: socket });
    this.#lines.on('line', line => this.#take(JSON.parse(line) as QmpLine));
    // readline passes on the socket's errors; what matters of them is that the socket closes.
    this.#lines.on('error', () => {});
    socket.on('close', () => {
      for (const { reject } of this.#pending.splice(0)) reject(new Error('QEMU has closed its QMP socket'));
    });
  }

  /** Takes over a connection that QEMU has just made. */
  static async greet(socket: Socket): Promise<Qmp> {
    const qmp = new Qmp(socket);
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  /**
   * Runs a command.
   * @returns what the command's documentation says; most give `{}`
   */
  execute<T = unknown>(command: string, args: Record<string, unknown> = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#pending.push({ resolve: value => resolve(value as T), reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    });
  }

  /** Events and the greeting ask for no answer. */
  #take({ return: value, error }: QmpLine): void {
    if (error !== undefined) this.#pending.shift()?.reject(new Error(`QMP: ${error.class}: ${error.desc}`));
    else if (value !== undefined) this.#pending.shift()?.resolve(value);
  }

  close(): void {
    this.#lines.close();
    this.#socket.destroy();
  }
}
