import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { FrameType } from '../../../src/migration/index.js';
import { FrameWatch, PassCount, type Segment } from './frame-watch.js';
import type { Instant, Way } from './run.js';

/** What becomes of the rest of a frame in which something strikes. */
export type Rest = 'as-it-is' | 'one-bit-wrong';

/** Bytes that a slow link lets through at a time, and how long that takes. */
const SLOW_PIECE = 256 * 1024;
const SLOW_PIECE_MS = 5;
/** How many pieces a connection lives that is cut again. */
const PIECES_UNTIL_CUT = 4;

/**
 * A TCP link between two hosts, which knows what goes over it, and can be made worse at any byte: nothing behind that byte goes on before
 * what strikes there has struck.
 */
export class BadLink {
  readonly port: number;
  /** The destination has agreed to this migration: it ends by itself, one way or another. */
  hasAgreed = false;
  readonly #to: number;
  readonly #server: Server;
  readonly #instant: Instant;
  readonly #strike: () => Promise<Rest>;
  readonly #passes = new PassCount();
  readonly #sockets = new Set<Socket>();
  #fitting = 0;
  #hasStruck = false;
  #held: Promise<void> = Promise.resolve();
  #isSlow = false;
  #cutsLeft = 0;

  private constructor(server: Server, to: number, instant: Instant, strike: () => Promise<Rest>) {
    this.#server = server;
    this.port = (server.address() as { port: number }).port;
    this.#to = to;
    this.#instant = instant;
    this.#strike = strike;
    server.on('connection', socket => void this.#join(socket));
  }

  /** @param strike called once, when the instant has come */
  static async open(to: number, instant: Instant, strike: () => Promise<Rest>): Promise<BadLink> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new BadLink(server, to, instant, strike);
  }

  /** Cuts what is connected now. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
    this.#sockets.clear();
  }

  /** Cuts now, and some more times soon after the link was taken up again. */
  cutAgain(times: number): void {
    this.#cutsLeft = times;
    this.cut();
  }

  /** Nobody gets through any more. Idempotent. */
  async close(): Promise<void> {
    const closed = once(this.#server, 'close');
    const isOpen = this.#server.listening;
    this.#server.close();
    this.cut();
    if (isOpen) await closed;
  }

  /** Nothing goes on until `until`, either way. */
  hold(until: Promise<void>): void {
    this.#held = until;
  }

  slowDown(): void {
    this.#isSlow = true;
  }

  async #join(incoming: Socket): Promise<void> {
    this.#sockets.add(incoming);
    incoming.on('error', () => {});
    if (this.#instant.at === 'dial' && !this.#hasStruck) {
      this.#hasStruck = true;
      await this.#strike();
    }
    await this.#held;
    if (incoming.destroyed) return;
    const outgoing = connect({ host: '127.0.0.1', port: this.#to });
    this.#sockets.add(outgoing);
    outgoing.on('error', () => incoming.destroy());
    outgoing.on('close', () => incoming.destroy());
    incoming.on('close', () => outgoing.destroy());
    await Promise.all([this.#pump('there', incoming, outgoing), this.#pump('back', outgoing, incoming)]);
  }

  async #pump(way: Way, from: Socket, to: Socket): Promise<void> {
    const watch = new FrameWatch();
    const mayBeCut = this.#cutsLeft > 0;
    let pieces = 0;
    try {
      for await (const piece of from.iterator({ destroyOnReturn: false })) {
        for (const segment of watch.push(piece as Uint8Array)) await this.#pass(way, segment, to);
        if (mayBeCut && ++pieces === PIECES_UNTIL_CUT && this.#cutsLeft-- > 0) this.cut();
      }
      to.end();
    } catch {
      to.destroy();
    }
  }

  async #pass(way: Way, segment: Segment, to: Socket): Promise<void> {
    const { frame, offset, bytes } = segment;
    const at = this.#placeIn(way, segment);
    if (at === undefined) await this.#send(bytes, to);
    else {
      await this.#send(bytes.subarray(0, at), to);
      this.#hasStruck = true;
      const rest = Buffer.from(bytes.subarray(at));
      if ((await this.#strike()) === 'one-bit-wrong') rest[0]! ^= 1 << (at % 8);
      await this.#send(rest, to);
    }
    if (offset + bytes.length < frame.size) return;
    if (this.#fits(way, segment)) this.#fitting++;
    if (way === 'there') this.#passes.add(frame);
    else if (frame.type === FrameType.HELLO) this.hasAgreed = true;
  }

  /** How many of these bytes still pass before it strikes; `undefined`: it does not strike here. */
  #placeIn(way: Way, segment: Segment): number | undefined {
    if (this.#hasStruck || this.#instant.at !== 'frame' || !this.#fits(way, segment)) return undefined;
    if (this.#fitting !== this.#instant.nth) return undefined;
    const { frame, offset, bytes } = segment;
    const at = Math.floor(frame.size * this.#instant.part) - offset;
    const isHere = at >= 0 && (at < bytes.length || (at === bytes.length && offset + at === frame.size));
    return isHere ? at : undefined;
  }

  #fits(way: Way, { frame }: Segment): boolean {
    const instant = this.#instant;
    if (instant.at !== 'frame' || way !== instant.way) return false;
    return instant.types.includes(frame.type) && this.#passes.passes >= instant.passes;
  }

  async #send(bytes: Uint8Array, to: Socket): Promise<void> {
    await this.#held;
    for (let at = 0; at < bytes.length; at += SLOW_PIECE) {
      if (this.#isSlow) await delay(SLOW_PIECE_MS);
      const isTaken = to.write(bytes.subarray(at, at + SLOW_PIECE));
      if (!isTaken && !to.destroyed) await drained(to);
    }
  }
}

/** Until the socket takes more, or nothing any more. */
function drained(socket: Socket): Promise<void> {
  return new Promise(resolve => {
    const finish = () => {
      socket.off('drain', finish).off('close', finish);
      resolve();
    };
    socket.on('drain', finish).on('close', finish);
  });
}
