import { type Device, Turns } from '../../device/index.js';
import type { DmaRegionSpec } from '../../memory/index.js';
import {
  type AddressOptions,
  listen,
  type OwnedFd,
  type UnixListener,
  type Watch,
  warn,
  watch,
} from '../../native/index.js';
import type { VfioError } from '../../uapi/index.js';
import type { DeviceStatistics } from '../wire/extension-messages.js';
import { completeLimits, type VfioUserLimits } from '../wire/limits.js';
import { Admission } from './admission.js';
import type { SessionOptions } from './establish.js';
import { statisticsOf } from './extensions.js';
import { type ClientRole, ServerSession } from './session.js';

/** Where and how a {@link VfioUserServer} serves. */
export interface ServerOptions extends Partial<VfioUserLimits>, AddressOptions {
  /**
   * Path of the UNIX socket, at most 107 bytes. A socket file that nobody listens on any more is replaced. With `abstract: true` a path
   * that begins with `@` is an abstract name.
   */
  path: string;
  /** How long a client may be connected without a VERSION before it is sent away, milliseconds; default 5000. */
  versionTimeoutMs?: number;
  /** How long a DMA that only the client can do may take, milliseconds; default 30,000. Then that DMA fails with ETIMEDOUT. */
  dmaTimeoutMs?: number;
  /**
   * Whether the device reaches a region by messages although its file came along: to try a client that serves DMA by message, or one that
   * counts the pages itself. Default: no region.
   */
  reachByMessage?: (region: DmaRegionSpec) => boolean;
  /**
   * Who else lives in the device's thread.
   *
   * `'shared'` (default): anybody. The session takes what has come, and leaves the thread to the event loop.
   *
   * `'dedicated'`: nobody, as in a worker or a process for this one device. After a request the session waits for the next one in the
   * kernel, up to 4 ms, which saves a trip through the event loop for each request; timers and promises of the device get their turn at least
   * every 15 ms, and at once while a request, a DMA or the device itself (`Device.busy`) is at work.
   */
  loop?: 'shared' | 'dedicated';
  /** A client has connected and agreed on a version. */
  onConnect?: (role: ClientRole) => void;
  /** A client is gone and everything of it is let go; `reason` when it did not leave by closing. */
  onDisconnect?: (reason: VfioError | undefined, role: ClientRole) => void;
  /**
   * Something failed that no reply tells in full: a device's handler threw what is no VfioError (the client gets EIO), a connection could
   * not be accepted. Default: a process warning.
   */
  onError?: (error: unknown) => void;
}

/** How long the listening socket rests after a connection could not be accepted, milliseconds: it stays readable all the while. */
const ACCEPT_PAUSE_MS = 100;

/**
 * Serves one device on a UNIX socket: to one VMM at a time, and to trackers and dashboards beside it.
 *
 * A client that names the role `tracker` in its VERSION (capability `dmalog`) is served at once, whether a VMM is there or not: it may start,
 * stop and report the log, move the migration state and its data, attach bitmaps and read statistics, and nothing else. Any other client is a
 * VMM. The next VMM waits, without an answer to its VERSION, until the one before it has left, or gives up by itself.
 *
 * A VMM that leaves, however it leaves, takes its memory and interrupts along; registers, log and migration state stay for the next one, so
 * that a VMM that was restarted finds its device as it was. A tracker that leaves takes its bitmaps along. Logging that either has started
 * goes on: the dirty pages are the guest's, not the client's, and whoever comes next can report or stop it.
 *
 * That also means that a device which works by itself goes on with what the last client told it, in whatever memory the next one maps. Where
 * clients do not know each other, reset the device in `onDisconnect`; a client that does not know the device resets it first.
 */
export class VfioUserServer {
  readonly #device: Device;
  readonly #options: ServerOptions;
  readonly #sessionOptions: SessionOptions;
  readonly #listener: UnixListener;
  readonly #watch: Watch;
  readonly #admission = new Admission();
  #acceptTimer: NodeJS.Timeout | undefined;
  #closed = false;
  #whenEmpty: (() => void)[] = [];

  private constructor(device: Device, options: ServerOptions, limits: VfioUserLimits, listener: UnixListener) {
    this.#device = device;
    this.#options = options;
    this.#sessionOptions = {
      limits,
      versionTimeoutMs: options.versionTimeoutMs ?? 5000,
      dmaTimeoutMs: options.dmaTimeoutMs ?? 30_000,
      reachByMessage: options.reachByMessage ?? (() => false),
      loop: options.loop ?? 'shared',
      turns: new Turns(),
      connections: () => this.#admission.served,
    };
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
    const listener = listen(options.path, { abstract: options.abstract ?? false });
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

  /** Whether a VMM is there that a version was agreed with. */
  get connected(): boolean {
    return this.#admission.vmm?.role !== undefined;
  }

  /** What the device's memory map, log and DMA have counted, and how many clients are served: as STATISTICS tells clients. */
  get statistics(): DeviceStatistics {
    return statisticsOf(this.#device, this.#admission.served);
  }

  /**
   * Stops listening, removes the socket file, and ends all connections: what clients have asked for and was not begun is dropped. Done when
   * the requests under way are done and `device.disconnect()` was called. Idempotent.
   */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#acceptTimer);
    this.#watch.close();
    this.#listener.close();
    for (const session of [...this.#admission.sessions]) session.close();
    if (this.#admission.sessions.size > 0) await new Promise<void>(resolve => this.#whenEmpty.push(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #accept(): void {
    const socket = this.#listener.accept();
    if (socket !== 'again') this.#serve(socket);
  }

  #serve(socket: OwnedFd): void {
    const session: ServerSession = new ServerSession(this.#device, socket, this.#sessionOptions, {
      admit: role => this.#admission.admit(session, role),
      connected: role => {
        this.#acceptOrNot();
        this.#options.onConnect?.(role);
      },
      error: error => this.#report(error),
      left: () => this.#admission.withdraw(session),
      finished: reason => this.#finish(session, reason),
      mayWait: () => this.#mayWait(),
    });
    this.#admission.enter(session);
    this.#acceptOrNot();
  }

  /** In the order of their cost: this is asked after every request. */
  #mayWait(): boolean {
    return this.#admission.sessions.size === 1 && !this.#device.dma.busy && this.#device.busy !== true;
  }

  #finish(session: ServerSession, reason: VfioError | undefined): void {
    const role = session.role;
    this.#admission.leave(session);
    this.#acceptOrNot();
    if (this.#admission.sessions.size === 0) for (const resolve of this.#whenEmpty.splice(0)) resolve();
    if (role === undefined) return;
    try {
      this.#options.onDisconnect?.(reason, role);
    } catch (error) {
      this.#report(error);
    }
  }

  #acceptOrNot(): void {
    if (!this.#closed) this.#watch.update({ readable: this.#admission.hasRoom });
  }

  /** A connection that cannot be accepted now is accepted later. */
  #rest(error: unknown): void {
    this.#watch.update({});
    clearTimeout(this.#acceptTimer);
    this.#acceptTimer = setTimeout(() => this.#acceptOrNot(), ACCEPT_PAUSE_MS);
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
