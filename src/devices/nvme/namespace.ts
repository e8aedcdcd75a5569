import type { MaybePromise } from '../../memory/index.js';
import { asVfioError } from '../../uapi/index.js';
import type { Disk } from './disk.js';
import { statusOf } from './host-memory.js';
import { NvmeStatus } from './status.js';

/** The one namespace's id. */
export const NAMESPACE_ID = 1;
/** The id that means every namespace. */
export const ALL_NAMESPACES = 0xffff_ffff;

/** The namespace: a disk seen as blocks. Nothing here throws: what the disk fails with becomes a status. */
export class Namespace {
  readonly disk: Disk;
  /** Bytes of a block, a power of two. */
  readonly blockSize: number;
  /** Blocks. */
  readonly blocks: number;

  constructor(disk: Disk, blockSize: number) {
    this.disk = disk;
    this.blockSize = blockSize;
    this.blocks = disk.size / blockSize;
  }

  /** Whether blocks `[first, first + count)` exist. */
  has(first: number, count: number): boolean {
    return first + count <= this.blocks;
  }

  read(first: number, into: Uint8Array): MaybePromise<NvmeStatus> {
    return statusOf(() => this.disk.read(first * this.blockSize, into), readFault);
  }

  write(first: number, from: Uint8Array): MaybePromise<NvmeStatus> {
    return statusOf(() => this.disk.write(first * this.blockSize, from), writeFault);
  }

  zero(first: number, count: number): MaybePromise<NvmeStatus> {
    return statusOf(() => this.disk.zero(first * this.blockSize, count * this.blockSize), writeFault);
  }

  trim(first: number, count: number): MaybePromise<NvmeStatus> {
    return statusOf(() => this.disk.trim(first * this.blockSize, count * this.blockSize), writeFault);
  }

  flush(): MaybePromise<NvmeStatus> {
    return statusOf(() => this.disk.flush(), writeFault);
  }
}

const readFault = () => NvmeStatus.UNRECOVERED_READ_ERROR;

function writeFault(error: unknown): NvmeStatus {
  switch (asVfioError(error, 'write').errno) {
    case 'ENOSPC':
    case 'EFBIG':
      return NvmeStatus.CAPACITY_EXCEEDED;
    case 'EROFS':
    case 'EPERM':
    case 'EACCES':
      return NvmeStatus.NAMESPACE_WRITE_PROTECTED;
    default:
      return NvmeStatus.WRITE_FAULT;
  }
}
