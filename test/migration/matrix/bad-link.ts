import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeFrameHeader, FRAME_HEADER_SIZE, FrameType } from '../../../src/migration/index.js';
import { decodeLanePorts, encodeLanePorts } from '../../../src/migration/lane/lane-ports.js';
import { FrameWatch, PassCount, type Segment } from './frame-watch.js';
import { Passage, type TlsEnds } from './passage.js';
import type { Instant, Way } from './run.js';

/** What becomes of the rest of a frame in which something strikes. */
export type Rest = 'as-it-is' | 'one-bit-wrong';

/** Bytes that a slow link lets through at a time, and how long that takes. */
const SLOW_PIECE = 256 * 1024;
const SLOW_PIECE_MS = 5;
/** How many pieces a connection lives that is cut again. */
const PIECES_UNTIL_CUT = 4;

/** One way of a connection. */
interface Direction {
  readonly passage: Passage;
  readonly way: Way;
  readonly from: Socket;
  readonly to: Socket;
}

/** What a {@link BadLink} is made of. */
export interface BadLinkOptions {
  /** Where the destination listens. */
  to: number;
  tls: TlsEnds | undefined;
  instant: Instant;
  /** Called once, when the instant has come. */
  strike: () => Promise<Rest>;
}

/**
 * A TCP link between two hosts, which knows what goes over it, and can be made worse at any byte: nothing behind that byte goes on before
 * what strikes there has struck. Lanes go over it too: it tells the source ports of its own in place of the destination's.
 */
export class BadLink {
  /** The destination has agreed to this migration: it ends by itself, one way or another. */
  hasAgreed = false;
  readonly #options: BadLinkOptions;
  /** By the port to which each leads. */
  readonly #doors = new Map<number, Promise<Server>>();
  readonly #passes = new PassCount();
  /** All that have not been cut, also where both ends have said all: with TLS they may still wait for a word. */
  readonly #passages = new Set<Passage>();
  #struck: Passage | undefined;
  #port = 0;
  #fitting = 0;
  #hasStruck = false;
  #held: Promise<void> = Promise.resolve();
  #isSlow = false;
  #cutsLeft = 0;

  private constructor(options: BadLinkOptions) {
    this.#options = options;
  }

  static async open(options: BadLinkOptions): Promise<BadLink> {
    const link = new BadLink(options);
    link.#port = await link.#doorTo(options.to);
    return link;
  }

  /** Where the source finds the destination. */
  get port(): number {
    return this.#port;
  }

  /** @returns the port by which `to` is reached over this link */
  async #doorTo(to: number): Promise<number> {
    const door = this.#doors.get(to) ?? this.#openDoor(to);
    this.#doors.set(to, door);
    return ((await door).address() as { port: number }).port;
  }

  async #openDoor(to: number): Promise<Server> {
    const server = createServer(socket => void this.#join(socket, to)).listen(0, '127.0.0.1');
    await once(server, 'listening');
    return server;
  }

  /** Cuts what is connected now. */
  cut(): void {
    for (const passage of this.#passages) passage.cut();
    this.#passages.clear();
  }

  /** Cuts only the connection on which it strikes. */
  cutStruck(): void {
    this.#struck?.cut();
  }

  /** Cuts now, and some more times soon after the link was taken up again, as long as it can be. */
  cutAgain(times: number): void {
    this.#cutsLeft = times;
    this.cut();
  }

  /** Nobody gets through any more. Idempotent. */
  async close(): Promise<void> {
    const servers = await Promise.all(this.#doors.values());
    const open = servers.filter(server => server.listening);
    const closed = open.map(server => once(server, 'close'));
    for (const server of open) server.close();
    this.cut();
    await Promise.all(closed);
  }

  /** Nothing goes on until `until`, either way. */
  hold(until: Promise<void>): void {
    this.#held = until;
  }

  slowDown(): void {
    this.#isSlow = true;
  }

  async #join(dialled: Socket, to: number): Promise<void> {
    const passage = new Passage(dialled);
    this.#passages.add(passage);
    if (this.#options.instant.at === 'dial' && !this.#hasStruck) await this.#strikeOn(passage);
    await this.#held;
    if (passage.isCut) return;
    const { incoming, outgoing } = passage.leadTo(to, this.#options.tls);
    await Promise.all([
      this.#pump({ passage, way: 'there', from: incoming, to: outgoing }),
      this.#pump({ passage, way: 'back', from: outgoing, to: incoming }),
    ]);
  }

  #strikeOn(passage: Passage): Promise<Rest> {
    this.#hasStruck = true;
    this.#struck = passage;
    return this.#options.strike();
  }

  async #pump(direction: Direction): Promise<void> {
    const { from, to } = direction;
    const watch = new FrameWatch();
    const mayBeCut = this.#cutsLeft > 0;
    let pieces = 0;
    try {
      for await (const piece of from.iterator({ destroyOnReturn: false })) {
        for (const segment of watch.push(piece as Uint8Array)) await this.#pass(direction, segment);
        if (mayBeCut && ++pieces === PIECES_UNTIL_CUT && this.#cutsLeft-- > 0) this.cut();
      }
      to.end();
    } catch {
      to.destroy();
    }
  }

  async #pass({ passage, way, to }: Direction, segment: Segment): Promise<void> {
    const { frame, offset } = segment;
    const bytes = frame.type === FrameType.LANES ? await this.#leadLanes(segment) : segment.bytes;
    // GO may be under way as soon as the source has it, and behind GO there is no other connection.
    if (frame.type === FrameType.DIGEST) this.#cutsLeft = 0;
    const at = this.#placeIn(way, segment);
    if (at === undefined) await this.#send(bytes, to);
    else {
      await this.#send(bytes.subarray(0, at), to);
      const rest = Buffer.from(bytes.subarray(at));
      if ((await this.#strikeOn(passage)) === 'one-bit-wrong') rest[0]! ^= 1 << (at % 8);
      await this.#send(rest, to);
    }
    if (offset + bytes.length < frame.size) return;
    if (this.#fits(way, segment)) this.#fitting++;
    if (way === 'there') this.#passes.add(frame);
    else if (frame.type === FrameType.HELLO) this.hasAgreed = true;
  }

  /** The same frame with the ports of this link. */
  async #leadLanes({ frame, bytes }: Segment): Promise<Uint8Array> {
    const ports = decodeLanePorts(bytes.subarray(FRAME_HEADER_SIZE));
    const payload = encodeLanePorts(await Promise.all(ports.map(port => this.#doorTo(port))));
    const changed = new Uint8Array(frame.size);
    encodeFrameHeader(changed, FrameType.LANES, frame.sequence, payload);
    changed.set(payload, FRAME_HEADER_SIZE);
    return changed;
  }

  /** How many of these bytes still pass before it strikes; `undefined`: it does not strike here. */
  #placeIn(way: Way, segment: Segment): number | undefined {
    if (this.#hasStruck || this.#options.instant.at !== 'frame' || !this.#fits(way, segment)) return undefined;
    // Frames of two connections overlap: the right place of one may pass while the count is not there yet, and the next one's will do.
    if (this.#fitting < this.#options.instant.nth) return undefined;
    const { frame, offset, bytes } = segment;
    const at = Math.floor(frame.size * this.#options.instant.part) - offset;
    const isHere = at >= 0 && (at < bytes.length || (at === bytes.length && offset + at === frame.size));
    return isHere ? at : undefined;
  }

  #fits(way: Way, { frame }: Segment): boolean {
    const instant = this.#options.instant;
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
