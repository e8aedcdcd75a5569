import { type FeatureDoor, replyData, reportBitmap } from '../../device/index.js';
import {
  bitmapBytes,
  decodeFeatureRequest,
  decodeReportInline,
  decodeStartInline,
  encodeFeatureRequest,
  type FeatureRequest,
  type LoggingReport,
  REPORT_INLINE_SIZE,
  VfioError,
  vfioUser,
} from '../../uapi/index.js';
import type { ClientMemory } from './memory.js';
import type { ClientWriteLog } from './write-log.js';

/*
 * The feature requests of a client, with its own log beside the device's: it starts and stops with that one, and every report is the union of
 * both. Done here, below all that asks, so that nobody can forget it.
 *
 * Order in a report: first the device answers, then the own log is read and cleared, and only into an answer that has the bitmap that was
 * asked for. So a report that fails has cleared nothing here.
 *
 * Some devices (the C reference's) answer EINVAL to a report of memory that they reach by messages alone: they log none of it. For such memory
 * the own log has everything, and is the answer. Example: RAM has a file, and a buffer of 1 MiB beside it has none; the buffer's report is
 * the own log's, that of both together stays EINVAL.
 */

/**
 * @param request sends a feature request, gives its reply
 * @param reuse takes the memory of a reply that was read
 * @param maxData most bytes of data in one message, in either direction
 */
export function clientFeatureDoor(
  request: (message: Uint8Array) => Promise<Uint8Array>,
  maxData: number,
  memory: ClientMemory,
  reuse: (reply: Uint8Array) => void,
): FeatureDoor {
  const { log } = memory;
  return {
    profile: vfioUser,
    maxReply: maxData,
    maxRequest: maxData,
    reuse,
    request(message) {
      const asked = decodeFeatureRequest(message);
      if (asked.probe) return request(message);
      switch (asked.index) {
        case vfioUser.start:
          return start(() => request(message), asked, log);
        case vfioUser.stop:
          return stop(() => request(message), log);
        case vfioUser.report:
          return report(() => request(message), asked, memory);
        default:
          return request(message);
      }
    },
  };
}

/** The own log begins before the device's: a write of its first moment may arrive before the answer does. */
async function start(
  send: () => Promise<Uint8Array>,
  { data }: FeatureRequest,
  log: ClientWriteLog,
): Promise<Uint8Array> {
  const { pageSize, ranges } = decodeStartInline(data);
  const started = log.starting(pageSize, ranges);
  try {
    const reply = await send();
    started.succeeded();
    return reply;
  } catch (error) {
    started.failed();
    throw error;
  }
}

async function stop(send: () => Promise<Uint8Array>, log: ClientWriteLog): Promise<Uint8Array> {
  const stopped = log.stopping();
  try {
    const reply = await send();
    stopped.succeeded();
    return reply;
  } catch (error) {
    stopped.failed();
    throw error;
  }
}

async function report(
  send: () => Promise<Uint8Array>,
  { index, data }: FeatureRequest,
  memory: ClientMemory,
): Promise<Uint8Array> {
  const asked = decodeReportInline(data);
  const reply = await send().catch(error => {
    const refused = error instanceof VfioError && error.errno === 'EINVAL';
    if (!refused || !memory.log.complete || !memory.isByMessagesOnly(asked)) throw error;
    return emptyReport(index, data, asked);
  });
  if (!memory.log.active) return reply;
  const { buffer, byteOffset, byteLength } = reportBitmap(replyData(reply, vfioUser, index), asked);
  memory.log.report(asked, asked.pageSize, new Uint32Array(buffer, byteOffset, byteLength / 4));
  return reply;
}

/** What a device answers that knows of no dirty page. */
function emptyReport(index: number, request: Uint8Array, { length, pageSize }: LoggingReport): Uint8Array {
  const data = new Uint8Array(REPORT_INLINE_SIZE + Number(bitmapBytes(length, pageSize)));
  data.set(request.subarray(0, REPORT_INLINE_SIZE));
  return encodeFeatureRequest({ index, get: true, data });
}
