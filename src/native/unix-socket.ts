import { chmodSync, fchmodSync, lstatSync, unlinkSync } from 'node:fs';
import { asVfioError, ERRNO, VfioError } from '../uapi/index.js';
import { OwnedFd } from './file-descriptor.js';
import { checked, lastErrno, libc, systemError, uninterrupted } from './libc.js';
import { MAX_MESSAGE_FDS, MessageBlock } from './message-block.js';

export { MAX_MESSAGE_FDS };

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const STREAM = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

/** Longest path of a UNIX socket, bytes: 108 with the closing NUL. */
export const MAX_SOCKET_PATH = 107;

/** How a socket file is made. */
export interface ListenOptions {
  /** Permissions of the socket file, exactly: the umask does not apply. Default 0o600. */
  readonly mode?: number;
  /** How many connections may wait to be accepted. Default 16. */
  readonly backlog?: number;
}

/** A listening UNIX stream socket and its file. */
export class UnixListener {
  readonly path: string;
  readonly #socket: OwnedFd;
  readonly #inode: bigint;

  /** @internal Made by {@link listen}. */
  constructor(path: string, socket: OwnedFd, inode: bigint) {
    this.path = path;
    this.#socket = socket;
    this.#inode = inode;
  }

  /** The descriptor, to watch for readability; -1 once closed. */
  get fd(): number {
    return this.#socket.fd;
  }

