import type { Duplex } from 'node:stream';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { channelOfLane, encodeJoin } from '../lane/join.js';
import { type FailureWord, failureWord } from '../lane/lane-thread.js';
import { dialTo } from '../link/dial.js';
import { readFirstFrame } from '../link/first-frame.js';
import type { LinkEvent } from '../link/link-keeper.js';
import { attachMemory } from '../memory/shared-machine-memory.js';
import { backOff } from '../ownership/pause.js';
import { FrameChannel } from '../stream/frame-channel.js';
import { MemoryEncoder } from '../stream/memory-encoder.js';
import { PageList } from '../stream/page-list.js';
import { decodeAbort, encodeControlFrame, FrameType, MAX_PAYLOAD } from '../stream/stream-format.js';
import { unexpected } from '../stream/unexpected.js';
import type { LaneSenderStart, SenderOrder, SenderWord } from './lane-orders.js';
import { SharedPageList } from './shared-page-list.js';

/** So many connections are tried for a lane that has not sent anything yet. */
const MOST_ATTEMPTS = 3;

/** Half of what a migration's own connection has: two lanes together keep as much as that one does. */
const WINDOW = 4;

/** The source's end of a lane, in a thread of its own: copies memory, takes checksums, and writes to a connection of its own. */
export class LaneSender {
  readonly #start: LaneSenderStart;
  readonly #say: (word: SenderWord | FailureWord) => void;
  readonly #channel: FrameChannel;
  readonly #places: readonly SharedPageList[];
  readonly #block = new PageList();
  readonly #encoder: MemoryEncoder;
  /** Aborted when the lane must have been taken. */
  readonly #joinBy: AbortSignal;
  #hasJoined = false;
  #work: Promise<void>;

  constructor(start: LaneSenderStart, say: (word: SenderWord | FailureWord) => void) {
    this.#start = start;
    this.#say = say;
    this.#places = start.places.map(buffer => new SharedPageList(buffer));
    this.#encoder = new MemoryEncoder(attachMemory(start.memory), start.compression);
    this.#channel = new FrameChannel({
      number: channelOfLane(start.lane),
      timeoutMs: start.timeoutMs,
      window: WINDOW,
      dial: signal => this.#dial(signal),
      onLinkEvent: event => this.#say(wordOf(event)),
    });
    this.#joinBy = AbortSignal.timeout(start.timeoutMs);
    this.#channel.token = start.token;
    this.#channel.keepAlive(start.peerTimeoutMs);
    this.#work = this.#open();
    this.#work.catch(error => this.#fail(error));
  }

  /** Does an order after those before it; patience is changed at once. */
  take(order: SenderOrder): void {
    if (order.order === 'patience') {
      this.#channel.patienceMs = order.ms;
      return;
    }
    // Where one has failed the others fail with it, and that was said once.
    this.#work = this.#work.then(() => this.#obey(order));
    this.#work.catch(error => this.#fail(error));
  }

  async #obey(order: Exclude<SenderOrder, { order: 'patience' }>): Promise<void> {
    switch (order.order) {
      case 'send':
        return this.#send(order.place);
      case 'flush':
        this.#encoder.rest();
        await this.#channel.flush();
        return this.#say({ word: 'flushed' });
      case 'memory':
        this.#encoder.useMemory(attachMemory(order.memory));
        return;
    }
  }

  async #send(place: number): Promise<void> {
    for (const block of this.#places[place]!.takeBy(this.#block)) {
      await this.#channel.sendFilled(FrameType.MEMORY, MAX_PAYLOAD, into => this.#encoder.encode(block, into));
    }
    this.#say({ word: 'sent', place, bytesSent: this.#channel.bytesSent, zeroPages: this.#encoder.zeroPages });
  }

  async #open(): Promise<void> {
    for (let attempt = 1; !this.#hasJoined; attempt++) {
      try {
        await this.#channel.connect();
      } catch (error) {
        if (attempt === MOST_ATTEMPTS || this.#joinBy.aborted) throw error;
        await backOff(attempt, undefined);
      }
    }
    this.#say({ word: 'joined' });
    // Nothing is due from the other end but its end.
    this.#channel.next().then(
      ({ type }) => this.#fail(unexpected(type, 'nothing')),
      error => this.#fail(error),
    );
  }

  /** The first connection begins with JOIN; later ones with RESUME, which is the channel's own business. */
  async #dial(signal: AbortSignal): Promise<Duplex> {
    const dial = dialTo(this.#start.to, this.#start.tls);
    if (this.#hasJoined) return dial(signal);
    const socket = await dial(AbortSignal.any([signal, this.#joinBy])).catch(cause => {
      throw this.#joinBy.aborted ? this.#unreachable(cause) : cause;
    });
    try {
      socket.write(encodeControlFrame(FrameType.JOIN, encodeJoin(this.#start)));
      const { type, payload } = await readFirstFrame(socket, this.#start.timeoutMs);
      if (type === FrameType.ABORT) throw decodeAbort(payload).error;
      if (type !== FrameType.JOIN) throw unexpected(type, 'JOIN');
      this.#hasJoined = true;
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  /** Where a firewall lets only the migration's own port through, nobody answers at all. */
  #unreachable(cause: unknown): VfioError {
    const { to, timeoutMs } = this.#start;
    const message = `${to.host}:${to.port} did not answer within ${timeoutMs} ms`;
    return new VfioError('ETIMEDOUT', { operation: 'connect', message, cause });
  }

  #fail(cause: unknown): void {
    const error = asVfioError(cause, 'migration stream');
    this.#channel.destroy(error);
    this.#say(failureWord(error));
  }
}

function wordOf(event: LinkEvent): SenderWord {
  if (event.event === 'link-resumed') return { word: 'link-resumed', afterMs: event.afterMs, reason: event.reason };
  const { errno, message } = failureWord(event.error);
  return { word: 'link-lost', errno, message };
}
