import type { FeatureDoor } from '../device/index.js';
import {
  bitmapBytes,
  decodeFeatureRequest,
  decodeReportInline,
  decodeStartInline,
  FEATURE_HEADER_SIZE,
  type FeatureRequest,
  REPORT_INLINE_SIZE,
  vfioUser,
} from '../uapi/index.js';
import type { ClientWriteLog } from './client-write-log.js';

/*
 * The feature requests of a client, with its own log beside the device's: it starts and stops with that one, and every report is the union of
 * both. Done here, below all that asks, so that nobody can forget it.
 *
 * Order in a report: first the device answers, then the own log is read and cleared, and only into an answer that has the bitmap that was
 * asked for. So a report that fails has cleared nothing here.
 */

/**
 * @param request sends a feature request, gives its reply
 * @param reuse takes the memory of a reply that was read
 * @param maxData most bytes of data in one message, in either direction
 */
export function clientFeatureDoor(
  request: (message: Uint8Array) => Promise<Uint8Array>,
  maxData: number,
  log: ClientWriteLog,
  reuse: (reply: Uint8Array) => void,
): FeatureDoor {
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
          return report(() => request(message), asked, log);
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
  const started = log.begin(pageSize, ranges);
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
  try {
    const reply = await send();
    log.end();
    return reply;
  } catch (error) {
    log.doubt();
    throw error;
  }
}

async function report(
  send: () => Promise<Uint8Array>,
  { data }: FeatureRequest,
  log: ClientWriteLog,
): Promise<Uint8Array> {
  const reply = await send();
  if (log.active) addOwnBits(reply, data, log);
  return reply;
}

/** Leaves alone what is no answer to the request: whoever reads it finds out. */
function addOwnBits(reply: Uint8Array, asked: Uint8Array, log: ClientWriteLog): void {
  const { iova, length, pageSize } = decodeReportInline(asked);
  const size = Number(bitmapBytes(length, pageSize));
  const head = reply.subarray(FEATURE_HEADER_SIZE, FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE);
  const bitmap = reply.subarray(
    FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE,
    FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE + size,
  );
  if (bitmap.length < size) return;
  const echoed = decodeReportInline(head);
  if (echoed.iova !== iova || echoed.pageSize !== pageSize) return;
  log.report({ iova, length }, pageSize, new Uint32Array(bitmap.buffer, bitmap.byteOffset, size / 4));
}
