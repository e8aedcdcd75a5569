import type { DmaPort } from '../../device/index.js';
import type { MaybePromise } from '../../memory/index.js';
import type { DataSegments } from './prp.js';
import type { Request } from './request.js';
import { NvmeStatus } from './status.js';

/** Goes on with `next` once `status` is there and is success; any other status is the answer. */
export function andThen(
  status: MaybePromise<NvmeStatus>,
  next: () => MaybePromise<NvmeStatus>,
): MaybePromise<NvmeStatus> {
  if (status instanceof Promise) return status.then(value => (value === NvmeStatus.SUCCESS ? next() : value));
  return status === NvmeStatus.SUCCESS ? next() : status;
}

/** Does `work`; whatever it throws, or rejects with, becomes the status that `fault` makes of it. */
export function statusOf(
  // biome-ignore lint/suspicious/noConfusingVoidType: what a disk or a DMA gives when it is done
  work: () => MaybePromise<NvmeStatus | void>,
  fault: (error: unknown) => NvmeStatus,
): MaybePromise<NvmeStatus> {
  try {
    const done = work();
    if (done instanceof Promise) return done.then(status => status ?? NvmeStatus.SUCCESS, fault);
    return done ?? NvmeStatus.SUCCESS;
  } catch (error) {
    return fault(error);
  }
}

const transferError = () => NvmeStatus.DATA_TRANSFER_ERROR;

/** A command's data in host memory. Nothing here throws: a DMA that fails is DATA_TRANSFER_ERROR. */
export class HostMemory {
  /** Memory page size (CC.MPS), bytes. */
  pageSize = 4096;
  readonly #dma: DmaPort;

  constructor(dma: DmaPort) {
    this.#dma = dma;
  }

  /** Finds where `length` bytes of the command's data lie. */
  locate(request: Request, length: number): MaybePromise<NvmeStatus> {
    const { segments, prp1, prp2 } = request;
    return statusOf(() => segments.locate(this.#dma, prp1, prp2, length, this.pageSize), transferError);
  }

  /** Writes data that has been located. */
  write(request: Request, data: Uint8Array): MaybePromise<NvmeStatus> {
    return statusOf(() => this.#move(request.segments, data, 0, 0, 'write'), transferError);
  }

  /** Reads data that has been located. */
  read(request: Request, into: Uint8Array): MaybePromise<NvmeStatus> {
    return statusOf(() => this.#move(request.segments, into, 0, 0, 'read'), transferError);
  }

  /** Locates and writes all of `data`. */
  give(request: Request, data: Uint8Array): MaybePromise<NvmeStatus> {
    return andThen(this.locate(request, data.length), () => this.write(request, data));
  }

  /** Locates and reads all of `into`. */
  take(request: Request, into: Uint8Array): MaybePromise<NvmeStatus> {
    return andThen(this.locate(request, into.length), () => this.read(request, into));
  }

  /** Moves the segments from `index` on, which begin at byte `from` of `data`: without a promise for as long as none is needed. */
  #move(
    segments: DataSegments,
    data: Uint8Array,
    index: number,
    from: number,
    direction: 'read' | 'write',
  ): MaybePromise<void> {
    let at = from;
    for (let segment = index; segment < segments.count; segment++) {
      const length = segments.lengths[segment]!;
      const bytes = length === data.length ? data : data.subarray(at, at + length);
      const moved = this.#dma[direction](segments.addresses[segment]!, bytes);
      at += length;
      if (moved !== undefined) return moved.then(() => this.#move(segments, data, segment + 1, at, direction));
    }
    return undefined;
  }
}
