import {
  accessOf,
  fdKind,
  isShrinkSealed,
  type Mapping,
  type MappingRights,
  type OwnedFd,
  readAt,
  writeAt,
} from '../native/index.js';
import { VfioError } from '../uapi/index.js';
import { hasMappingRoom } from './mapping-budget.js';
import type { MaybePromise } from './maybe-promise.js';
import { PeerMapping, requireInside } from './peer-mapping.js';

/**
 * How the bytes of one DMA region are reached. Offsets count from the region's start, in bytes; the map of IOVA has checked
 * range and rights before it asks, and never asks for 0 bytes.
 */
export interface Backing {
  /** `'mapped'`: in this process's memory. `'file'`: by pread and pwrite. `'message'`: the peer is asked. */
  readonly kind: 'mapped' | 'file' | 'message';
  /** Fills `into`. @throws VfioError (or rejects) when the bytes cannot be had. */
  read(offset: number, into: Uint8Array): MaybePromise<void>;
  /** Writes all of `from`. @throws VfioError (or rejects) when that fails; a part may have been written then. */
  write(offset: number, from: Uint8Array): MaybePromise<void>;
  /** Lets go of what the backing holds. A second call does nothing; it never throws. */
  close(): void;
}

/** Memory of a file that cannot shrink, mapped here: the fastest way. */
export class MappedBacking implements Backing {
  readonly kind = 'mapped';
  readonly #peer: PeerMapping;
  readonly #mapping: Mapping;

  /** Maps as {@link PeerMapping}, which see for what it throws. */
  constructor(file: OwnedFd, offset: bigint, length: bigint, rights: MappingRights) {
    this.#peer = new PeerMapping(file, offset, length, rights);
    this.#mapping = this.#peer.mapping;
  }

  read(offset: number, into: Uint8Array): void {
    this.#mapping.read(offset, into);
  }

  write(offset: number, from: Uint8Array): void {
    this.#mapping.write(offset, from);
  }

  close(): void {
    this.#peer.close();
  }
}

/**
 * Memory of a file that may shrink: one system call for each access, and a lost part is an error instead of a signal. An
 * access may take as long as the file's file system takes.
 */
export class FileBacking implements Backing {
  readonly kind = 'file';
  readonly #file: OwnedFd;
  readonly #start: number;

  /**
   * @param file owned by the backing from now on; closed at once when this throws.
   * @throws VfioError EINVAL when it is not a regular file, is too short, or appends (pwrite would ignore the offset); EACCES
   *   when it was opened for less than `rights`.
   */
  constructor(file: OwnedFd, offset: bigint, length: bigint, rights: MappingRights) {
    try {
      if (fdKind(file.fd) !== 'file') throw refused('fd', `a ${fdKind(file.fd)} is not memory`);
      requireInside(file.fd, offset, length, 'DMA_MAP');
      requireAccess(file.fd, rights);
    } catch (error) {
      file.close();
      throw error;
    }
    this.#file = file;
    this.#start = Number(offset);
  }

  /** @throws VfioError EIO when the file no longer reaches so far; EBADF when closed. */
  read(offset: number, into: Uint8Array): void {
    const count = readAt(this.#file.fd, this.#start + offset, into);
    if (count < into.length) {
      const message = `the file ends ${into.length - count} bytes too early`;
      throw new VfioError('EIO', { operation: 'pread', field: 'offset', message });
    }
  }

  /** @throws VfioError as pwrite(2); EBADF when closed. */
  write(offset: number, from: Uint8Array): void {
    writeAt(this.#file.fd, this.#start + offset, from);
  }

  close(): void {
    this.#file.close();
  }
}

/**
 * The backing for a file that a peer sent: mapped if it can never shrink and peers have not too many mappings yet, else by pread and pwrite
 * (vfio-user 0.9.x DMA_MAP).
 * @param file owned by the backing from now on; closed when this throws.
 * @param offset where the region begins in the file, bytes.
 * @param length of the region, bytes.
 * @throws VfioError as {@link MappedBacking} or {@link FileBacking}.
 */
export function backingFor(file: OwnedFd, offset: bigint, length: bigint, rights: MappingRights): Backing {
  return shrinkSealedOrClose(file) && hasMappingRoom(Number(length))
    ? new MappedBacking(file, offset, length, rights)
    : new FileBacking(file, offset, length, rights);
}

function shrinkSealedOrClose(file: OwnedFd): boolean {
  try {
    return isShrinkSealed(file.fd);
  } catch (error) {
    file.close();
    throw error;
  }
}

function requireAccess(fd: number, rights: MappingRights): void {
  const access = accessOf(fd);
  if ((rights.read && !access.readable) || (rights.write && !access.writable)) {
    const message = 'the descriptor was opened for less than the region asks for';
    throw new VfioError('EACCES', { operation: 'DMA_MAP', field: 'flags', message });
  }
  if (rights.write && access.append) throw refused('fd', 'the descriptor appends, whatever the offset');
}

function refused(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'DMA_MAP', field, message });
}
