import {
  bitmapBytes,
  DATA_SIZE_SIZE,
  DEVICE_STATE_SIZE,
  decodeDeviceState,
  decodeFeatureRequest,
  decodeRanges,
  decodeReportInline,
  decodeReportPointer,
  decodeStartInline,
  decodeStartPointer,
  encodeDataSize,
  encodeDeviceState,
  encodeFeatureRequest,
  encodeMigrationFlags,
  FEATURE_HEADER_SIZE,
  Feature,
  type FeatureRequest,
  featureName,
  type IovaRange,
  MIGRATION_SIZE,
  type Profile,
  RANGE_SIZE,
  REPORT_INLINE_SIZE,
  REPORT_POINTER_SIZE,
  START_INLINE_SIZE,
  START_POINTER_SIZE,
  VfioError,
  viewOf,
  writeFeatureHeader,
} from '../uapi/index.js';
import { checkReport, RangeChecker } from './check-logging.js';
import type { Device } from './device.js';
import type { UserMemory } from './user-memory.js';

/*
 * The device's side of the feature request: every feature that is offered here, with Linux's order of checks (kernel.md "Order of checks"):
 * header size, flag bits, GET with SET, then the feature: known at all (ENOTTY), direction (EINVAL), PROBE answered, argsz (EINVAL), the
 * payload's own checks, then the device. A request that fails anywhere before the device has changed nothing.
 *
 * What differs by profile: where ranges and bitmap are (behind a pointer, or inline), and what argsz means (the caller's buffer, or the
 * largest reply it takes).
 */

/** One feature: what directions it has, how large its structure is, and what it does. */
interface FeatureHandler {
  get?: (request: FeatureRequest, context: Context) => Uint8Array | WholeReply;
  set?: (request: FeatureRequest, context: Context) => Uint8Array | Promise<Uint8Array>;
  /** Bytes of the structure behind the header, as the caller must provide them. */
  size: number;
}

interface Context {
  device: Device;
  profile: Profile;
  memory: UserMemory;
  replies: ReplyMemory;
}

