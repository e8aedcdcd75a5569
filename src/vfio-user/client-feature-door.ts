import { type FeatureDoor, replyData, reportBitmap } from '../device/index.js';
import {
  decodeFeatureRequest,
  decodeReportInline,
  decodeStartInline,
  type FeatureRequest,
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
 * @param maxData most bytes of data in one message, in either direction
 */
export function clientFeatureDoor(
  request: (message: Uint8Array) => Promise<Uint8Array>,
  maxData: number,
  log: ClientWriteLog,
): FeatureDoor {
  return {
    profile: vfioUser,
    maxReply: maxData,
    maxRequest: maxData,
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
  log: ClientWriteLog,
): Promise<Uint8Array> {
  const reply = await send();
  if (!log.active) return reply;
  const asked = decodeReportInline(data);
  const { buffer, byteOffset, byteLength } = reportBitmap(replyData(reply, vfioUser, index), asked);
  log.report(asked, asked.pageSize, new Uint32Array(buffer, byteOffset, byteLength / 4));
  return reply;
}
