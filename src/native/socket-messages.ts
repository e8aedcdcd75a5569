import { ERRNO, VfioError } from '../uapi/index.js';
import type { OwnedFd } from './file-descriptor.js';
import { addressOfBytes, checked, lastErrno, libc, systemError, uninterrupted } from './libc.js';
import { MAX_MESSAGE_FDS, MessageBlock } from './message-block.js';

export { MAX_MESSAGE_FDS };

/* Bytes and descriptors over a connected UNIX socket. */

const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_WAITALL = 0x100;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

const outgoing = new MessageBlock();
const incoming = new MessageBlock();
const NOTHING_TO_SEND: readonly number[] = [];

/**
 * Sends what fits at once, on a socket of any mode. The descriptors travel with the first byte: once the result is a number
 * they are sent, and the rest of `bytes` goes without them. They stay open here.
 * @returns bytes sent, or `'again'` when nothing fitted: wait until the socket is writable.
 * @throws VfioError EPIPE, ECONNRESET when the peer is gone; EINVAL for descriptors without a byte to carry them, or more than
 *   {@link MAX_MESSAGE_FDS}; EBADF when one of them is not open.
 */
export function send(fd: number, bytes: Uint8Array, fds: readonly number[] = NOTHING_TO_SEND): number | 'again' {
  if (fds.length > 0) return sendWithFds(fd, bytes, fds);
  if (bytes.length === 0) return 0;
  const count = uninterrupted(() => libc.send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL));
  return count === -1 ? againOrThrow('send') : count;
}

/** The buffer of the last {@link sendFrom}, which so cannot go away, and its address: asking for it takes 126 ns. */
let lastBuffer: Uint8Array = new Uint8Array(128);
let lastAddress = Number(addressOfBytes(lastBuffer));

/**
 * {@link send} of the first `length` bytes of a buffer that is used again and again, without descriptors.
 * @param buffer larger than 64 bytes: smaller ones may have no fixed place in memory.
 * @throws VfioError EPIPE, ECONNRESET when the peer is gone; EINVAL for more than the buffer has
 */
export function sendFrom(fd: number, buffer: Uint8Array, length: number): number | 'again' {
  if (length > buffer.length) {
    const message = `${length} bytes of ${buffer.length}`;
    throw new VfioError('EINVAL', { operation: 'send', field: 'length', message });
  }
  if (length === 0) return 0;
  if (buffer !== lastBuffer) {
    lastBuffer = buffer;
    lastAddress = Number(addressOfBytes(buffer));
  }
  const count = uninterrupted(() => libc.sendAt(fd, lastAddress, length, MSG_DONTWAIT | MSG_NOSIGNAL));
  return count === -1 ? againOrThrow('send') : count;
}

function sendWithFds(fd: number, bytes: Uint8Array, fds: readonly number[]): number | 'again' {
  const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'sendmsg', field, message });
  if (bytes.length === 0) throw bad('bytes', 'descriptors need a byte to travel with');
  if (fds.length > MAX_MESSAGE_FDS) throw bad('fds', `${fds.length} descriptors, at most ${MAX_MESSAGE_FDS}`);
  outgoing.setPayload(bytes);
  outgoing.setFds(fds);
  const count = uninterrupted(() => libc.sendmsg(fd, outgoing.address, MSG_DONTWAIT | MSG_NOSIGNAL));
  return count === -1 ? againOrThrow('sendmsg') : count;
}

function againOrThrow(operation: string): 'again' {
  const errno = lastErrno();
  if (errno === ERRNO.EAGAIN) return 'again';
  throw systemError(operation, undefined, errno);
}

/** What came in one {@link receive}. */
export interface Received {
  /** How many bytes of the buffer were filled, 1 or more. */
  readonly bytes: number;
  /**
   * Descriptors that came along; the receiver owns them. They belong to the last message that begins in these bytes: the kernel
   * may merge earlier bytes without descriptors with bytes that carry them, and stops there.
   */
  readonly fds: readonly OwnedFd[];
  /** The peer sent more descriptors than this process could take (it is out of descriptors): all of them are closed. */
  readonly fdsLost: boolean;
}

