import { timingSafeEqual } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { OwnedFd } from '../../native/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { channelOfLane, decodeJoin, type Join } from '../lane/join.js';
import { type FailureWord, failureWord } from '../lane/lane-thread.js';
import { Door } from '../link/door.js';
import { readFirstFrame } from '../link/first-frame.js';
import { decodeResume } from '../link/resume.js';
import { attachMemory } from '../memory/shared-machine-memory.js';
import { FrameChannel } from '../stream/frame-channel.js';
import { applyMemoryBlock } from '../stream/memory-block.js';
import { encodeControlFrame, FrameType } from '../stream/stream-format.js';
import { unexpected } from '../stream/unexpected.js';
import { LaneCounts, type LaneReceiverStart, type ReceiverOrder, type ReceiverWord } from './lane-orders.js';

/** How long a connection may be without its first frame, milliseconds. */
const FIRST_FRAME_MS = 5000;

/**
 * The destination's end of a lane, in a thread of its own: takes connections to a port of its own, takes checksums, and writes memory. Whoever
 * does not know the session's secret is closed without a word.
 */
export class LaneReceiver {
  readonly #start: LaneReceiverStart;
  readonly #say: (word: ReceiverWord | FailureWord) => void;
  readonly #counts: LaneCounts;
  readonly #door: Door;
  #memory: ReturnType<typeof attachMemory>;
  #channel: FrameChannel | undefined;

  constructor(start: LaneReceiverStart, say: (word: ReceiverWord | FailureWord) => void) {
    this.#start = start;
    this.#say = say;
    this.#counts = new LaneCounts(start.counts);
    this.#memory = attachMemory(start.memory);
    const onConnection = (socket: Duplex) => void this.#accept(socket);
    const onRefused = (socket: Duplex) => socket.destroy();
    this.#door = new Door({ tls: start.tls, handshakeMs: FIRST_FRAME_MS, onConnection, onRefused });
  }

  take(order: ReceiverOrder): void {
    if (order.order === 'memory') {
      this.#memory = attachMemory(order.memory);
      this.#say({ word: 'has-memory' });
    } else {
      this.#counts.connections++;
      this.#door.letIn(new OwnedFd(order.fd));
    }
  }

  async #accept(socket: Duplex): Promise<void> {
    try {
      const { type, payload } = await readFirstFrame(socket, FIRST_FRAME_MS);
      if (type === FrameType.JOIN) this.#join(socket, decodeJoin(payload));
      else if (type === FrameType.RESUME) this.#goOn(socket, payload);
      else throw unexpected(type, 'JOIN or RESUME');
    } catch {
      socket.destroy();
    }
  }

  /** A source whose first connection was lost before it knew that it was taken joins again. */
  #join(socket: Duplex, { token, lane }: Join): void {
    this.#requireSource(token, lane === this.#start.lane);
    if (this.#counts.pages !== 0) throw stale('JOIN', 'this lane is in use');
    this.#channel?.destroy();
    const channel = new FrameChannel({
      number: channelOfLane(lane),
      timeoutMs: this.#start.timeoutMs,
    });
    channel.token = this.#start.token;
    channel.keepAlive(this.#start.peerTimeoutMs);
    this.#channel = channel;
    socket.write(encodeControlFrame(FrameType.JOIN, new Uint8Array(0)));
    channel.begin(socket);
    void this.#receive(channel);
  }

  #goOn(socket: Duplex, payload: Uint8Array): void {
    const resume = decodeResume(payload);
    this.#requireSource(resume.token, resume.channel === channelOfLane(this.#start.lane));
    if (this.#channel === undefined) throw stale('RESUME', 'this lane is not in use');
    this.#channel.attach(socket, resume);
  }

  #requireSource(token: Uint8Array, isThisLane: boolean): void {
    if (!timingSafeEqual(token, this.#start.token) || !isThisLane) throw stale('JOIN', 'there is no such lane here');
  }

  async #receive(channel: FrameChannel): Promise<void> {
    try {
      while (true) {
        const { type, payload } = await channel.next();
        if (type !== FrameType.MEMORY) throw unexpected(type, 'memory');
        this.#counts.pages += applyMemoryBlock(this.#memory, payload);
      }
    } catch (cause) {
      // Another connection has taken this one's place.
      if (channel !== this.#channel) return;
      const error = asVfioError(cause, 'migration stream');
      await channel.abort({ error, mayRun: false });
      this.#say(failureWord(error));
    }
  }
}

function stale(operation: string, message: string): VfioError {
  return new VfioError('ESTALE', { operation, field: 'token', message });
}
