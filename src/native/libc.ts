import koffi from 'koffi';
import { ERRNO, errnoName, VfioError } from '../uapi/index.js';

/*
 * The C library. Every call of the project is declared here; numbers are those of Linux on x86-64.
 *
 * Pointers that a call only reads or fills are passed as typed arrays, which koffi hands over without a copy. `ssize_t` and
 * `off_t` are spelled int64_t, because koffi has no `ssize_t`. The library is searched in the process itself, so that the
 * same build runs on glibc and on musl.
 */

const library = koffi.load(null);

type Bytes = ArrayBufferView;
type Integer = number | bigint;

function declare<Call>(prototype: string): Call {
  return library.func(prototype) as unknown as Call;
}

type Answer = (error: unknown, result: number) => void;

/** A call that another thread can make as well: one of libuv's pool, which hands the result to the callback. */
interface AnyThread<Parameters extends unknown[]> {
  (...parameters: Parameters): number;
  async(...parametersAndAnswer: [...Parameters, Answer]): void;
}

/** The declared calls, raw: -1 means failure, and errno is then read by {@link systemError}. */
export const libc = {
  close: declare<(fd: number) => number>('int close(int fd)'),
  // Variadic in C; the third argument is spelled out, which x86-64's calling convention allows.
  fcntl: declare<(fd: number, command: number, argument: number) => number>(
    'int fcntl(int fd, int command, int64_t argument)',
  ),
  // The same call with a structure as third argument.
  fcntlAt: declare<(fd: number, command: number, argument: Bytes) => number>(
    'int fcntl(int fd, int command, void *argument)',
  ),
  // For system calls that the library has no function for.
  syscall: declare<(number: number, argument: number) => number>('int64_t syscall(int64_t number, int64_t argument)'),
  memfdCreate: declare<(name: string, flags: number) => number>(
    'int memfd_create(const char *name, unsigned int flags)',
  ),
  ftruncate: declare<(fd: number, size: Integer) => number>('int ftruncate64(int fd, int64_t size)'),
  pread: declare<(fd: number, into: Bytes, count: number, offset: Integer) => number>(
    'int64_t pread64(int fd, void *into, size_t count, int64_t offset)',
  ),
  pwrite: declare<(fd: number, from: Bytes, count: number, offset: Integer) => number>(
    'int64_t pwrite64(int fd, const void *from, size_t count, int64_t offset)',
  ),
  read: declare<(fd: number, into: Bytes, count: number) => number>('int64_t read(int fd, void *into, size_t count)'),
  write: declare<(fd: number, from: Bytes, count: number) => number>(
    'int64_t write(int fd, const void *from, size_t count)',
  ),
  mmap: declare<
    (address: bigint, length: number, protection: number, flags: number, fd: number, offset: Integer) => bigint
  >('void *mmap64(void *address, size_t length, int protection, int flags, int fd, int64_t offset)'),
  mlock: declare<(address: bigint, length: number) => number>('int mlock(void *address, size_t length)'),
  madvise: declare<(address: bigint, length: number, advice: number) => number>(
    'int madvise(void *address, size_t length, int advice)',
  ),
  munmap: declare<(address: bigint, length: number) => number>('int munmap(void *address, size_t length)'),
  // Variadic in C, as fcntl. By address: what another thread may be given has a fixed place. The same holds for the transfers below.
  ioctl: declare<AnyThread<[fd: number, request: number, address: number]>>(
    'int ioctl(int fd, uint64_t request, uintptr_t address)',
  ),
  preadAt: declare<AnyThread<[fd: number, address: number, count: number, offset: number]>>(
    'int64_t pread64(int fd, uintptr_t address, size_t count, int64_t offset)',
  ),
  pwriteAt: declare<AnyThread<[fd: number, address: number, count: number, offset: number]>>(
    'int64_t pwrite64(int fd, uintptr_t address, size_t count, int64_t offset)',
  ),
  readTo: declare<AnyThread<[fd: number, address: number, count: number]>>(
    'int64_t read(int fd, uintptr_t address, size_t count)',
  ),
  writeFrom: declare<AnyThread<[fd: number, address: number, count: number]>>(
    'int64_t write(int fd, uintptr_t address, size_t count)',
  ),
  socket: declare<(domain: number, type: number, protocol: number) => number>(
    'int socket(int domain, int type, int protocol)',
  ),
  socketpair: declare<(domain: number, type: number, protocol: number, pair: Int32Array) => number>(
    'int socketpair(int domain, int type, int protocol, void *pair)',
  ),
  bind: declare<(fd: number, address: Bytes, length: number) => number>(
    'int bind(int fd, const void *address, uint32_t length)',
  ),
  listen: declare<(fd: number, backlog: number) => number>('int listen(int fd, int backlog)'),
  connect: declare<(fd: number, address: Bytes, length: number) => number>(
    'int connect(int fd, const void *address, uint32_t length)',
  ),
  accept4: declare<(fd: number, address: null, length: null, flags: number) => number>(
    'int accept4(int fd, void *address, void *length, int flags)',
  ),
  send: declare<(fd: number, from: Bytes, count: number, flags: number) => number>(
    'int64_t send(int fd, const void *from, size_t count, int flags)',
  ),
  // By address, and with counts of 32 bits, which every message fits: a call takes 120 ns so, and 270 with a typed array.
  sendAt: declare<(fd: number, address: number, count: number, flags: number) => number>(
    'int send(int fd, uintptr_t address, uint32_t count, int flags)',
  ),
  sendmsg: declare<(fd: number, message: number, flags: number) => number>(
    'int sendmsg(int fd, uintptr_t message, int flags)',
  ),
  recvmsg: declare<(fd: number, message: number, flags: number) => number>(
    'int recvmsg(int fd, uintptr_t message, int flags)',
  ),
  setsockopt: declare<(fd: number, level: number, option: number, value: Bytes, length: number) => number>(
    'int setsockopt(int fd, int level, int option, const void *value, uint32_t length)',
  ),
  getsockname: declare<(fd: number, address: Bytes, length: Uint32Array) => number>(
    'int getsockname(int fd, void *address, void *length)',
  ),
  shutdown: declare<(fd: number, how: number) => number>('int shutdown(int fd, int how)'),
  eventfd: declare<(initial: number, flags: number) => number>('int eventfd(unsigned int initial, int flags)'),
  poll: declare<(fds: Bytes, count: number, timeoutMs: number) => number>(
    'int poll(void *fds, uint64_t count, int timeout)',
  ),
  epollCreate: declare<(flags: number) => number>('int epoll_create1(int flags)'),
  epollControl: declare<(epoll: number, operation: number, fd: number, event: Bytes) => number>(
    'int epoll_ctl(int epoll, int operation, int fd, void *event)',
  ),
};