  /**
   * Takes the next connection, non-blocking.
   * @throws VfioError EMFILE or ENFILE when no descriptor is left: the connection then still waits, and the socket stays readable.
   */
  accept(): OwnedFd | 'again' {
    const fd = uninterrupted(() => libc.accept4(this.fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd !== -1) return new OwnedFd(fd);
    const errno = lastErrno();
    if (errno === ERRNO.EAGAIN || errno === ERRNO.ECONNABORTED) return 'again';
    throw systemError('accept', undefined, errno);
  }

  /** Stops listening and removes the socket file, unless somebody has put another in its place. A second call does nothing. */
  close(): void {
    if (this.#socket.closed) return;
    try {
      if (lstatSync(this.path, { bigint: true }).ino === this.#inode) unlinkSync(this.path);
    } catch {
      // The file is gone or out of reach: there is nothing left to remove.
    }
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Listens on a path. A socket file that a dead process left behind is replaced; a live one is not.
 * @throws VfioError EINVAL for a path that is empty, abstract, or longer than {@link MAX_SOCKET_PATH}; EADDRINUSE when somebody
 *   listens there; EEXIST when something other than a socket is there; ENOENT, EACCES as bind(2).
 */
export function listen(path: string, options: ListenOptions = {}): UnixListener {
  const address = socketAddress(path, 'bind');
  const { mode = 0o600, backlog = 16 } = options;
  const socket = newSocket();
  try {
    // A socket's own mode is what bind gives the file, less the umask: at no moment is the file more open than asked for.
    fchmodSync(socket.fd, mode);
    bindReplacingStale(socket.fd, path, address);
    const inode = settleFile(path, mode);
    checked('listen', () => libc.listen(socket.fd, backlog));
    return new UnixListener(path, socket, inode);
  } catch (error) {
    socket.close();
    throw asVfioError(error, 'listen');
  }
}

/** Gives the new socket file the bits that the umask took away; returns its inode number. */
function settleFile(path: string, mode: number): bigint {
  const stats = lstatSync(path, { bigint: true });
  if ((Number(stats.mode) & mode) !== mode) chmodSync(path, mode);
  return stats.ino;
}

function bindReplacingStale(fd: number, path: string, address: Uint8Array): void {
  if (libc.bind(fd, address, address.length) === 0) return;
  const errno = lastErrno();
  if (errno !== ERRNO.EADDRINUSE) throw systemError('bind', path, errno);
  requireStale(path, address);
  unlinkSync(path);
  checked('bind', () => libc.bind(fd, address, address.length));
}

/** @throws VfioError unless the file is a socket to which nobody listens any more. */
function requireStale(path: string, address: Uint8Array): void {
  const operation = 'bind';
  if (!lstatSync(path).isSocket()) {
    throw new VfioError('EEXIST', { operation, field: 'path', message: `${path} is not a socket` });
  }
  const probe = newSocket();
  try {
    const refused = libc.connect(probe.fd, address, address.length) === -1 && lastErrno() === ERRNO.ECONNREFUSED;
    if (!refused)
      throw new VfioError('EADDRINUSE', { operation, field: 'path', message: `somebody listens on ${path}` });
  } finally {
    probe.close();
  }
}

/**
 * Connects to a path; the connection is non-blocking.
 * @throws VfioError EINVAL for a bad path; ENOENT, EACCES, ECONNREFUSED (nobody listens) as connect(2); EAGAIN when too many
 *   connections wait to be accepted: try again later.
 */
export function connect(path: string): OwnedFd {
  const address = socketAddress(path, 'connect');
  const socket = newSocket();
  if (uninterrupted(() => libc.connect(socket.fd, address, address.length)) === 0) return socket;
  const error = systemError('connect', path);
  socket.close();
  throw error;
}

/** Two sockets that are connected with each other, non-blocking. @throws VfioError EMFILE, ENFILE */
export function socketPair(): [OwnedFd, OwnedFd] {
  const pair = new Int32Array(2);
  checked('socketpair', () => libc.socketpair(AF_UNIX, STREAM, 0, pair));
  return [new OwnedFd(pair[0]!), new OwnedFd(pair[1]!)];
}

function newSocket(): OwnedFd {
  return new OwnedFd(checked('socket', () => libc.socket(AF_UNIX, STREAM, 0)));
}

/** struct sockaddr_un: u16 family, then the path and a NUL. */
function socketAddress(path: string, operation: string): Uint8Array {
  const bytes = new TextEncoder().encode(path);
  const bad = (message: string) => new VfioError('EINVAL', { operation, field: 'path', message });
  if (bytes.length === 0) throw bad('is empty');
  if (bytes.includes(0)) throw bad('holds a NUL byte; abstract names are not served, since any user may take one');
  if (bytes.length > MAX_SOCKET_PATH) throw bad(`${bytes.length} bytes, at most ${MAX_SOCKET_PATH} fit`);
  const address = new Uint8Array(2 + bytes.length + 1);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  return address;
}

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

function sendWithFds(fd: number, bytes: Uint8Array, fds: readonly number[]): number | 'again' {
  const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'sendmsg', field, message });
  if (bytes.length === 0) throw bad('bytes', 'descriptors need a byte to travel with');
  if (fds.length > MAX_MESSAGE_FDS) throw bad('fds', `${fds.length} descriptors, at most ${MAX_MESSAGE_FDS}`);
  outgoing.setPayload(bytes);
  outgoing.setFds(fds);
  const count = uninterrupted(() => libc.sendmsg(fd, outgoing.header, MSG_DONTWAIT | MSG_NOSIGNAL));
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
  // Without room, recvmsg answers 0, which would be taken for the end.
  if (into.length === 0) throw new VfioError('EINVAL', { operation: 'recvmsg', field: 'into', message: 'no room' });
  incoming.setPayload(into);
  const count = uninterrupted(() => {
    incoming.offerControl();
    return libc.recvmsg(fd, incoming.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  });
  if (count > 0) return received(count);
  // A peer that closes with unread bytes in its buffer resets the connection: to the reader that is an end like any other.
  if (count === 0 || lastErrno() === ERRNO.ECONNRESET) return 'closed';
  return againOrThrow('recvmsg');
}

function received(bytes: number): Received {
  const fds = incoming.takeFds();
  if ((incoming.flags & MSG_CTRUNC) === 0) return { bytes, fds, fdsLost: false };
  for (const owned of fds) owned.close();
  return { bytes, fds: [], fdsLost: true };
}
