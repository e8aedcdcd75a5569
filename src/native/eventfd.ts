import { readlinkSync } from 'node:fs';
import { OwnedFd } from './file-descriptor.js';
import { checked, libc, uninterrupted } from './libc.js';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
const POLLIN = 1;
const POLLOUT = 4;

/* struct pollfd: i32 fd, i16 events, i16 returned events; the two halves of the second word. */
const pollRequest = new Int32Array(2);
const one = new BigUint64Array([1n]);
const counter = new BigUint64Array(1);

/** A new eventfd, counting from 0, non-blocking. @throws VfioError EMFILE, ENFILE */
export function createEventFd(): OwnedFd {
  return new OwnedFd(checked('eventfd', () => libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
}

/** Whether a descriptor is an eventfd: what a peer sends for an interrupt may be anything. */
export function isEventFd(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]';
  } catch {
    return false;
  }
}

/**
 * Adds 1 to an eventfd. It never throws: an interrupt that cannot be delivered must not harm the device. A counter that is full
 * has a reader that will wake up anyway.
 *
 * The descriptor may be a peer's and blocking. Its mode is shared with the peer, so it is left as it is, and the eventfd is
 * asked first whether it would take the write. A peer that fills the counter of a blocking eventfd to its last value between
 * the question and the write can hold the caller for as long as it keeps it full.

 * @returns whether it was delivered.
 */
export function signalEventFd(fd: number): boolean {
  if (!isReady(fd, POLLOUT)) return false;
  return uninterrupted(() => libc.write(fd, one, 8)) === 8;
}

/**
 * Takes the counter of an eventfd and sets it to 0. It never blocks and never throws.
 * @returns how often it was signalled since the last read; 0 for not at all, or for a descriptor that is not open.
 */
export function readEventFd(fd: number): bigint {
  if (!isReady(fd, POLLIN)) return 0n;
  return uninterrupted(() => libc.read(fd, counter, 8)) === 8 ? counter[0]! : 0n;
}

function isReady(fd: number, event: number): boolean {
  if (fd < 0) return false;
  pollRequest[0] = fd;
  pollRequest[1] = event;
  if (uninterrupted(() => libc.poll(pollRequest, 1, 0)) !== 1) return false;
  return ((pollRequest[1]! >> 16) & event) !== 0;
}
