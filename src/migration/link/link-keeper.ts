import { timingSafeEqual } from 'node:crypto';
import { performance } from 'node:perf_hooks';
import type { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { backOff } from '../ownership/pause.js';
import { encodeControlFrame, FrameType } from '../stream/stream-format.js';
import { unexpected } from '../stream/unexpected.js';
import { readFirstFrame } from './first-frame.js';
import { FrameLink } from './frame-link.js';
import { Losses } from './losses.js';
import { decodeResume, encodeResume, type Resume } from './resume.js';

/** Makes a connection to the other end. @throws why there is none; also, soon, when the signal says that it is not wanted any more */
export type Dial = (signal: AbortSignal) => Promise<Duplex>;

/** What people may want to know of a channel's connections. */
export type LinkEvent =
  /** A connection was lost, or dropped here because what came was broken. */
  | { event: 'link-lost'; channel: number; error: VfioError }
  /** The next one goes on. `reason`: why the other end had dropped the last one, if it had. */
  | { event: 'link-resumed'; channel: number; afterMs: number; reason: string | undefined };

/** Where an end of a channel is. */
export type Place = Pick<Resume, 'next' | 'applied'>;

/** Who uses the connections. */
export interface LinkUser {
  /** @throws VfioError EBADMSG for damaged bytes, which the next connection brings again; anything else for what cannot be healed */
  onPiece(piece: Uint8Array): void;
  /** Where this end is. */
  place(): Place;
  /** Grows with each frame that has come whole, and with each that the other end has applied. */
  progress(): number;
  /** The frames that the other end has not got, for the connection that comes. @throws VfioError EPROTO for a place that cannot be */
  framesBehind(theirs: Place): Uint8Array[];
  /** A connection is gone, and another may follow: what it left unfinished comes again. */
  onUnlinked(): void;
  /** A connection begins. The other end knows what {@link LinkUser.place} said last. */
  onLinked(): void;
  /** All that was written has left: there is room for more. */
  onDrained(): void;
  /** Whether this end waits for words of the other, and takes none in. */
  isStuck(): boolean;
  /** The other end has given up. */
  onAbort(payload: Uint8Array): void;
  /** There will be no other connection. */
  onFailed(error: VfioError): void;
}

/** What a {@link LinkKeeper} is made of. */
export interface LinkKeeperOptions {
  /** The channel's number in its session. */
  channel: number;
  timeoutMs: number;
  /** At the end that connects. */
  dial?: Dial | undefined;
  onLinkEvent?: ((event: LinkEvent) => void) | undefined;
}

/** So many connections in a row that end without an answer to the first frame are no accident. */
const MOST_UNANSWERED = 3;
/**
 * Refusals alone are borne for so little of the patience that a lost link is: whoever refuses is there, and the other end listens as long as it
 * lives. Longer than an instant, as a forwarder on the way refuses too while it starts anew.
 */
const PATIENCE_WHEN_REFUSED = 1 / 10;
/** A peer that lives gives a sign four times as often. */
const MOST_SILENCE_MS = 1000;

/**
 * Keeps a channel connected: notices that its connection is lost, makes the next one or waits for it, and lets both ends say where they are.
 * One connection is in use at a time; of the ones before it nothing is heard.
 */
export class LinkKeeper {
  /** How long to wait for another connection after one is lost, milliseconds. */
  patienceMs: number;
  /** The secret that names the session. Without it the end that listens cannot know who comes again. */
  token: Uint8Array | undefined;
  readonly #options: LinkKeeperOptions;
  readonly #user: LinkUser;
  #link: FrameLink | undefined;
  #connection = -1;
  /** No other connection shall follow. */
  #isLast = false;
  #isOver = false;
  #redialing: AbortController | undefined;
  #lost: { at: number; error: VfioError } | undefined;
  /** Why the last connection that was tried came to nothing. */
  #dialError: VfioError | undefined;
  readonly #losses = new Losses();
  #dropReason = '';
  #linkedAt = 0;
  #heardAt = 0;
  #tickedAt = 0;
  #tickMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #whenLinked: (() => void)[] = [];

  constructor(options: LinkKeeperOptions, user: LinkUser) {
    this.#options = options;
    this.#user = user;
    this.patienceMs = options.timeoutMs;
    this.giveSigns(options.timeoutMs);
  }

  /** The connection in use. */
  get link(): FrameLink | undefined {
    return this.#link;
  }

  /** Gives signs of life often enough for a peer that waits this long, milliseconds. */
  giveSigns(peerTimeoutMs: number): void {
    if (this.#isOver) return;
    clearInterval(this.#timer);
    const waits = Math.min(peerTimeoutMs / 3, this.#options.timeoutMs / 3, MOST_SILENCE_MS);
    this.#tickMs = Math.max(5, waits / 4);
    this.#tickedAt = performance.now();
    this.#timer = setInterval(() => this.#tick(), this.#tickMs);
  }

  /** Makes the first connection. @throws as the dialling does: there was none yet that could be lost */
  async connect(): Promise<void> {
    this.#redialing = new AbortController();
    const socket = await this.#options.dial!(this.#redialing.signal);
    if (this.#isOver) socket.destroy();
    else this.begin(socket);
  }

  /** Uses a first connection. */
  begin(socket: Duplex): void {
    this.#connection++;
    this.#use(socket, this.#user.framesBehind({ next: 0, applied: 0 }));
  }

  /**
   * Uses a connection by which the other end has come again.
   * @throws VfioError ESTALE for one that is older than the one in use, EPROTO for a place that cannot be, or why there shall be no other
   *   connection: nothing has happened then
   */
  attach(socket: Duplex, theirs: Resume): void {
    if (this.#connection < 0) throw stale('the channel has had no connection yet');
    if (this.#isOver || this.#isLast) throw stale('the channel takes no other connection any more');
    if (theirs.connection <= this.#connection) throw stale(`connection ${theirs.connection} came already`);
    const frames = this.#user.framesBehind(theirs);
    if (this.#link !== undefined) {
      const error = new VfioError('ECONNRESET', { operation: 'migration stream', message: 'the other end came again' });
      this.#letGo();
      this.#noteLoss(error);
    }
    this.#connection = theirs.connection;
    this.#goOn(socket, theirs, [this.#resumeFrame(), ...frames]);
  }

  /** Nothing that comes after this connection is the same channel. Without one it ends at once. */
  keepThisOnly(): void {
    this.#isLast = true;
    if (this.#link === undefined && this.#lost !== undefined) this.fail(this.#lost.error);
  }

  /** Done when there is a connection. The caller looks whether the channel has ended instead. */
  linked(): Promise<void> {
    if (this.#link !== undefined || this.#isOver) return Promise.resolve();
    return new Promise(resolve => this.#whenLinked.push(resolve));
  }

  /** Done when a connection that was lost is replaced, or does not come within so many milliseconds; at once when there is nothing to wait for. */
  async linkedWithin(milliseconds: number): Promise<void> {
    if (this.#lost === undefined || this.#isOver) return;
    const linked = new AbortController();
    await Promise.race([this.linked(), delay(milliseconds, undefined, { signal: linked.signal }).catch(() => {})]);
    linked.abort();
  }

  /** This end takes nothing more from the connection. Another may follow. */
  drop(error: VfioError): void {
    this.#dropReason = error.message;
    this.#lose(error);
  }

  /** There will be no other connection; the one in use stays for a last word. */
  fail(error: VfioError): void {
    if (this.#isOver) return;
    this.stop();
    this.#user.onFailed(error);
  }

  /** Watches and dials no more. */
  stop(): void {
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#redialing?.abort();
    for (const resolve of this.#whenLinked.splice(0)) resolve();
  }

  /** Says that nothing more comes, and waits for the other end to close too; a second at most. */
  async end(): Promise<void> {
    this.stop();
    await this.#link?.end();
  }

  /** Closes at once. Idempotent. */
  destroy(): void {
    this.stop();
    this.#link?.destroy();
  }

  /** This end reads again after a while in which it did not: silence until now says nothing. */
  resumeReading(): void {
    if (this.#link?.isPaused !== true) return;
    this.#heardAt = performance.now();
    this.#link.resume();
  }

  #use(socket: Duplex, frames: readonly Uint8Array[]): void {
    this.#linkedAt = performance.now();
    this.#heardAt = this.#linkedAt;
    const link = new FrameLink(socket, {
      onPiece: piece => this.#hear(piece),
      onDrained: () => this.#user.onDrained(),
      onLost: error => this.#lose(error),
    });
    this.#link = link;
    this.#user.onLinked();
    for (const frame of frames) link.write(frame);
    for (const resolve of this.#whenLinked.splice(0)) resolve();
  }

  #hear(piece: Uint8Array): void {
    if (this.#isOver) return;
    this.#heardAt = performance.now();
    this.healing(() => this.#user.onPiece(piece));
  }

  /** Does what may find that the connection, or the other end, is broken. */
  healing(work: () => void): void {
    try {
      work();
    } catch (cause) {
      const error = asVfioError(cause, 'migration stream');
      if (error.errno === 'EBADMSG') this.drop(error);
      else this.fail(error);
    }
  }

  #lose(error: VfioError): void {
    if (this.#isOver) return;
    const enough = this.#countLoss(error);
    if (this.#isLast || !this.#canResume) this.fail(error);
    else if (enough !== undefined) this.fail(enough);
    else this.#replace(error);
  }

  #replace(error: VfioError): void {
    this.#letGo();
    this.#noteLoss(error);
    if (this.#options.dial !== undefined) void this.#redial(this.#options.dial);
  }

  #letGo(): void {
    this.#link?.destroy();
    this.#link = undefined;
    this.#user.onUnlinked();
  }

  get #canResume(): boolean {
    return this.#options.dial !== undefined || this.token !== undefined;
  }

  #countLoss(error: VfioError): VfioError | undefined {
    const heardForMs = this.#heardAt - this.#linkedAt;
    const lost = { at: performance.now(), error, heardForMs, progress: this.#user.progress() };
    // Whoever has not said a word yet may be no destination at all.
    const mostLosses = this.token === undefined ? MOST_UNANSWERED : Number.POSITIVE_INFINITY;
    return this.#losses.add(lost, { patienceMs: this.patienceMs, silenceMs: this.#silenceMs, mostLosses });
  }

  #noteLoss(error: VfioError): void {
    this.#lost ??= { at: performance.now(), error };
    this.#tell({ event: 'link-lost', channel: this.#options.channel, error });
  }

  async #redial(dial: Dial): Promise<void> {
    const redialing = new AbortController();
    this.#redialing = redialing;
    let refusedSince: number | undefined;
    for (let attempt = this.#losses.count - 1; !redialing.signal.aborted; attempt++) {
      if (attempt > 0) await backOff(attempt - 1, redialing.signal);
      try {
        const tooLong = AbortSignal.timeout(Math.max(MOST_SILENCE_MS, this.#silenceMs));
        const socket = await dial(AbortSignal.any([redialing.signal, tooLong]));
        if (await this.#resume(socket, redialing.signal)) return;
      } catch (error) {
        this.#dialError = asVfioError(error, 'connect');
        refusedSince = this.#dialError.errno === 'ECONNREFUSED' ? (refusedSince ?? performance.now()) : undefined;
        if (refusedSince !== undefined) this.#checkRefusals(refusedSince, this.#dialError);
      }
    }
  }

  #checkRefusals(since: number, cause: VfioError): void {
    if (performance.now() - since < this.patienceMs * PATIENCE_WHEN_REFUSED) return;
    const message = `nobody listens there any more: ${this.#lost?.error.message}; then ${cause.message}`;
    this.fail(new VfioError('ECONNREFUSED', { operation: 'migration stream', message, cause }));
  }

  /** Whether the connection is in use now, or none shall be any more. */
  async #resume(socket: Duplex, signal: AbortSignal): Promise<boolean> {
    const leave = () => socket.destroy();
    signal.addEventListener('abort', leave, { once: true });
    if (signal.aborted) leave();
    try {
      this.#connection++;
      const theirs = await this.#greet(socket);
      if (this.#isOver) throw stale('the channel has ended');
      if (theirs === undefined) return true;
      this.#goOn(socket, theirs, this.#user.framesBehind(theirs));
      return true;
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  /** Where the other end is; `undefined` when it has given up. */
  async #greet(socket: Duplex): Promise<Pick<Resume, 'next' | 'applied' | 'reason'> | undefined> {
    // It has not answered the first frame yet, and may never have seen it: it is sent again, to begin anew.
    if (this.token === undefined) return { next: 0, applied: 0, reason: '' };
    socket.write(this.#resumeFrame());
    const { type, payload } = await readFirstFrame(socket, this.#silenceMs);
    if (type === FrameType.ABORT) {
      socket.destroy();
      this.#user.onAbort(payload);
      return undefined;
    }
    if (type !== FrameType.RESUME) throw unexpected(type, 'RESUME');
    const theirs = decodeResume(payload);
    const isOurs = timingSafeEqual(theirs.token, this.token) && theirs.channel === this.#options.channel;
    if (!isOurs || theirs.connection !== this.#connection) throw unexpected(type, 'the answer to RESUME');
    return theirs;
  }

  #resumeFrame(): Uint8Array {
    const { channel } = this.#options;
    const place = this.#user.place();
    const resume = { token: this.token!, channel, connection: this.#connection, reason: this.#dropReason, ...place };
    return encodeControlFrame(FrameType.RESUME, encodeResume(resume));
  }

  #goOn(socket: Duplex, { reason }: Pick<Resume, 'reason'>, frames: readonly Uint8Array[]): void {
    const afterMs = performance.now() - this.#lost!.at;
    this.#lost = undefined;
    this.#dialError = undefined;
    this.#dropReason = '';
    this.#use(socket, frames);
    const event = { event: 'link-resumed', channel: this.#options.channel, afterMs } as const;
    this.#tell({ ...event, reason: reason === '' ? undefined : reason });
  }

  #tell(event: LinkEvent): void {
    this.#options.onLinkEvent?.(event);
  }

  /** How long a peer that lives may say nothing. */
  get #silenceMs(): number {
    return Math.ceil(Math.max(Math.min(this.#options.timeoutMs / 3, MOST_SILENCE_MS), this.patienceMs / 3));
  }

  #tick(): void {
    const now = performance.now();
    // While this process was held up it heard nothing, which says nothing of the other end.
    if (now - this.#tickedAt > 2 * this.#tickMs) this.#heardAt = now;
    this.#tickedAt = now;
    if (this.#link === undefined) this.#checkPatience(now);
    else this.#checkSilence(this.#link, now);
  }

  #checkSilence(link: FrameLink, now: number): void {
    if (link.isIdle) link.write(encodeControlFrame(FrameType.KEEP_ALIVE, new Uint8Array(0)));
    if (now - this.#heardAt < this.#silenceMs) return;
    if (link.isPaused) {
      if (this.#user.isStuck()) this.fail(unasked());
      return;
    }
    const message = `nothing came for ${Math.round(now - this.#heardAt)} ms`;
    this.drop(new VfioError('ETIMEDOUT', { operation: 'migration stream', message }));
  }

  #checkPatience(now: number): void {
    if (this.#lost === undefined || now - this.#lost.at < this.patienceMs) return;
    const since = this.#dialError === undefined ? '' : `; then ${this.#dialError.message}`;
    const message = `the link was not back within ${Math.round(this.patienceMs)} ms: ${this.#lost.error.message}${since}`;
    this.fail(new VfioError('ETIMEDOUT', { operation: 'migration stream', message, cause: this.#lost.error }));
  }
}

/** Its acknowledgements are behind them in the connection. */
function unasked(): VfioError {
  const message = 'the other end sends frames that nobody here waits for, and acknowledges none';
  return new VfioError('EPROTO', { operation: 'migration stream', message });
}

function stale(message: string): VfioError {
  return new VfioError('ESTALE', { operation: 'RESUME', field: 'connection', message });
}
