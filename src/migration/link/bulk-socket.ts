import { Socket, type SocketConstructorOpts } from 'node:net';
import { Duplex } from 'node:stream';
import type { OwnedFd } from '../../native/index.js';

/** What somebody may send before it is known who that is. */
const FIRST_SIZE = 4096;
/** Bytes read at a time. */
const BULK_SIZE = 1 << 20;

/**
 * A connection that is read into one buffer again and again, a large piece at a time. Node's own streams make a buffer of 64 KiB for each piece:
 * 0.7 ns of CPU time a byte against 0.25 here, and tens of MiB that wait for the garbage collector.
 *
 * A piece is valid until the listener that gets it returns; a listener that keeps it calls {@link BulkSocket.pause} first, and the piece is then
 * valid until {@link BulkSocket.resume}.
 */
export class BulkSocket extends Duplex {
  readonly #socket: Socket;
  #buffer = new Uint8Array(FIRST_SIZE);
  #place: () => Uint8Array | undefined = () => undefined;

  /** @param connection owned by this object from now on */
  constructor(connection: OwnedFd) {
    super({ allowHalfOpen: false });
    const onread = {
      buffer: () => this.#place() ?? this.#buffer,
      callback: (size: number, buffer: Uint8Array) => this.#take(buffer.subarray(0, size)),
    };
    const options: SocketConstructorOpts & { onread: object } = {
      fd: connection.release(),
      readable: true,
      writable: true,
      onread,
    };
    this.#socket = new Socket(options);
    this.#socket.setNoDelay(true);
    this.#socket.on('end', () => this.push(null));
    this.#socket.on('error', error => this.destroy(error));
    this.#socket.on('close', () => this.destroy());
  }

  get localAddress(): string | undefined {
    return this.#socket.localAddress;
  }

  get remoteAddress(): string | undefined {
    return this.#socket.remoteAddress;
  }

  /**
   * Whoever sends is known, and will send much.
   * @param place where the next bytes are wanted; where it gives none, they come in a buffer of this object's
   */
  readInBulk(place: () => Uint8Array | undefined): void {
    this.#buffer = new Uint8Array(BULK_SIZE);
    this.#place = place;
  }

  #take(piece: Uint8Array): boolean {
    const goesOnAtOnce = this.readableFlowing === true && this.readableLength === 0;
    this.push(goesOnAtOnce ? piece : piece.slice());
    return !this.isPaused();
  }

  /** Nothing is read from the connection any more when this returns. */
  override pause(): this {
    this.#socket.pause();
    return super.pause();
  }

  override resume(): this {
    super.resume();
    this.#socket.resume();
    return this;
  }

  override _read(): void {}

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}
