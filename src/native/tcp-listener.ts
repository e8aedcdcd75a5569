import { isIPv4, isIPv6 } from 'node:net';
import { ERRNO, VfioError, viewOf } from '../uapi/index.js';
import { OwnedFd } from './file-descriptor.js';
import { checked, lastErrno, libc, systemError, uninterrupted } from './libc.js';

/*
 * A listening TCP socket as a descriptor. Node's own server gives its connections away only with a way of reading that takes 64 KiB at a time
 * into a buffer of its own each time; over a descriptor a socket can be made that reads into one buffer, as large as one likes.
 *
 * Worked example, struct sockaddr_in of 127.0.0.1:4445, 16 bytes: 02 00 · 11 5d (port, big-endian) · 7f 00 00 01 · 8 bytes 0. struct
 * sockaddr_in6 has 28: family 10, port, flow, 16 bytes of address, scope.
 */

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const BACKLOG = 16;

/** A TCP socket that listens, closed by its owner. */
export class TcpListener {
  readonly #socket: OwnedFd;
  /** Where it listens. */
  readonly port: number;

  private constructor(socket: OwnedFd) {
    this.#socket = socket;
    this.port = portOf(socket.fd);
  }

  /**
   * Begins to listen.
   * @param address IPv4 or IPv6, no name
   * @param port 0: any
   * @throws VfioError EINVAL for no address or port; EADDRINUSE, EADDRNOTAVAIL, EACCES, EMFILE as the system says
   */
  static listen(address: string, port: number): TcpListener {
    const name = socketAddress(address, port);
    const type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    const socket = new OwnedFd(checked('socket', () => libc.socket(viewOf(name).getUint16(0, true), type, 0)));
    try {
      const on = Int32Array.of(1);
      checked('setsockopt', () => libc.setsockopt(socket.fd, SOL_SOCKET, SO_REUSEADDR, on, on.byteLength));
      if (libc.bind(socket.fd, name, name.length) === -1) throw systemError('bind', `${address}:${port}`);
      if (libc.listen(socket.fd, BACKLOG) === -1) throw systemError('listen', `${address}:${port}`);
      return new TcpListener(socket);
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  /** The descriptor, to watch for readability; -1 once closed. */
  get fd(): number {
    return this.#socket.fd;
  }

  /** Idempotent. */
  close(): void {
    this.#socket.close();
  }
}

/**
 * Takes the next connection of a listening socket, non-blocking.
 * @throws VfioError EMFILE or ENFILE when no descriptor is left: the connection then still waits, and the socket stays readable.
 */
export function acceptConnection(listener: number): OwnedFd | 'again' {
  const fd = uninterrupted(() => libc.accept4(listener, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd !== -1) return new OwnedFd(fd);
  const errno = lastErrno();
  if (errno === ERRNO.EAGAIN || errno === ERRNO.ECONNABORTED) return 'again';
  throw systemError('accept', undefined, errno);
}

function portOf(fd: number): number {
  const name = new Uint8Array(28);
  checked('getsockname', () => libc.getsockname(fd, name, Uint32Array.of(name.length)));
  return viewOf(name).getUint16(2);
}

function socketAddress(address: string, port: number): Uint8Array {
  if (!Number.isInteger(port) || port < 0 || port > 65535) throw bad('port', `${port}`);
  if (isIPv4(address)) return inetAddress(address, port);
  if (isIPv6(address) && !address.includes('%')) return inet6Address(address, port);
  throw bad('address', `${address} is neither an IPv4 nor an IPv6 address`);
}

function inetAddress(address: string, port: number): Uint8Array {
  const name = new Uint8Array(16);
  viewOf(name).setUint16(0, AF_INET, true);
  viewOf(name).setUint16(2, port);
  name.set(bytesOfIPv4(address), 4);
  return name;
}

function inet6Address(address: string, port: number): Uint8Array {
  const name = new Uint8Array(28);
  viewOf(name).setUint16(0, AF_INET6, true);
  viewOf(name).setUint16(2, port);
  const [front = '', back] = address.split('::');
  const first = bytesOfGroups(front);
  name.set(first, 8);
  if (back !== undefined) {
    const last = bytesOfGroups(back);
    name.set(last, 8 + 16 - last.length);
  }
  return name;
}

function bytesOfIPv4(address: string): number[] {
  return address.split('.').map(Number);
}

/** Groups of four digits; the last may be an IPv4 address. */
function bytesOfGroups(groups: string): number[] {
  if (groups === '') return [];
  return groups.split(':').flatMap(group => {
    if (group.includes('.')) return bytesOfIPv4(group);
    const value = Number.parseInt(group, 16);
    return [value >>> 8, value & 255];
  });
}

function bad(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'TcpListener', field, message });
}
