import { viewOf } from '../uapi/index.js';
import { checked, libc } from './libc.js';

const F_OFD_SETLK = 37;
/** `struct flock`: i16 type, i16 whence, 4 bytes of padding, i64 start, i64 length (0: to the end, wherever that is), i32 pid (0). */
const FLOCK_SIZE = 32;
const LOCK_TYPES = { shared: 0, exclusive: 1 } as const;

/**
 * Locks the whole file behind a descriptor, until it is closed (fcntl(2), "open file description locks"): against others who lock, in this process
 * or any other. Nobody is kept from reading or writing by it. The system takes the lock away with the process, however that ends.
 *
 * @param how `'exclusive'` (the descriptor can write): no other lock beside it; `'shared'` (it can read): none that is exclusive
 * @throws VfioError EAGAIN when somebody has a lock that excludes this one; EBADF for a descriptor that cannot do what the lock is for
 */
export function lockFile(fd: number, how: keyof typeof LOCK_TYPES): void {
  const lock = new Uint8Array(FLOCK_SIZE);
  viewOf(lock).setInt16(0, LOCK_TYPES[how], true);
  checked('lock', () => libc.fcntlAt(fd, F_OFD_SETLK, lock));
}
