import { fileSize, isShrinkSealed, Mapping, type MappingRights, type OwnedFd } from '../native/index.js';
import { VfioError } from '../uapi/index.js';
import { releaseMapping, reserveMapping } from './mapping-budget.js';

/** A memory file of a peer, mapped here: only one that can never shrink, and only within what peers may map. */
export class PeerMapping {
  readonly mapping: Mapping;
  #closed = false;

  /**
   * Maps `length` bytes of a file from `offset` on and closes the descriptor, which the mapping does not need: the number of
   * mappings is then not bounded by the number of descriptors.
   * @param file owned by this call from now on, whether it succeeds or throws.
   * @param operation what errors call it.
   * @throws VfioError EINVAL when the file is not sealed against shrinking, is too short, or `offset` is no multiple of 4096;
   *   EACCES when it was opened for less than `rights`; ENOMEM when peers have as many mappings as they may; ENOMEM, EPERM as mmap(2).
   */
  constructor(file: OwnedFd, offset: bigint, length: bigint, rights: MappingRights, operation = 'DMA_MAP') {
    try {
      requireMappable(file.fd, offset, length, operation);
      this.mapping = mapWithinBudget(file.fd, offset, Number(length), rights);
    } finally {
      file.close();
    }
  }

  /** Ends the mapping; a second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    releaseMapping(this.mapping.length);
    this.mapping.close();
  }
}

function mapWithinBudget(fd: number, offset: bigint, length: number, rights: MappingRights): Mapping {
  reserveMapping(length);
  try {
    return Mapping.map(fd, offset, length, rights);
  } catch (error) {
    releaseMapping(length);
    throw error;
  }
}

/** @throws VfioError EINVAL unless a file can never shrink, and as {@link requireInside} */
export function requireMappable(fd: number, offset: bigint, length: bigint, operation: string): void {
  if (!isShrinkSealed(fd)) {
    throw refused(operation, 'fd', 'the file may shrink, and would take the process with it');
  }
  requireInside(fd, offset, length, operation);
}

/** @throws VfioError EINVAL unless a file holds `length` bytes, 1 or more, from `offset` on, all below 2^53. */
export function requireInside(fd: number, offset: bigint, length: bigint, operation: string): void {
  const size = fileSize(fd);
  if (offset < 0n || length < 1n || offset + length > size) {
    throw refused(operation, 'size', `${length} bytes at offset ${offset} of a file of ${size}`);
  }
  if (offset + length > BigInt(Number.MAX_SAFE_INTEGER)) throw refused(operation, 'offset', 'beyond 2^53');
}

function refused(operation: string, field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation, field, message });
}
