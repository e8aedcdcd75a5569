import { ioctl } from './device-calls.js';
import { OwnedFd } from './file-descriptor.js';
import { checked, libc } from './libc.js';
import { NativeBlock } from './native-block.js';

/*
 * userfaultfd(2), for one purpose: write protection that the kernel takes off by itself at the first write to a page (WP_ASYNC, Linux 6.7).
 * Nobody waits at the descriptor for faults. That a page is no longer protected is the mark that it was written.
 */

const SYS_USERFAULTFD = 323;
/**
 * O_CLOEXEC, O_NONBLOCK, and UFFD_USER_MODE_ONLY, which needs no privilege. The last means faults that somebody would have to answer; those of
 * the kernel's own writes, such as read(2) into the memory, are resolved all the same where the protection is asynchronous.
 */
const FLAGS = 0o2000000 | 0o4000 | 1;
const UFFD_API = 0xaan;
/** For memory files, for pages that are not populated yet, and without anybody who answers. */
const FEATURES = (1n << 12n) | (1n << 13n) | (1n << 15n);
const MODE_WRITE_PROTECT = 2n;
const WRITE_PROTECT = 1n;

const UFFDIO_API = 0xc018aa3f;
const UFFDIO_REGISTER = 0xc020aa00;
const UFFDIO_UNREGISTER = 0x8010aa01;
const UFFDIO_WRITEPROTECT = 0xc018aa06;

/** Asynchronous write protection of intervals of this process's addresses. Addresses and lengths are multiples of 4096. */
export class Userfault {
  readonly #fd: OwnedFd;

  /**
   * @throws VfioError ENOSYS for a kernel without it; EPERM where the process may not (a container's seccomp profile); EINVAL for a kernel
   *   before 6.7, which cannot do it asynchronously; EMFILE, ENOMEM
   */
  constructor() {
    this.#fd = new OwnedFd(checked('userfaultfd', () => libc.syscall(SYS_USERFAULTFD, FLAGS)));
    try {
      this.#ioctl('UFFDIO_API', UFFDIO_API, UFFD_API, FEATURES, 0n);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /**
   * Takes an interval under watch. Nothing is protected yet.
   * @throws VfioError EBUSY when another descriptor, of any thread, watches a part of it; EINVAL where nothing is mapped; EPERM for memory that
   *   cannot be written; ENOMEM
   */
  register(address: number, length: number): void {
    this.#ioctl('UFFDIO_REGISTER', UFFDIO_REGISTER, BigInt(address), BigInt(length), MODE_WRITE_PROTECT, 0n);
  }

  /** Protects all pages of an interval, those that are not there yet too. @throws VfioError ENOENT when it is not registered; ENOMEM */
  protect(address: number, length: number): void {
    this.#ioctl('UFFDIO_WRITEPROTECT', UFFDIO_WRITEPROTECT, BigInt(address), BigInt(length), WRITE_PROTECT);
  }

  /** Takes protection and watch off an interval. @throws VfioError EINVAL where nothing is mapped */
  unregister(address: number, length: number): void {
    this.#ioctl('UFFDIO_UNREGISTER', UFFDIO_UNREGISTER, BigInt(address), BigInt(length));
  }

  #ioctl(name: string, request: number, ...argument: readonly bigint[]): void {
    const block = NativeBlock.from(new Uint8Array(BigUint64Array.from(argument).buffer));
    ioctl(this.#fd.fd, request, block, name);
  }

  /** Ends it, and with it all watches that are left. A second call does nothing. */
  close(): void {
    this.#fd.close();
  }
}
