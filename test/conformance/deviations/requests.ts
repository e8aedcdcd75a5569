import type { UserMemory } from '../../../src/device/index.js';
import {
  bitmapBytes,
  decodeRanges,
  decodeReportInline,
  encodeFeatureRequest,
  isPowerOfTwo,
  type Profile,
  RANGE_SIZE,
  VfioError,
  viewOf,
} from '../../../src/uapi/index.js';
import { dataOf, kindOf, PlainDevice, refusal, WHOLE_SPACE } from './plain-device.js';

/* Devices that read requests otherwise than the contract says. */

/** Flag bits that nobody knows are not looked at. */
export class IgnoresUnknownFlags extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    return super.request(
      withFlags(message, flags => flags & 0x7ffff),
      profile,
      memory,
    );
  }
}

/** GET together with SET is taken as SET. */
export class TakesGetWithSet extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const both = 0x30000;
    const change = (flags: number) => ((flags & 0x70000) === both ? flags & ~0x10000 : flags);
    return super.request(withFlags(message, change), profile, memory);
  }
}

/** A feature that it does not have is EINVAL where it should be ENOTTY. */
export class AnswersUnknownFeatureWrongly extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    return super.request(message, profile, memory).catch(error => {
      throw errnoOf(error) === 'ENOTTY' ? refusal('EINVAL', 'what is that?') : error;
    });
  }
}

/** A PROBE of START that comes with START's data starts. */
export class StartsOnProbe extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const started = withFlags(message, flags => flags & ~0x40000);
    const isProbe = kindOf(message, profile) === undefined && kindOf(started, profile) === 'start';
    if (isProbe && message.length > 8) await super.request(started, profile, memory);
    return super.request(message, profile, memory);
  }
}

/** START with anything in the reserved field is refused. */
export class WantsReservedZero extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const isStart = kindOf(message, profile) === 'start' && message.length >= 24;
    if (isStart && dataOf(message).getUint32(12, true) !== 0) throw refusal('EINVAL', 'reserved');
    return super.request(message, profile, memory);
  }
}

/** argsz is not looked at. */
export class IgnoresArgsz extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const copy = message.slice();
    if (copy.length >= 8) viewOf(copy).setUint32(0, 1 << 24, true);
    return super.request(copy, profile, memory);
  }
}

/** A report that is refused has emptied the log. */
export class ClearsOnRefusedReport extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    return super.request(message, profile, memory).catch(error => {
      if (kindOf(message, profile) === 'report') this.log.forget(WHOLE_SPACE);
      throw error;
    });
  }
}

/** A report whose bitmap cannot be written succeeds, and what it would have told is lost (Linux 6.12 and later). */
export class LosesLogWithBitmap extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report') return super.request(message, profile, memory);
    return super.request(message, profile, {
      at(address, length) {
        try {
          return memory.at(address, length);
        } catch {
          return new Uint8Array(length);
        }
      },
    });
  }
}

/** The bitmap is taken to begin at a multiple of 8 (iova_bitmap, once). */
export class AlignsBitmapDown extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report') return super.request(message, profile, memory);
    return super.request(message, profile, { at: (address, length) => memory.at(address & ~7n, length) });
  }
}

/** What is wrong with START's ranges is not looked at: what was refused for the reason given, is started after all. */
class TakesRanges extends PlainDevice {
  readonly #forgiven: (error: VfioError, ranges: number) => boolean;

  constructor(forgiven: (error: VfioError, ranges: number) => boolean) {
    super();
    this.#forgiven = forgiven;
  }

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    try {
      return await super.request(message, profile, memory);
    } catch (error) {
      if (kindOf(message, profile) !== 'start' || this.log.active || !(error instanceof VfioError)) throw error;
      const data = dataOf(message);
      if (message.length < 24 || !this.#forgiven(error, data.getUint32(8, true))) throw error;
      const ranges = decodeRanges(this.#rangeBytes(data, profile, memory), data.getUint32(8, true));
      const inSpace = ranges.filter(({ iova, length }) => iova + length < 1n << 64n);
      const page = { iova: 0n, length: 4096n };
      this.log.start(data.getBigUint64(0, true) || 4096n, inSpace.length > 0 ? inSpace : [page]);
      return message;
    }
  }

  #rangeBytes(data: DataView, profile: Profile, memory: UserMemory): Uint8Array {
    const size = data.getUint32(8, true) * RANGE_SIZE;
    if (profile.pointers) return size === 0 ? new Uint8Array(0) : memory.at(data.getBigUint64(16, true), size);
    return new Uint8Array(data.buffer, data.byteOffset + 16, size);
  }
}

/** Ranges that overlap. */
export class TakesOverlaps extends TakesRanges {
  constructor() {
    super(error => error.message.includes('overlap'));
  }
}

/** Ranges that are not aligned to the page size. */
export class TakesUnaligned extends TakesRanges {
  constructor() {
    super(error => error.message.includes('aligned'));
  }
}

/** Ranges that reach 2^64. */
export class TakesOverflow extends TakesRanges {
  constructor() {
    super(error => error.errno === 'EOVERFLOW');
  }
}