/** A reply that was put together in its place: the data stands behind room for the header. */
class WholeReply {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

/** Where a report's reply is put together, the only one that is large. */
export interface ReplyMemory {
  /** `size` zeros, at a multiple of 8. */
  take(size: number): Uint8Array;
}

const newMemory: ReplyMemory = { take: size => new Uint8Array(size) };

const noMemory: UserMemory = {
  at() {
    throw new VfioError('EFAULT', { operation: 'DEVICE_FEATURE', field: 'pointer', message: 'no memory was lent' });
  },
};

/**
 * Serves one feature request.
 *
 * @param request header and data: in the pointer profiles what lies at the ioctl's pointer, in vfio-user the message's payload.
 * @param memory resolves the request's pointers; only the pointer profiles have them.
 * @param replies where a report's reply is put together, if not in new memory
 * @returns header and data as the caller gets them back. A PROBE or SET gives the request again, with START's page size replaced by the choice.
 * @throws VfioError with the errno that the contract names.
 */
export async function dispatchFeature(
  device: Device,
  profile: Profile,
  request: Uint8Array,
  memory: UserMemory = noMemory,
  replies: ReplyMemory = newMemory,
): Promise<Uint8Array> {
  const parsed = decodeFeatureRequest(request);
  const operation = featureName(profile, parsed.index);
  const handler = handlerOf(device, profile, parsed.index);
  if (handler === undefined) {
    throw new VfioError('ENOTTY', { operation, message: `${device.name} does not have this feature` });
  }
  checkDirection(parsed, handler, operation);
  if (parsed.probe) return request.slice();
  checkSizes(parsed, handler, profile, operation);
  const context = { device, profile, memory, replies };
  const data = parsed.get ? handler.get!(parsed, context) : await handler.set!(parsed, context);
  if (data instanceof WholeReply) {
    const { index, get } = parsed;
    writeFeatureHeader(data.bytes, { index, get });
    return data.bytes;
  }
  if (!profile.argszIsReplyLimit || parsed.set) return encodeFeatureRequest({ ...parsed, data });
  return encodeFeatureRequest({ ...parsed, data, argsz: FEATURE_HEADER_SIZE + data.length });
}

function handlerOf(device: Device, profile: Profile, index: number): FeatureHandler | undefined {
  if (device.hasLogging) {
    if (index === profile.start) return profile.pointers ? startByPointer : startInline;
    if (index === profile.stop) return stop;
    if (index === profile.report) return profile.pointers ? reportByPointer : reportInline;
  }
  if (device.migration === undefined) return undefined;
  if (index === Feature.MIGRATION) return migration;
  if (index === Feature.MIG_DEVICE_STATE) return deviceState;
  if (index === Feature.MIG_DATA_SIZE && profile.hasDataSize) return dataSize;
  return undefined;
}

function checkDirection(request: FeatureRequest, handler: FeatureHandler, operation: string): void {
  const wrong = (request.get && !handler.get) || (request.set && !handler.set);
  if (wrong || !(request.get || request.set || request.probe)) {
    throw new VfioError('EINVAL', { operation, field: 'flags', message: 'GET or SET is missing or not supported' });
  }
}

function checkSizes(request: FeatureRequest, handler: FeatureHandler, profile: Profile, operation: string): void {
  if (profile.argszIsReplyLimit) {
    if (request.data.length < handler.size && !isReadOnly(request, profile)) {
      throw new VfioError('EINVAL', {
        operation,
        field: 'size',
        message: `${request.data.length} bytes, needs ${handler.size}`,
      });
    }
    // The least that a reply has; REPORT looks again when it knows how large its bitmap is.
    requireReplyRoom(request, handler.size, operation);
    return;
  }
  const needed = FEATURE_HEADER_SIZE + handler.size;
  if (request.argsz < needed) {
    throw new VfioError('EINVAL', { operation, field: 'argsz', message: `${request.argsz}, needs ${needed}` });
  }
  if (request.data.length < handler.size) {
    throw new VfioError('EFAULT', { operation, field: 'data', message: 'the structure is not wholly readable' });
  }
}

/** In vfio-user a GET of the migration features sends no data: there is nothing to say. REPORT does. */
function isReadOnly(request: FeatureRequest, profile: Profile): boolean {
  return request.get && request.index !== profile.report;
}

function requireReplyRoom(request: FeatureRequest, size: number, operation: string): void {
  if (request.argsz < FEATURE_HEADER_SIZE + size) {
    throw new VfioError('EINVAL', {
      operation,
      field: 'argsz',
      message: `${request.argsz} bytes of reply are accepted, ${FEATURE_HEADER_SIZE + size} are needed`,
    });
  }
}

const startByPointer: FeatureHandler = {
  size: START_POINTER_SIZE,
  set(request, { device, profile, memory }) {
    const { pageSize, numRanges, rangesPointer } = decodeStartPointer(request.data);
    const checker = new RangeChecker(profile, pageSize, numRanges);
    for (let index = 0; index < numRanges; index++) {
      const address = rangesPointer + BigInt(index * RANGE_SIZE);
      checker.add(() => decodeRanges(memory.at(address, RANGE_SIZE), 1)[0]!);
    }
    return withPageSize(request.data, device.dma.log.start(pageSize, checker.finish()));
  },
};

const startInline: FeatureHandler = {
  size: START_INLINE_SIZE,
  set(request, { device, profile }) {
    const { pageSize, ranges } = decodeStartInline(request.data);
    const checker = new RangeChecker(profile, pageSize, ranges.length);
    for (const range of ranges) checker.add(() => range);
    requireReplyRoom(request, request.data.length, 'DMA_LOGGING_START');
    const logged: readonly IovaRange[] | 'everything' = ranges.length === 0 ? 'everything' : checker.finish();
    return withPageSize(request.data, device.dma.log.start(pageSize, logged));
  },
};

function withPageSize(data: Uint8Array, pageSize: bigint): Uint8Array {
  const copy = data.slice();
  viewOf(copy).setBigUint64(0, pageSize, true);
  return copy;
}

const stop: FeatureHandler = {
  size: 0,
  set(request, { device }) {
    device.dma.log.stop();
    return request.data;
  },
};

const reportByPointer: FeatureHandler = {
  size: REPORT_POINTER_SIZE,
  get(request, { device, profile, memory }) {
    const report = decodeReportPointer(request.data);
    checkReport(profile, report);
    requireStarted(device);
    // The bitmap is looked at before the log is: one that cannot be written must not cost the log its bits.
    const bytes = memory.at(report.bitmapPointer, Number(bitmapBytes(report.length, report.pageSize)));
    const words = wordsOver(bytes);
    device.dma.log.report(report.iova, report.length, report.pageSize, words);
    if (words.buffer !== bytes.buffer) {
      const drained = new Uint8Array(words.buffer);
      for (let index = 0; index < bytes.length; index++) bytes[index]! |= drained[index]!;
    }
    return request.data;
  },
};

function requireStarted(device: Device): void {
  if (!device.dma.log.active) {
    throw new VfioError('EINVAL', { operation: 'DMA_LOGGING_REPORT', message: 'logging is not started' });
  }
}

/** The bitmap as words: itself where it is aligned, else a zeroed twin to be OR-ed in afterwards. */
function wordsOver(bytes: Uint8Array): Uint32Array {
  if (bytes.byteOffset % 4 === 0) return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  return new Uint32Array(bytes.length / 4);
}

const reportInline: FeatureHandler = {
  size: REPORT_INLINE_SIZE,
  get(request, { device, profile, replies }) {
    const report = decodeReportInline(request.data);
    checkReport(profile, report);
    requireStarted(device);
    const size = bitmapBytes(report.length, report.pageSize);
    // Bounded by what the caller takes before memory is taken for it, and before the log is cleared.
    if (size > BigInt(request.argsz)) {
      throw new VfioError('EINVAL', {
        operation: 'DMA_LOGGING_REPORT',
        field: 'argsz',
        message: `${request.argsz} bytes of reply are accepted, the bitmap alone has ${size}`,
      });
    }
    requireReplyRoom(request, REPORT_INLINE_SIZE + Number(size), 'DMA_LOGGING_REPORT');
    const head = FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE;
    const bytes = replies.take(head + Number(size));
    bytes.set(request.data.subarray(0, REPORT_INLINE_SIZE), FEATURE_HEADER_SIZE);
    const bitmap = new Uint32Array(bytes.buffer, bytes.byteOffset + head, Number(size) / 4);
    device.dma.log.report(report.iova, report.length, report.pageSize, bitmap);
    return new WholeReply(bytes);
  },
};

const migration: FeatureHandler = {
  size: MIGRATION_SIZE,
  get: (_request, { device }) => encodeMigrationFlags(device.migration!.flags),
};

const deviceState: FeatureHandler = {
  size: DEVICE_STATE_SIZE,
  get: (_request, { device }) => encodeDeviceState({ state: device.migration!.state, dataFd: -1 }),
  async set(request, { device }) {
    const { state } = decodeDeviceState(request.data);
    await device.migration!.setState(state);
    return encodeDeviceState({ state: device.migration!.state, dataFd: -1 });
  },
};

const dataSize: FeatureHandler = {
  size: DATA_SIZE_SIZE,
  get: (_request, { device }) => encodeDataSize(device.migration!.dataSize()),
};
