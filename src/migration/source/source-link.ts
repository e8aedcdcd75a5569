import { performance } from 'node:perf_hooks';
import { VfioError, viewOf } from '../../uapi/index.js';
import { type Address, dialTo } from '../link/dial.js';
import type { LinkEvent } from '../link/link-keeper.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import { FrameChannel, unexpected } from '../stream/frame-channel.js';
import type { Frame } from '../stream/frame-parser.js';
import { type Agreement, checkHello } from '../stream/hello.js';
import { decodeHello, encodeHello, FrameType, type Hello } from '../stream/stream-format.js';
import type { Interruption } from './interruption.js';

/** What a {@link SourceLink} is made of. */
export interface SourceLinkOptions {
  to: Address;
  tls?: TlsIdentity | undefined;
  timeoutMs?: number | undefined;
  interruption: Interruption;
  onLinkEvent?: (event: LinkEvent) => void;
}

/**
 * The source's channel. It asks for the next answer beforehand, so that a destination that gives up is noticed in the middle of a pass.
 */
export class SourceLink {
  readonly channel: FrameChannel;
  readonly #to: Address;
  readonly #interruption: Interruption;
  #answer: Promise<Frame> | undefined;
  #peerFailure: unknown;
  #onPeerFailure: (error: unknown) => void = () => {};
  #agreement: Agreement | undefined;
  #roundTripMs = 0;

  constructor({ to, tls, timeoutMs, interruption, onLinkEvent }: SourceLinkOptions) {
    this.#to = to;
    this.channel = new FrameChannel({ timeoutMs, dial: dialTo(to, tls), onLinkEvent });
    this.#interruption = interruption;
  }

  /** Why the destination says nothing more, as soon as that is known. */
  get peerFailure(): unknown {
    return this.#peerFailure;
  }

  /** Calls `listener` when the destination says nothing more, and why. */
  whenPeerFails(listener: (error: unknown) => void): void {
    this.#onPeerFailure = listener;
    if (this.#peerFailure !== undefined) listener(this.#peerFailure);
  }

  /** What both ends can do, as soon as that is known. */
  get agreement(): Agreement | undefined {
    return this.#agreement;
  }

  /** From HELLO to its answer, milliseconds. */
  get roundTripMs(): number {
    return this.#roundTripMs;
  }

  /** @throws VfioError ETIMEDOUT, ECONNREFUSED… as the system says; EACCES as {@link dialTo} */
  async connect(): Promise<void> {
    const late = new VfioError('ETIMEDOUT', { operation: 'connect', message: `${this.#to.host}:${this.#to.port}` });
    let deadline: NodeJS.Timeout | undefined;
    const tooLate = new Promise<never>((_, reject) => {
      deadline = setTimeout(() => reject(late), this.channel.timeoutMs);
    });
    try {
      await this.#interruption.unlessInterrupted(Promise.race([this.channel.connect(), tooLate]));
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Both ends say what they have. @returns what the destination said @throws VfioError when they do not fit: {@link checkHello} */
  async agree(ours: Hello): Promise<Hello> {
    const sentAt = performance.now();
    await this.channel.send(FrameType.HELLO, encodeHello(ours));
    const payload = await this.#interruption.unlessInterrupted(this.channel.expect(FrameType.HELLO));
    const theirs = decodeHello(payload);
    this.#agreement = checkHello(ours, theirs);
    this.#roundTripMs = performance.now() - sentAt;
    if (theirs.token !== undefined) this.channel.token = theirs.token;
    this.channel.keepAlive(theirs.timeoutMs);
    this.#listen();
    return theirs;
  }

  #listen(): void {
    this.#answer = this.channel.next();
    this.#answer.catch(error => {
      this.#peerFailure = error;
      this.#onPeerFailure(error);
    });
  }

  /** The destination's next frame. @throws as {@link FrameChannel.next}, or because the caller has given up */
  async next(): Promise<Frame> {
    const { type, payload } = await this.#interruption.unlessInterrupted(this.#answer!);
    const frame = { type, payload: payload.slice() };
    this.#listen();
    return frame;
  }

  /** The payload of the next frame, which must be of this type. @throws as {@link SourceLink.next}; VfioError EPROTO for another frame */
  async expect(type: FrameType): Promise<Uint8Array> {
    const frame = await this.next();
    if (frame.type !== type) throw unexpected(frame.type, 'an answer');
    return frame.payload;
  }

  /** Hears what has come meanwhile. @throws the destination's failure, if it has failed */
  async throwIfPeerFailed(): Promise<void> {
    await new Promise(resolve => setImmediate(resolve));
    if (this.#peerFailure !== undefined) throw this.#peerFailure;
  }

  /** The destination's digest of its memory, `size` bytes. @param kind a {@link DigestKind} */
  async askDigest(kind: number, size: number): Promise<Uint8Array> {
    const question = new Uint8Array(4);
    viewOf(question).setUint32(0, kind, true);
    await this.channel.send(FrameType.VERIFY, question);
    const digest = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      const part = await this.expect(FrameType.DIGEST);
      if (part.length === 0 || filled + part.length > size)
        throw unexpected(FrameType.DIGEST, `${size} bytes of digest`);
      digest.set(part, filled);
      filled += part.length;
    }
    return digest;
  }
}