/** More ranges than 256. */
export class TakesTooManyRanges extends TakesRanges {
  constructor() {
    super(error => error.errno === 'E2BIG');
  }
}

/** No ranges. */
export class TakesNoRanges extends TakesRanges {
  constructor() {
    super((_error, ranges) => ranges === 0);
  }
}

/** A page size of 0. */
export class TakesPageSize0 extends TakesRanges {
  constructor() {
    super(error => error.field === 'page_size' || error.message.includes('page size'));
  }
}

/** No ranges are refused, where they mean everything. */
export class RefusesEverything extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const isStart = kindOf(message, profile) === 'start' && message.length >= 24;
    if (isStart && dataOf(message).getUint32(8, true) === 0) throw refusal('EINVAL', 'no ranges');
    return super.request(message, profile, memory);
  }
}

/** A report's page size is rounded to one that works, where it should be refused. */
export class TakesAnyReportPage extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report' || message.length < 32) return super.request(message, profile, memory);
    const copy = message.slice();
    const pageSize = dataOf(copy).getBigUint64(16, true);
    if (pageSize > 0n && !isPowerOfTwo(pageSize)) dataOf(copy).setBigUint64(16, 1n << 40n, true);
    return super.request(copy, profile, memory);
  }
}

/** A report's page size below 4096 counts as 4096. */
export class TakesSmallReportPages extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report' || message.length < 32) return super.request(message, profile, memory);
    const copy = message.slice();
    const pageSize = dataOf(copy).getBigUint64(16, true);
    if (isPowerOfTwo(pageSize) && pageSize < 4096n) dataOf(copy).setBigUint64(16, 4096n, true);
    return super.request(copy, profile, memory);
  }
}

/** A report of what is not logged is answered with zeros, also where nothing is logged at all (mtty). */
export class ReportsWithoutStart extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    return super.request(message, profile, memory).catch(error => {
      if (kindOf(message, profile) !== 'report' || !String(error).includes('not started')) throw error;
      return reportOfNothing(message, profile);
    });
  }
}

/** Takes every request, and does nothing (mtty). */
export class DoesNothing extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    return super.request(message, profile, memory).then(
      reply => {
        this.log.forget(WHOLE_SPACE);
        return reply;
      },
      error => {
        if (!/started/.test(String(error)) || kindOf(message, profile) === undefined) throw error;
        return kindOf(message, profile) === 'report' ? reportOfNothing(message, profile) : message;
      },
    );
  }

  override dmaWrite(): void {}
}

/** A report over two ranges succeeds, and brings no bitmap (libvfio-user). */
export class AnswersTwoRangesWithNothing extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report' || message.length < 32) return super.request(message, profile, memory);
    const { iova, length } = decodeReportInline(message.subarray(8));
    const touched = this.log.ranges.filter(range => range.iova < iova + length && iova < range.iova + range.length);
    if (touched.length < 2) return super.request(message, profile, memory);
    return Promise.resolve(message.slice(0, 32));
  }
}

/** Never answers a report of half the log's page that has 256 bits or more (libvfio-user). */
export class NeverAnswersFineReports extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report' || message.length < 32) return super.request(message, profile, memory);
    const { length, pageSize } = decodeReportInline(message.subarray(8));
    if (isPowerOfTwo(pageSize) && pageSize < this.log.pageSize && length / pageSize >= 256n)
      return new Promise(() => {});
    return super.request(message, profile, memory);
  }
}

/** PROBE says that there is a log, and that it cannot be stopped. */
export class HasNoStop extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const index = message.length < 8 ? -1 : viewOf(message).getUint32(4, true) & 0xffff;
    if (index === profile.stop) throw new VfioError('ENOTTY', { operation: 'DMA_LOGGING_STOP' });
    return super.request(message, profile, memory);
  }
}

/** What is dirty in memory that is unmapped is forgotten (libvfio-user). */
export class ForgetsUnmappedMemory extends PlainDevice {
  override unmapped(iova: bigint, length: bigint): void {
    this.log.forget({ iova, length });
  }
}

/** DMA reads count as writes. */
export class LogsReads extends PlainDevice {
  override dmaRead(iova: bigint, length: number): void {
    this.log.record(iova, length);
  }
}

function reportOfNothing(message: Uint8Array, profile: Profile): Uint8Array {
  if (profile.pointers) return message;
  const { length, pageSize } = decodeReportInline(message.subarray(8));
  const data = new Uint8Array(24 + Number(bitmapBytes(length, pageSize)));
  data.set(message.subarray(8, 32));
  return encodeFeatureRequest({ index: profile.report, get: true, data });
}

function withFlags(message: Uint8Array, change: (flags: number) => number): Uint8Array {
  const copy = message.slice();
  if (copy.length >= 8) viewOf(copy).setUint32(4, change(viewOf(copy).getUint32(4, true)) >>> 0, true);
  return copy;
}

function errnoOf(error: unknown): string | undefined {
  return error instanceof VfioError ? error.errno : undefined;
}
