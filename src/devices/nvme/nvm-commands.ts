import type { MaybePromise } from '../../memory/index.js';
import { viewOf } from '../../uapi/index.js';
import { andThen, type HostMemory } from './host-memory.js';
import { ALL_NAMESPACES, NAMESPACE_ID, type Namespace } from './namespace.js';
import { NvmOpcode } from './opcodes.js';
import { MAX_TRANSFER_SIZE } from './registers.js';
import type { Request } from './request.js';
import type { NvmeStatistics } from './statistics.js';
import { NvmeStatus } from './status.js';

/** Dword 12 of commands about blocks: force unit access, what is written or read must be durable before the command completes. */
const FORCE_UNIT_ACCESS = 0x4000_0000;
/** Dword 12 of Write: the directive type; this controller has none. */
const DIRECTIVE_TYPE = 0x00f0_0000;
/** Dword 11 of Dataset Management: deallocate. */
const DEALLOCATE = 0x4;
/** A range of Dataset Management: u32 attributes, u32 blocks, u64 first block. */
const RANGE_SIZE = 16;

/** What of the controller's features the NVM commands ask. */
export interface WriteCacheSetting {
  /** Whether a write may complete before it is durable. */
  readonly isWriteCacheEnabled: boolean;
}

/**
 * The NVM command set on one namespace (NVMe 1.4, section 6). Every command gives its status and never throws; nothing on the disk changes unless
 * all that the host said was right.
 */
export class NvmCommands {
  readonly #namespace: Namespace;
  readonly #host: HostMemory;
  readonly #cache: WriteCacheSetting;
  readonly #statistics: NvmeStatistics;

  constructor(namespace: Namespace, host: HostMemory, cache: WriteCacheSetting, statistics: NvmeStatistics) {
    this.#namespace = namespace;
    this.#host = host;
    this.#cache = cache;
    this.#statistics = statistics;
  }

  /** Does a command that came through an I/O queue. */
  execute(request: Request): MaybePromise<NvmeStatus> {
    switch (request.opcode) {
      case NvmOpcode.READ:
        return this.#read(request);
      case NvmOpcode.WRITE:
        return this.#write(request);
      case NvmOpcode.FLUSH:
        return this.#flush(request);
      case NvmOpcode.COMPARE:
        return this.#compare(request);
      case NvmOpcode.WRITE_ZEROES:
        return this.#writeZeroes(request);
      case NvmOpcode.DATASET_MANAGEMENT:
        return this.#manageDataset(request);
      default:
        return NvmeStatus.INVALID_OPCODE;
    }
  }

