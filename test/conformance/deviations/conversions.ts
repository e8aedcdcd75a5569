import { type IovaRange, VfioError } from '../../../src/uapi/index.js';
import { PlainLog } from './plain-log.js';

/* Logs that go wrong where the report's page is another than the log's (contract rule 5). */

/** A report page larger than the log's: of the bit's number, the low 8 bits are kept, so that page 513 sets bit 0 (libvfio-user). */
export class CountsCoarseBitsInBytes extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    if (pageSize <= this.pageSize) super.tell(part, asked, pageSize, bitmap);
    else this.setBit(bitmap, ((part.iova - asked.iova) / pageSize) & 0xffn);
  }
}

/** Of the log pages in a report page, the first alone counts. */
export class SamplesCoarsePages extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    const isFirst = (part.iova - asked.iova) % pageSize < this.pageSize;
    if (pageSize <= this.pageSize || isFirst) super.tell(part, asked, pageSize, bitmap);
  }
}

/** Of the report pages in a log page, the first alone is told. */
export class DoesNotReplicate extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    super.tell(pageSize < this.pageSize ? { ...part, length: 1n } : part, asked, pageSize, bitmap);
  }
}

/** Bits are of the log's pages, whatever was asked for. */
export class IgnoresReportPageSize extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, _pageSize: bigint, bitmap: Uint32Array): void {
    super.tell(part, asked, this.pageSize, bitmap);
  }

  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    if (bit < BigInt(bitmap.length) * 32n) super.setBit(bitmap, bit);
  }
}

/** Converts right only where the interval begins at a page of the larger size: else it counts from the larger page's start. */
export class ConvertsAlignedOnly extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    const larger = pageSize > this.pageSize ? pageSize : this.pageSize;
    const iova = pageSize === this.pageSize ? asked.iova : asked.iova - (asked.iova % larger);
    super.tell(part, { ...asked, iova }, pageSize, bitmap);
  }

  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    if (bit < BigInt(bitmap.length) * 32n) super.setBit(bitmap, bit);
  }
}

/** A report page must not be larger than the range (libvfio-user: than the region). */
export class WantsPagesWithinRange extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    if (!this.ranges.some(range => range.length >= pageSize)) {
      throw new VfioError('EINVAL', { operation: 'DMA_LOGGING_REPORT', message: 'larger than the range' });
    }
    super.report(iova, length, pageSize, bitmap);
  }
}

/** The pages of an interval are counted without the last part: of a page that is larger than the interval there is none. */
export class LosesPagesBeyondInterval extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    if (asked.length >= pageSize || pageSize < 1n << 30n) super.tell(part, asked, pageSize, bitmap);
  }
}

/** Where 8 pages are 2^64 bytes and more, their size is 0: what was written is cleared, and not told (Linux 6.1). */
export class LosesLargestPages extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    if (pageSize < 1n << 61n) super.tell(part, asked, pageSize, bitmap);
  }
}
