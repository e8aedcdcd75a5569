import { VfioError } from '../uapi/index.js';
import { bufferAt } from './libc.js';
import { type SharedMapping, WINDOW_SIZE } from './mapping.js';

/**
 * The bytes of a mapping that another thread owns, not copied. Threads that write the same bytes at the same time settle that among themselves.
 * Once the owner has closed the mapping, a view shows zeros and leads nowhere.
 * @throws VfioError EFAULT out of range; EINVAL for more than `WINDOW_SIZE` at a time
 */
export function viewShared(shared: SharedMapping, offset: number, length: number): Uint8Array {
  const bad = (errno: 'EFAULT' | 'EINVAL') =>
    new VfioError(errno, {
      operation: 'view',
      field: 'length',
      message: `${length} bytes at ${offset} of ${shared.length}`,
    });
  const inside = Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && length <= shared.length - offset;
  if (!inside) throw bad('EFAULT');
  if (length > WINDOW_SIZE) throw bad('EINVAL');
  if (length === 0) return new Uint8Array(0);
  return new Uint8Array(bufferAt(shared.address + BigInt(offset), length));
}