  /** Section 6.9. */
  #read(request: Request): MaybePromise<NvmeStatus> {
    const invalid = this.#checkData(request);
    if (invalid !== NvmeStatus.SUCCESS) return invalid;
    const data = this.#dataOf(request);
    const read = () => andThen(this.#readBlocks(request, data), () => this.#host.write(request, data));
    return andThen(andThen(this.#host.locate(request, data.length), read), () => this.#countRead(data.length));
  }

  /** With force unit access, what is about to be read is made durable first. */
  #readBlocks(request: Request, into: Uint8Array): MaybePromise<NvmeStatus> {
    const read = () => this.#namespace.read(request.startingBlock, into);
    return isForced(request) ? andThen(this.#namespace.flush(), read) : read();
  }

  /** Section 6.15. */
  #write(request: Request): MaybePromise<NvmeStatus> {
    const invalid = this.#checkData(request);
    if (invalid !== NvmeStatus.SUCCESS) return invalid;
    if ((request.dword(12) & DIRECTIVE_TYPE) !== 0) return NvmeStatus.INVALID_FIELD;
    if (this.#namespace.disk.readOnly) return NvmeStatus.NAMESPACE_WRITE_PROTECTED;
    const data = this.#dataOf(request);
    const write = () => this.#settle(request, this.#namespace.write(request.startingBlock, data));
    return andThen(andThen(this.#host.take(request, data), write), () => this.#countWritten(data.length));
  }

  /** Section 6.8. */
  #flush(request: Request): MaybePromise<NvmeStatus> {
    const { namespaceId } = request;
    if (namespaceId !== NAMESPACE_ID && namespaceId !== ALL_NAMESPACES) return NvmeStatus.INVALID_NAMESPACE;
    return andThen(this.#namespace.flush(), () => {
      this.#statistics.flushes++;
      return NvmeStatus.SUCCESS;
    });
  }

  /** Section 6.6: the host's data comes first, then the disk's into what is left of the buffer. */
  #compare(request: Request): MaybePromise<NvmeStatus> {
    const invalid = this.#checkData(request);
    if (invalid !== NvmeStatus.SUCCESS) return invalid;
    const length = blocksOf(request) * this.#namespace.blockSize;
    const both = request.data(2 * length);
    const expected = both.subarray(0, length);
    const stored = both.subarray(length);
    const compare = () =>
      andThen(this.#readBlocks(request, stored), () =>
        Buffer.compare(expected, stored) === 0 ? this.#countRead(length) : NvmeStatus.COMPARE_FAILURE,
      );
    return andThen(this.#host.take(request, expected), compare);
  }

  /** Section 6.16. No data moves, so that it may be longer than a transfer. */
  #writeZeroes(request: Request): MaybePromise<NvmeStatus> {
    const invalid = this.#checkBlocks(request);
    if (invalid !== NvmeStatus.SUCCESS) return invalid;
    if (this.#namespace.disk.readOnly) return NvmeStatus.NAMESPACE_WRITE_PROTECTED;
    return this.#settle(request, this.#namespace.zero(request.startingBlock, blocksOf(request)));
  }

  /** Section 6.7. Only "deallocate" has an effect; the other attributes are hints. */
  #manageDataset(request: Request): MaybePromise<NvmeStatus> {
    if (request.namespaceId !== NAMESPACE_ID) return NvmeStatus.INVALID_NAMESPACE;
    const ranges = request.data(((request.dword(10) & 0xff) + 1) * RANGE_SIZE);
    return andThen(this.#host.take(request, ranges), () => {
      if (!this.#hasRanges(ranges)) return NvmeStatus.LBA_OUT_OF_RANGE;
      if ((request.dword(11) & DEALLOCATE) === 0) return NvmeStatus.SUCCESS;
      if (this.#namespace.disk.readOnly) return NvmeStatus.NAMESPACE_WRITE_PROTECTED;
      return this.#trim(ranges, 0);
    });
  }

  #hasRanges(ranges: Uint8Array): boolean {
    for (let at = 0; at < ranges.length; at += RANGE_SIZE) {
      const { first, count } = rangeAt(ranges, at);
      if (!this.#namespace.has(first, count)) return false;
    }
    return true;
  }

  #trim(ranges: Uint8Array, at: number): MaybePromise<NvmeStatus> {
    if (at === ranges.length) return NvmeStatus.SUCCESS;
    const { first, count } = rangeAt(ranges, at);
    return andThen(this.#namespace.trim(first, count), () => this.#trim(ranges, at + RANGE_SIZE));
  }

  /** A write is durable before it completes if the command asks for it, or the write cache is off by the time that it is written. */
  #settle(request: Request, written: MaybePromise<NvmeStatus>): MaybePromise<NvmeStatus> {
    return andThen(written, () =>
      isForced(request) || !this.#cache.isWriteCacheEnabled ? this.#namespace.flush() : NvmeStatus.SUCCESS,
    );
  }

  #checkData(request: Request): NvmeStatus {
    const invalid = this.#checkBlocks(request);
    if (invalid !== NvmeStatus.SUCCESS) return invalid;
    const length = blocksOf(request) * this.#namespace.blockSize;
    return length <= MAX_TRANSFER_SIZE ? NvmeStatus.SUCCESS : NvmeStatus.INVALID_FIELD;
  }

  #checkBlocks(request: Request): NvmeStatus {
    if (request.namespaceId !== NAMESPACE_ID) return NvmeStatus.INVALID_NAMESPACE;
    return this.#namespace.has(request.startingBlock, blocksOf(request))
      ? NvmeStatus.SUCCESS
      : NvmeStatus.LBA_OUT_OF_RANGE;
  }

  #dataOf(request: Request): Uint8Array {
    return request.data(blocksOf(request) * this.#namespace.blockSize);
  }

  #countRead(bytes: number): NvmeStatus {
    this.#statistics.readCommands++;
    this.#statistics.bytesRead += bytes;
    return NvmeStatus.SUCCESS;
  }

  #countWritten(bytes: number): NvmeStatus {
    this.#statistics.writeCommands++;
    this.#statistics.bytesWritten += bytes;
    return NvmeStatus.SUCCESS;
  }
}

function isForced(request: Request): boolean {
  return (request.dword(12) & FORCE_UNIT_ACCESS) !== 0;
}

/** Number of logical blocks: dword 12's low half, which says one less. */
function blocksOf(request: Request): number {
  return (request.dword(12) & 0xffff) + 1;
}

function rangeAt(ranges: Uint8Array, at: number): { first: number; count: number } {
  const view = viewOf(ranges);
  return {
    count: view.getUint32(at + 4, true),
    // Beyond 2^53 it is rounded, which is far beyond any disk.
    first: view.getUint32(at + 12, true) * 2 ** 32 + view.getUint32(at + 8, true),
  };
}