/** errno of the last failed call, as a number. Read it before any other call. */
export function lastErrno(): number {
  return koffi.errno();
}

/** The last failed call as an error: errno by name, the call as operation. A number without a name stands in the message. */
export function systemError(operation: string, message?: string, number: number = lastErrno()): VfioError {
  const errno = errnoName(number);
  const known = ERRNO[errno] === number;
  const parts = [message, known ? undefined : `errno ${number}`].filter(part => part !== undefined);
  return new VfioError(errno, { operation, message: parts.join(', ') });
}

/**
 * Runs a call until a signal no longer interrupts it.
 * @returns the call's result; -1 when it failed with anything but EINTR, with errno untouched.
 */
export function uninterrupted(attempt: () => number): number {
  for (;;) {
    const result = attempt();
    if (result !== -1 || lastErrno() !== ERRNO.EINTR) return result;
  }
}

/**
 * {@link uninterrupted}, and failure thrown.
 * @throws VfioError with errno and the call as operation.
 */
export function checked(operation: string, attempt: () => number): number {
  const result = uninterrupted(attempt);
  if (result === -1) throw systemError(operation);
  return result;
}

/** Address of a buffer's first byte. It does not keep the buffer alive: hold the buffer for as long as the address is used. */
export function addressOfBytes(bytes: Bytes): bigint {
  return koffi.address(bytes);
}

/** Memory at an address as an ArrayBuffer, not copied. Above 4 GiB this aborts the process on Node 20. */
export function bufferAt(address: bigint, length: number): ArrayBuffer {
  return koffi.view(address, length);
}
