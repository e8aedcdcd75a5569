import type { Device } from '../device/index.js';
import { listen, type OwnedFd, type UnixListener, type Watch, watch } from '../native/index.js';
import type { VfioError } from '../uapi/index.js';
import { completeLimits, type VfioUserLimits } from './limits.js';
import { ServerSession } from './server-session.js';

/** Where and how a {@link VfioUserServer} serves. */
export interface ServerOptions extends Partial<VfioUserLimits> {
  /** Path of the UNIX socket, at most 107 bytes. A socket file that nobody listens on any more is replaced. */
  path: string;
  /** How long a client may be connected without a VERSION before it is sent away, milliseconds; default 5000. */
  versionTimeoutMs?: number;
  /** A client has connected and agreed on a version. */
  onConnect?: () => void;
  /** A client is gone and everything of it is let go; `reason` when it did not leave by closing. */
  onDisconnect?: (reason: VfioError | undefined) => void;
  /**
   * Something failed that no reply tells in full: a device's handler threw what is no VfioError (the client gets EIO), a connection could
   * not be accepted. Default: a process warning.
   */
  onError?: (error: unknown) => void;
}

/** How long the listening socket rests after a connection could not be accepted, milliseconds: it stays readable all the while. */
const ACCEPT_PAUSE_MS = 100;

/**
 * Serves one device on a UNIX socket, to one client at a time.
 *
 * Others may connect meanwhile; they wait, unserved, until the client before them has left, or give up by themselves. A client that leaves,
 * however it leaves, takes its memory and interrupts along; registers, log and migration state stay for the next one, so that a VMM that was
 * restarted finds its device as it was.
 *
 * That also means that a device which works by itself goes on with what the last client told it, in whatever memory the next one maps. Where
 * clients do not know each other, reset the device in `onDisconnect`; a client that does not know the device resets it first.
 */
export class VfioUserServer {
  readonly #device: Device;
  readonly #options: ServerOptions;
  readonly #limits: VfioUserLimits;
  readonly #listener: UnixListener;
  readonly #watch: Watch;
  #session: ServerSession | undefined;
  #acceptTimer: NodeJS.Timeout | undefined;
  #closed = false;
  #whenIdle: (() => void)[] = [];

  private constructor(device: Device, options: ServerOptions, limits: VfioUserLimits, listener: UnixListener) {
    this.#device = device;
    this.#options = options;
    this.#limits = limits;
    this.#listener = listener;
    this.#watch = watch(
      listener.fd,
      { readable: true },
      () => this.#accept(),
      error => this.#rest(error),
    );
  }

  /**
   * Listens on `options.path`; the socket file has mode 0600. The process lives for as long as the server is open.
   * @throws VfioError EINVAL for a limit or a path; EADDRINUSE when somebody serves there; EEXIST when something other than a socket is
   *   there; ENOENT, EACCES as bind(2).
   */
  static async listen(device: Device, options: ServerOptions): Promise<VfioUserServer> {
    const limits = completeLimits(options, 'VfioUserServer');
    const maxDmaMaps = Math.min(limits.maxDmaMaps, device.dma.map.maxRegions);
    const listener = listen(options.path);
    try {
      return new VfioUserServer(device, { ...options }, { ...limits, maxDmaMaps }, listener);
    } catch (error) {
      listener.close();
      throw error;
    }
  }

  /** Path of the socket. */
  get path(): string {
    return this.#options.path;
  }

  /** Whether a client is there that a version was agreed with. */
  get connected(): boolean {
    return this.#session?.established ?? false;
  }

  /**
   * Stops listening, removes the socket file, and ends the connection: what the client has asked for and was not begun is dropped. Done when
   * the request under way is done and `device.disconnect()` was called. Idempotent.
   */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#acceptTimer);
    this.#watch.close();
    this.#listener.close();
    this.#session?.close();
    if (this.#session !== undefined) await new Promise<void>(resolve => this.#whenIdle.push(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #accept(): void {
    const socket = this.#listener.accept();
    if (socket === 'again') return;
    this.#watch.update({});
    this.#serve(socket);
  }

  #serve(socket: OwnedFd): void {
    let wasEstablished = false;
    this.#session = new ServerSession(
      this.#device,
      socket,
      { limits: this.#limits, versionTimeoutMs: this.#options.versionTimeoutMs ?? 5000 },
      {
        connected: () => {
          wasEstablished = true;
          this.#options.onConnect?.();
        },
        error: error => this.#report(error),
        finished: reason => this.#next(wasEstablished, reason),
      },
    );
  }

  #next(wasEstablished: boolean, reason: VfioError | undefined): void {
    this.#session = undefined;
    if (!this.#closed) this.#watch.update({ readable: true });
    for (const resolve of this.#whenIdle.splice(0)) resolve();
    if (!wasEstablished) return;
    try {
      this.#options.onDisconnect?.(reason);
    } catch (error) {
      this.#report(error);
    }
  }

  /** A connection that cannot be accepted now is accepted later. */
  #rest(error: unknown): void {
    this.#watch.update({});
    this.#acceptTimer = setTimeout(() => this.#watch.update({ readable: true }), ACCEPT_PAUSE_MS);
    this.#report(error);
  }

  #report(error: unknown): void {
    const { onError = warn } = this.#options;
    try {
      onError(error);
    } catch (second) {
      warn(second);
    }
  }
}

function warn(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : String(error));
}
