import { connect, listen, type OwnedFd, receive, send, type UnixListener } from '../src/native/index.js';
import { VfioError } from '../src/uapi/index.js';
import type { HostileFiles } from './hostile-files.js';
import type { HostileMessage } from './hostile-messages.js';

/** What is done to one message on its way from the server to the client. */
export type Meddling =
  | { readonly kind: 'pass' }
  | { readonly kind: 'change'; readonly change: (bytes: Uint8Array) => Uint8Array }
  | { readonly kind: 'drop' }
  | { readonly kind: 'twice' }
  | { readonly kind: 'before it'; readonly message: HostileMessage }
  | { readonly kind: 'instead'; readonly message: HostileMessage }
  | { readonly kind: 'half, then the end' };

/**
 * Stands between a client and a server that behaves, and meddles with what the server says: so each reply, of whatever command, begins as a
 * right one. What the client says goes through as it is.
 */
export class Meddler {
  readonly #path: string;
  readonly #listener: UnixListener;
  readonly #files: HostileFiles;
  readonly #meddlings: Iterator<Meddling>;
  readonly #buffer = new Uint8Array(65536);
  #client: OwnedFd | undefined;
  #server: OwnedFd | undefined;
  /** Bytes of the server that make no whole message yet, and what came with them. */
  #held: Uint8Array = new Uint8Array(0);
  #heldFds: OwnedFd[] = [];
  /** How many messages of the server it had in hand. */
  messages = 0;

  /** @param path where clients connect. @param target where the server is. @param meddlings one for each message; then all pass. */
  constructor(path: string, target: string, files: HostileFiles, meddlings: readonly Meddling[]) {
    this.#path = target;
    this.#listener = listen(path);
    this.#files = files;
    this.#meddlings = meddlings[Symbol.iterator]();
  }

  /** Moves what is there, in both directions. */
  move(): void {
    this.#accept();
    this.#toServer();
    this.#toClient();
  }

  /** Leaves both. */
  end(): void {
    this.#client?.close();
    this.#server?.close();
    for (const fd of this.#heldFds.splice(0)) fd.close();
  }

  close(): void {
    this.end();
    this.#listener.close();
  }

  #accept(): void {
    if (this.#client !== undefined) return;
    const socket = this.#listener.accept();
    if (socket === 'again') return;
    this.#client = socket;
    this.#server = connect(this.#path);
  }

  #toServer(): void {
    const received = this.#receive(this.#client);
    if (received === undefined) return;
    const bytes = this.#buffer.slice(0, received.bytes);
    this.#send(this.#server, bytes, received.fds);
  }

  #toClient(): void {
    const received = this.#receive(this.#server);
    if (received === undefined) return;
    const joined = new Uint8Array(this.#held.length + received.bytes);
    joined.set(this.#held);
    joined.set(this.#buffer.subarray(0, received.bytes), this.#held.length);
    this.#held = joined;
    this.#heldFds.push(...received.fds);
    for (let size = sizeOfFirst(this.#held); size !== undefined; size = sizeOfFirst(this.#held)) {
      const message = this.#held.slice(0, size);
      this.#held = this.#held.slice(size);
      this.messages++;
      this.#meddle(message, this.#heldFds.splice(0));
    }
  }

  #meddle(message: Uint8Array, fds: readonly OwnedFd[]): void {
    const meddling = this.#meddlings.next().value ?? { kind: 'pass' };
    switch (meddling.kind) {
      case 'pass':
        this.#send(this.#client, message, fds);
        return;
      case 'change':
        this.#send(this.#client, meddling.change(message), fds);
        return;
      case 'drop':
        for (const fd of fds) fd.close();
        return;
      case 'twice':
        this.#send(this.#client, message, []);
        this.#send(this.#client, message, fds);
        return;
      case 'before it':
        this.#sendHostile(meddling.message);
        this.#send(this.#client, message, fds);
        return;
      case 'instead':
        for (const fd of fds) fd.close();
        this.#sendHostile(meddling.message);
        return;
      case 'half, then the end':
        this.#send(this.#client, message.subarray(0, message.length >> 1), fds);
        this.end();
    }
  }

  #sendHostile({ bytes, files }: HostileMessage): void {
    this.#put(
      this.#client,
      bytes,
      files.map(kind => this.#files.fd(kind)),
    );
  }

  /** Sends, and closes the descriptors here. */
  #send(to: OwnedFd | undefined, bytes: Uint8Array, fds: readonly OwnedFd[]): void {
    this.#put(
      to,
      bytes,
      fds.map(owned => owned.fd),
    );
    for (const fd of fds) fd.close();
  }

  /** What one side does not take ends both: messages here are smaller than a socket. */
  #put(to: OwnedFd | undefined, bytes: Uint8Array, fds: readonly number[]): void {
    if (to === undefined || to.closed || bytes.length === 0) return;
    try {
      if (send(to.fd, bytes, fds) !== bytes.length) this.end();
    } catch (error) {
      if (!isGone(error)) throw error;
      this.end();
    }
  }

  #receive(from: OwnedFd | undefined): { bytes: number; fds: readonly OwnedFd[] } | undefined {
    if (from === undefined || from.closed) return undefined;
    const received = receive(from.fd, this.#buffer);
    if (received === 'again') return undefined;
    if (received !== 'closed') return received;
    this.end();
    return undefined;
  }
}

function sizeOfFirst(bytes: Uint8Array): number | undefined {
  if (bytes.length < 16) return undefined;
  const size = new DataView(bytes.buffer, bytes.byteOffset).getUint32(4, true);
  return size <= bytes.length ? size : undefined;
}

function isGone(error: unknown): boolean {
  return error instanceof VfioError && (error.errno === 'EPIPE' || error.errno === 'ECONNRESET');
}
