import type { UserMemory } from '../../../src/device/index.js';
import {
  bitmapBytes,
  decodeReportInline,
  encodeFeatureRequest,
  encodeStartInline,
  FEATURE_GET,
  FEATURE_PROBE,
  FEATURE_SET,
  type Profile,
  viewOf,
} from '../../../src/uapi/index.js';
import { kindOf, PlainDevice, refusal } from './plain-device.js';

/* Devices that refuse what they should take, and that take what they should refuse. */

/** A request, as far as it can be read. */
interface Asked {
  what: 'start' | 'stop' | 'report' | undefined;
  /** FEATURE_GET, FEATURE_SET and FEATURE_PROBE bits. */
  flags: number;
  argsz: number;
  message: Uint8Array;
}

function read(message: Uint8Array, { start, stop, report }: Profile): Asked {
  const header = new Uint8Array(8);
  header.set(message.subarray(0, 8));
  const flags = viewOf(header).getUint32(4, true);
  const names = new Map([
    [start, 'start'],
    [stop, 'stop'],
    [report, 'report'],
  ] as const);
  const what = message.length < 8 ? undefined : names.get(flags & 0xffff);
  return { what, flags: flags & ~0xffff, argsz: viewOf(header).getUint32(0, true), message };
}

/** Some requests are refused, with EINVAL. */
function refuses(when: (asked: Asked) => boolean): new () => PlainDevice {
  return class extends PlainDevice {
    override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
      if (when(read(message, profile))) throw refusal('EINVAL', 'not here');
      return super.request(message, profile, memory);
    }
  };
}

/** Some requests that are refused are answered with a success all the same, which is the request again. */
function forgives(when: (asked: Asked) => boolean): new () => PlainDevice {
  return class extends PlainDevice {
    override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
      try {
        return await super.request(message, profile, memory);
      } catch (error) {
        if (!when(read(message, profile))) throw error;
        const reply = new Uint8Array(Math.max(message.length, 8));
        reply.set(message);
        return reply;
      }
    }
  };
}

/** Some requests are changed before they are looked at. */
function rewrites(change: (message: Uint8Array, profile: Profile) => Uint8Array): new () => PlainDevice {
  return class extends PlainDevice {
    override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
      return super.request(change(message.slice(), profile), profile, memory);
    }
  };
}

export const ProbesInEveryDirection = forgives(
  ({ what, flags }) => what !== undefined && (flags & FEATURE_PROBE) !== 0,
);

export const RefusesLargeArgsz = refuses(({ argsz }) => argsz > 2 ** 30);

export const WantsExactArgsz = refuses(({ what, flags, argsz, message }) => {
  return what === 'start' && flags === FEATURE_SET && argsz !== message.length;
});

export const NeverStarts = refuses(({ what, flags }) => what === 'start' && flags === FEATURE_SET);

export const RefusesSmallReportPages = refuses(({ what, flags, message }) => {
  return what === 'report' && flags === FEATURE_GET && message.length >= 32 && pageSizeOf(message) < 4096n;
});

export const TakesShortMessages = forgives(({ message }) => message.length < 8);

export const TakesStopWithoutStart = forgives(({ what, flags }) => what === 'stop' && flags === FEATURE_SET);

/** To a report that is too large an answer without a bitmap. */
export const AnswersEnormousReports = forgives(({ what, message }) => {
  return what === 'report' && message.length >= 32 && decodeReportInline(message.subarray(8)).length > 1n << 45n;
});

/** A report that reaches 2^64. */
export const TakesReportOverflow = forgives(({ what, flags, message }) => {
  if (what !== 'report' || flags !== FEATURE_GET || message.length < 32) return false;
  const { iova, length, pageSize } = decodeReportInline(message.subarray(8));
  return iova + length >= 1n << 64n && pageSize === 4096n;
});

/** STOP with GET stops, too. */
export const TakesStopWithGet = rewrites((message, profile) => {
  const { what, flags } = read(message, profile);
  if (what === 'stop' && flags === FEATURE_GET) viewOf(message).setUint32(4, profile.stop | FEATURE_SET, true);
  return message;
});

/** START's structure is read beyond the message, where the memory has what the last one left (libvfio-user, of 15 bytes). */
export const ReadsBeyondMessage = rewrites((message, profile) => {
  if (kindOf(message, profile) !== 'start' || message.length >= 40) return message;
  const whole = encodeFeatureRequest({
    index: profile.start,
    set: true,
    data: encodeStartInline(4096n, [{ iova: 0n, length: 4096n }]),
  });
  whole.set(message);
  return whole;
});

/** How many ranges START says it has is not held against those that it brings (libvfio-user). */
export const BelievesNoRangeCount = rewrites((message, profile) => {
  if (kindOf(message, profile) !== 'start' || message.length < 24) return message;
  viewOf(message).setUint32(16, (message.length - 24) / 16, true);
  return message;
});

/** Ranges that cannot be read are taken for one page at 0. */
export class StartsAtBadPointer extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'start') return super.request(message, profile, memory);
    return super.request(message, profile, {
      at(address, length) {
        try {
          return memory.at(address, length);
        } catch {
          return encodeStartInline(4096n, [{ iova: 0n, length: 4096n }]).slice(16);
        }
      },
    });
  }
}

/** A reply's argsz is the request's, whatever its length. */
export class EchoesArgsz extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    viewOf(reply).setUint32(0, viewOf(message).getUint32(0, true), true);
    return reply;
  }
}

/** A report of memory beyond 2^64 finds it dirty. */
export class FindsDirtBeyondTheEnd extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report' || message.length < 32) return super.request(message, profile, memory);
    const { iova, length, pageSize } = decodeReportInline(message.subarray(8));
    if (iova + length <= 1n << 64n) return super.request(message, profile, memory);
    const data = new Uint8Array(24 + Number(bitmapBytes(length, pageSize))).fill(0xff, 24);
    data.set(message.subarray(8, 32));
    return encodeFeatureRequest({ index: profile.report, get: true, data });
  }
}

/** PROBE of REPORT clears what a report would have told. */
export class ClearsOnProbe extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const { what, flags } = read(message, profile);
    if (what === 'report' && flags & FEATURE_PROBE) this.log.forget({ iova: 0n, length: 1n << 64n });
    return super.request(message, profile, memory);
  }
}

function pageSizeOf(message: Uint8Array): bigint {
  return decodeReportInline(message.subarray(8)).pageSize;
}