/**
 * Receives what is there, on a socket of any mode. Descriptors arrive with close-on-exec set.
 * @param into at least 1 byte; filled from its start.
 * @returns `'again'` when nothing is there, `'closed'` when the peer is gone and everything it sent was received.
 * @throws VfioError EINVAL for an empty buffer; EBADF, ENOTSOCK as recvmsg(2).
 */
export function receive(fd: number, into: Uint8Array): Received | 'again' | 'closed' {
  return receiveWith(fd, into, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
}

/**
 * {@link receive}, but waits in the call, and this whole thread with it, on a socket that was made so by {@link waitInReceive}.
 * @returns `'again'` also when the time is up.
 * @throws VfioError as {@link receive}
 */
export function receiveWaiting(fd: number, into: Uint8Array): Received | 'again' | 'closed' {
  return receiveWith(fd, into, MSG_CMSG_CLOEXEC);
}

/**
 * {@link receiveWaiting} until `into` is full, the peer has ended or sent descriptors, or the time is up: what is there then is there. Of a
 * message that is sent piece by piece no piece wakes this thread by itself.
 * @throws VfioError as {@link receive}
 */
export function receiveAllWaiting(fd: number, into: Uint8Array): Received | 'again' | 'closed' {
  return receiveWith(fd, into, MSG_WAITALL | MSG_CMSG_CLOEXEC);
}

/**
 * Has {@link receiveWaiting} wait on this socket for at most `milliseconds`, which the kernel rounds up to a tick of its clock (4 ms at 250
 * ticks a second). {@link receive} and {@link send} still never wait. Call it after `watch`, which makes a socket non-blocking.
 * @throws VfioError EBADF, ENOTSOCK
 */
export function waitInReceive(fd: number, milliseconds: number): void {
  const SOL_SOCKET = 1;
  const SO_RCVTIMEO = 20;
  // struct timeval: i64 seconds, i64 microseconds.
  const limit = BigInt64Array.of(BigInt(Math.floor(milliseconds / 1000)), BigInt((milliseconds % 1000) * 1000));
  checked('setsockopt', () => libc.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, limit, limit.byteLength));
  const F_GETFL = 3;
  const F_SETFL = 4;
  const O_NONBLOCK = 0o4000;
  const flags = checked('fcntl', () => libc.fcntl(fd, F_GETFL, 0));
  checked('fcntl', () => libc.fcntl(fd, F_SETFL, flags & ~O_NONBLOCK));
}

/**
 * Takes nothing more from the peer: what it has sent already is still received, and then `'closed'`.
 * @throws VfioError EBADF, ENOTSOCK; a connection that is over already is none.
 */
export function endReceiving(fd: number): void {
  const SHUT_RD = 0;
  if (libc.shutdown(fd, SHUT_RD) === -1 && lastErrno() !== ERRNO.ENOTCONN) throw systemError('shutdown');
}

function receiveWith(fd: number, into: Uint8Array, flags: number): Received | 'again' | 'closed' {
  // Without room, recvmsg answers 0, which would be taken for the end.
  if (into.length === 0) throw new VfioError('EINVAL', { operation: 'recvmsg', field: 'into', message: 'no room' });
  incoming.setPayload(into);
  incoming.offerControl();
  const count = libc.recvmsg(fd, incoming.address, flags);
  if (count > 0) return received(count);
  const errno = count === 0 ? ERRNO.ECONNRESET : lastErrno();
  // A peer that closes with unread bytes in its buffer resets the connection: to the reader that is an end like any other.
  if (errno === ERRNO.ECONNRESET) return 'closed';
  // A signal ends the wait like its time does: the process has to see to it.
  if (errno === ERRNO.EAGAIN || errno === ERRNO.EINTR) return 'again';
  throw systemError('recvmsg', undefined, errno);
}

function received(bytes: number): Received {
  const fds = incoming.takeFds();
  if ((incoming.flags & MSG_CTRUNC) === 0) return { bytes, fds, fdsLost: false };
  for (const owned of fds) owned.close();
  return { bytes, fds: [], fdsLost: true };
}
