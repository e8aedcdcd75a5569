import type { Device } from '../../device/index.js';
import type { MaybePromise } from '../../memory/index.js';
import { VfioError } from '../../uapi/index.js';
import { ExtensionCommand, NO_BYTES } from '../wire/constants.js';
import {
  type DeviceStatistics,
  decodeBitmapAttach,
  decodeBitmapHandle,
  decodeReportShared,
  encodeBitmapHandle,
  encodeStatistics,
} from '../wire/extension-messages.js';
import type { Frame } from '../wire/frame-parser.js';
import { requireSize } from '../wire/payload.js';
import type { CommandContext, CommandHandler } from './context.js';

/* This project's own commands: see extension-messages.ts. A client that has not named the capability `dmalog` does not have them. */

/** What each own command does. */
export const extensionHandlers: ReadonlyMap<number, CommandHandler> = new Map<number, CommandHandler>([
  [ExtensionCommand.BITMAP_ATTACH, attach],
  [ExtensionCommand.BITMAP_DETACH, detach],
  [ExtensionCommand.REPORT_SHARED, reportShared],
  [ExtensionCommand.STATISTICS, statistics],
]);

function attach({ bitmaps }: CommandContext, { payload, fds }: Frame): Uint8Array {
  const message = decodeBitmapAttach(payload);
  const file = fds.shift();
  if (file === undefined) {
    throw new VfioError('EINVAL', { operation: 'BITMAP_ATTACH', field: 'fds', message: 'a bitmap needs its file' });
  }
  return encodeBitmapHandle(bitmaps.attach(file, message));
}

function detach({ bitmaps }: CommandContext, { payload }: Frame): Uint8Array {
  bitmaps.detach(decodeBitmapHandle(payload, 'BITMAP_DETACH'));
  return NO_BYTES;
}

function reportShared({ device, bitmaps, turns }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const message = decodeReportShared(payload);
  if (!device.hasLogging) {
    throw new VfioError('ENOTTY', { operation: 'REPORT_SHARED', message: `${device.name} does not log` });
  }
  return turns.run(() => {
    bitmaps.report(device.dma.log, message);
    return NO_BYTES;
  });
}

function statistics({ device, connections }: CommandContext, { payload }: Frame): Uint8Array {
  requireSize(payload, 0, 'STATISTICS');
  return encodeStatistics(statisticsOf(device, connections()));
}

/** What STATISTICS tells, for those who are in the same process as the device. */
export function statisticsOf({ dma }: Device, connections: number): DeviceStatistics {
  const { active, pageSize, ranges } = dma.log;
  return {
    dmaMap: dma.map.statistics,
    log: { active, pageSize: Number(pageSize), dirtyPages: dma.log.dirtyPages(), ranges: ranges.length },
    dma: dma.statistics,
    connections,
  };
}
