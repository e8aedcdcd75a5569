import { connect, type OwnedFd, receive, send, type UnixListener } from '../../src/native/index.js';
import { viewOf } from '../../src/uapi/index.js';

/** A message as it was received. */
export interface ReceivedMessage {
  id: number;
  command: number;
  flags: number;
  errno: number;
  payload: Uint8Array;
}

export const REPLY = 1;
export const ERROR_REPLY = 0x21;
export const NO_REPLY = 0x10;

/** A message in bytes, with anything in its header. */
export function message(
  command: number,
  payload: Uint8Array = new Uint8Array(0),
  header: { id?: number; flags?: number; size?: number; errno?: number } = {},
): Uint8Array {
  const bytes = new Uint8Array(16 + payload.length);
  const view = viewOf(bytes);
  view.setUint16(0, header.id ?? 7, true);
  view.setUint16(2, command, true);
  view.setUint32(4, header.size ?? bytes.length, true);
  view.setUint32(8, header.flags ?? 0, true);
  view.setUint32(12, header.errno ?? 0, true);
  bytes.set(payload, 16);
  return bytes;
}

/** A payload of 32-bit words; a bigint makes two. */
export function words(...values: readonly (number | bigint)[]): Uint8Array {
  const list = values.flatMap(value =>
    typeof value === 'number' ? [value] : [Number(value & 0xffff_ffffn), Number(value >> 32n)],
  );
  const bytes = new Uint8Array(4 * list.length);
  for (const [index, word] of list.entries()) viewOf(bytes).setUint32(4 * index, word, true);
  return bytes;
}

/** VERSION's payload, with any text where JSON should be. */
export function versionPayload(json?: string, major = 0, minor = 1): Uint8Array {
  const text = json === undefined ? new Uint8Array(0) : new TextEncoder().encode(`${json}\0`);
  const bytes = new Uint8Array(4 + text.length);
  viewOf(bytes).setUint16(0, major, true);
  viewOf(bytes).setUint16(2, minor, true);
  bytes.set(text, 4);
  return bytes;
}

/** What QEMU 11.1 proposes. */
export const QEMU_PROPOSAL =
  '{"capabilities": {"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true, ' +
  '"max_msg_fds": 16, "max_data_xfer_size": 1048576, "max_dma_maps": 65535, "pgsizes": 4096}}';

/** Lets the event loop go round once, its poll phase included. */
export async function turn(): Promise<void> {
  await new Promise(resolve => setImmediate(resolve));
}

/** Lets the event loop go round until `done`. */
export async function until(done: () => boolean, what = 'it'): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!done()) {
    if (performance.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await turn();
  }
}

/** One end of a connection, byte by byte: it knows nothing of the protocol but where a message ends. */
export class Peer {
  readonly #socket: OwnedFd;
  readonly #buffer = new Uint8Array(65536);
  #bytes = new Uint8Array(0);
  #ended = false;
  /** Whether descriptors that come are kept in {@link Peer.fds}, and closed with the peer, instead of at once. */
  keepFds = false;
  /** What came, in order. */
  readonly fds: OwnedFd[] = [];

  constructor(socket: OwnedFd) {
    this.#socket = socket;
  }

  /** Connects to a server. */
  static connect(path: string): Peer {
    return new Peer(connect(path));
  }

  /** The next client that connects. */
  static async accept(listener: UnixListener): Promise<Peer> {
    let socket: OwnedFd | 'again' = 'again';
    await until(() => {
      socket = listener.accept();
      return socket !== 'again';
    }, 'a client connects');
    return new Peer(socket as unknown as OwnedFd);
  }

  /** Sends bytes in one piece, or in as many as the socket wants. */
  async send(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    let withFds = fds;
    let rest = bytes;
    await until(() => {
      const count = send(this.#socket.fd, rest, withFds);
      if (count === 'again') return false;
      withFds = [];
      rest = rest.subarray(count);
      return rest.length === 0;
    }, 'the peer takes what is sent');
  }

  /** Sends what fits at once; false when nothing does. */
  trySend(bytes: Uint8Array): boolean {
    return send(this.#socket.fd, bytes) !== 'again';
  }

  /** Sends bytes in two pieces, and lets the other end read between them. Descriptors go with the first. */
  async sendSplit(bytes: Uint8Array, at: number, fds: readonly number[] = []): Promise<void> {
    const cut = Math.max(1, Math.min(at, bytes.length));
    await this.send(bytes.subarray(0, cut), fds);
    await turn();
    if (cut < bytes.length) await this.send(bytes.subarray(cut));
  }

  /** The next message, or `'closed'` when the other end is gone. */
  async next(): Promise<ReceivedMessage | 'closed'> {
    await until(() => this.#whole() || this.#receive() === 'closed', 'a message comes');
    if (!this.#whole()) return 'closed';
    const view = viewOf(this.#bytes);
    const size = view.getUint32(4, true);
    const result = {
      id: view.getUint16(0, true),
      command: view.getUint16(2, true),
      flags: view.getUint32(8, true),
      errno: view.getUint32(12, true),
      payload: this.#bytes.slice(16, size),
    };
    this.#bytes = this.#bytes.slice(size);
    return result;
  }

  /** The next message; it must be one. */
  async reply(): Promise<ReceivedMessage> {
    const received = await this.next();
    if (received === 'closed') throw new Error('the other end is gone');
    return received;
  }

  /** Sends a command and gives its reply. */
  async request(command: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<ReceivedMessage> {
    await this.send(message(command, payload), fds);
    return this.reply();
  }

  /** The errno of a command; 0 when it succeeds. */
  async errno(command: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<number> {
    const reply = await this.request(command, payload, fds);
    return reply.flags === ERROR_REPLY ? reply.errno : 0;
  }

  /** Agrees on a version. */
  async greet(json?: string): Promise<ReceivedMessage> {
    return this.request(1, versionPayload(json));
  }

  /** Whether the other end has closed and nothing is left to read. */
  async closed(): Promise<boolean> {
    return (await this.next()) === 'closed';
  }

  close(): void {
    for (const fd of this.fds.splice(0)) fd.close();
    this.#socket.close();
  }

  #whole(): boolean {
    return this.#bytes.length >= 16 && this.#bytes.length >= viewOf(this.#bytes).getUint32(4, true);
  }

  #receive(): 'closed' | undefined {
    if (this.#ended) return 'closed';
    const received = receive(this.#socket.fd, this.#buffer);
    if (received === 'again') return undefined;
    if (received === 'closed') {
      this.#ended = true;
      return 'closed';
    }
    if (this.keepFds) this.fds.push(...received.fds);
    else for (const fd of received.fds) fd.close();
    const joined = new Uint8Array(this.#bytes.length + received.bytes);
    joined.set(this.#bytes);
    joined.set(this.#buffer.subarray(0, received.bytes), this.#bytes.length);
    this.#bytes = joined;
    return undefined;
  }
}
