import type { Socket } from 'node:net';
import { StringDecoder } from 'node:string_decoder';

const MARK = '\x1e';
/** What the guest's terminal takes in one line, with room to spare. */
const LONGEST_LINE = 4000;

/**
 * Runs scripts in a guest, over its second serial port (`guest-init` says how). What the guest has printed ends with a mark and an exit status.
 */
export class GuestShell {
  readonly #socket: Socket;
  readonly #decoder = new StringDecoder();
  #text = '';
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('close', () => this.#wake());
    socket.on('data', bytes => {
      this.#text += this.#decoder.write(bytes);
      this.#wake();
    });
  }

  /** Done when the guest takes scripts. */
  async ready(): Promise<void> {
    await this.#result();
  }

  /**
   * Runs a shell script, and waits until it is done. One at a time.
   * @returns what it printed
   * @throws Error when it exits with another status than 0, with what it printed, or when the guest is gone
   */
  async run(script: string): Promise<string> {
    const line = Buffer.from(script).toString('base64');
    if (line.length > LONGEST_LINE) throw new Error('the script is too long for the serial line');
    this.#socket.write(`${line}\n`);
    const { text, status } = await this.#result();
    if (status !== '0') throw new Error(`the guest's script ended with ${status}:\n${script}\n${text}`);
    return text;
  }

  async #result(): Promise<{ text: string; status: string }> {
    for (;;) {
      const result = new RegExp(`^([\\s\\S]*?)${MARK}(\\d+)\n`).exec(this.#text);
      if (result !== null) {
        this.#text = this.#text.slice(result[0].length);
        return { text: result[1]!, status: result[2]! };
      }
      if (this.#socket.destroyed) throw new Error(`the guest is gone; it had printed:\n${this.#text}`);
      await new Promise<void>(resolve => {
        this.#wake = resolve;
      });
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}
