import { chmodSync, fchmodSync, lstatSync, unlinkSync } from 'node:fs';
import { asVfioError, ERRNO, VfioError } from '../uapi/index.js';
import { OwnedFd } from './file-descriptor.js';
import { checked, lastErrno, libc, systemError, uninterrupted } from './libc.js';
import { acceptConnection } from './tcp-listener.js';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const STREAM = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;

/** Longest path of a UNIX socket, bytes: 108 with the closing NUL. */
export const MAX_SOCKET_PATH = 107;

/** What names a socket may have. */
export interface AddressOptions {
  /**
   * Takes a path that begins with `@` for a name in Linux's abstract namespace (unix(7)), which has no file. Such a name has no permissions
   * either: any user of the machine may connect to it, or take it first. Default false: such a path is refused; `./@name` is a file.
   */
  readonly abstract?: boolean;
}

/** How a socket file is made. */
export interface ListenOptions extends AddressOptions {
  /** Permissions of the socket file, exactly: the umask does not apply. Default 0o600. */
  readonly mode?: number;
  /** How many connections may wait to be accepted. Default 16. */
  readonly backlog?: number;
}

/** A listening UNIX stream socket and its file. */
export class UnixListener {
  readonly path: string;
  readonly #socket: OwnedFd;
  /** Missing for an abstract name. */
  readonly #inode: bigint | undefined;

  /** @internal Made by {@link listen}. */
  constructor(path: string, socket: OwnedFd, inode: bigint | undefined) {
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
    return acceptConnection(this.fd);
  }

  /** Stops listening and removes the socket file, unless somebody has put another in its place. A second call does nothing. */
  close(): void {
    if (this.#socket.closed) return;
    if (this.#inode !== undefined) this.#removeFile(this.#inode);
    this.#socket.close();
  }

  #removeFile(inode: bigint): void {
    try {
      if (lstatSync(this.path, { bigint: true }).ino === inode) unlinkSync(this.path);
    } catch {
      // The file is gone or out of reach: there is nothing left to remove.
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Listens on a path. A socket file that a dead process left behind is replaced; a live one is not.
 * @throws VfioError EINVAL for a path that is empty, holds a NUL, is longer than {@link MAX_SOCKET_PATH}, or is abstract unasked; EADDRINUSE when somebody
 *   listens there; EEXIST when something other than a socket is there; ENOENT, EACCES as bind(2).
 */
export function listen(path: string, options: ListenOptions = {}): UnixListener {
  const address = socketAddress(path, 'bind', options);
  const { mode = 0o600, backlog = 16 } = options;
  const socket = newSocket();
  try {
    const isFile = !isAbstract(path);
    // A socket's own mode is what bind gives the file, less the umask: at no moment is the file more open than asked for.
    if (isFile) fchmodSync(socket.fd, mode);
    bindReplacingStale(socket.fd, path, address);
    // At once: clients wait for the file to be there, and then connect without another look.
    checked('listen', () => libc.listen(socket.fd, backlog));
    return new UnixListener(path, socket, isFile ? settleFile(path, mode) : undefined);
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
  // An abstract name is nobody's file: it ends with its socket, so that there is nothing stale to replace.
  if (errno !== ERRNO.EADDRINUSE || isAbstract(path)) throw systemError('bind', path, errno);
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
export function connect(path: string, options: AddressOptions = {}): OwnedFd {
  const address = socketAddress(path, 'connect', options);
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

/**
 * struct sockaddr_un: u16 family, then the path and a NUL; for an abstract name a NUL and the name, of which the address's length tells the
 * end. Example: `@vm1` is 01 00 00 76 6d 31, 6 bytes.
 */
function socketAddress(path: string, operation: string, options: AddressOptions): Uint8Array {
  const bytes = new TextEncoder().encode(path);
  const bad = (message: string) => new VfioError('EINVAL', { operation, field: 'path', message });
  if (bytes.length === 0) throw bad('is empty');
  if (bytes.includes(0)) throw bad('holds a NUL byte');
  if (path.startsWith('@') && !options.abstract) throw bad('is an abstract name, which any user may take');
  if (bytes.length > MAX_SOCKET_PATH) throw bad(`${bytes.length} bytes, at most ${MAX_SOCKET_PATH} fit`);
  const end = isAbstract(path) ? 0 : 1;
  const address = new Uint8Array(2 + bytes.length + end);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  if (isAbstract(path)) address[2] = 0;
  return address;
}

function isAbstract(path: string): boolean {
  return path.startsWith('@');
}
