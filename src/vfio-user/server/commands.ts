import { type Device, dispatchFeature, EventfdTrigger, requireEventFds, requireMigration } from '../../device/index.js';
import { backingFor, type MaybePromise } from '../../memory/index.js';
import {
  ADDRESS_LIMIT,
  DeviceFlag,
  decodeFeatureRequest,
  IrqSet,
  PCI_NUM_IRQS,
  VfioError,
  vfioUser,
  viewOf,
} from '../../uapi/index.js';
import { Command, commandName, IoEventFdFlag, IoFdType, NO_BYTES } from '../wire/constants.js';
import {
  decodeInfoRequest,
  decodeIrqInfoRequest,
  decodeRegionInfoRequest,
  encodeInfo,
  encodeIrqInfo,
  encodeRegionInfo,
} from '../wire/device-messages.js';
import { type DmaUnmapInterval, decodeDmaMap, decodeDmaUnmap, newDmaUnmapBitmap } from '../wire/dma-messages.js';
import type { Frame } from '../wire/frame-parser.js';
import { decodeSetIrqs, type IrqAction, type SetIrqsMessage } from '../wire/irq-messages.js';
import { decodeMigrationRead, decodeMigrationWrite, encodeMigrationReply } from '../wire/migration-messages.js';
import { requireSize } from '../wire/payload.js';
import { decodeRegionIoFdsRequest, encodeRegionIoFds } from '../wire/region-io-fds-messages.js';
import type { CommandContext, CommandHandler, Reply } from './context.js';
import { extensionHandlers } from './extensions.js';
import { MessageBacking } from './message-backing.js';
import { regionRead, regionWrite, regionWriteMulti, requireRegion } from './region-commands.js';
import { ReportReply } from './report-reply.js';

/* What each command of the protocol does with the device. */

/**
 * Serves one command, any but VERSION.
 * @throws VfioError (or rejects) with the errno to answer: EOPNOTSUPP for a command of the protocol that a client does not send, EINVAL for
 *   one that does not exist, or not on this connection; EPERM for one that only the VMM's connection has; EMFILE when the message's
 *   descriptors were lost on the way.
 */
export function serveCommand(context: CommandContext, frame: Frame): MaybePromise<Reply> {
  const handler = handlerOf(context, frame.header.command);
  if (frame.fdsLost) {
    const operation = commandName(frame.header.command);
    throw new VfioError('EMFILE', { operation, field: 'fds', message: 'no descriptors are left in this process' });
  }
  return handler(context, frame);
}

function handlerOf({ features }: CommandContext, command: number): CommandHandler {
  const extension = features.dmalog ? extensionHandlers.get(command) : undefined;
  const handler = extension ?? handlers.get(command);
  if (handler === undefined) throw unknownCommand(command);
  if (extension === undefined && features.role === 'tracker' && !trackersCommands.has(command)) {
    const message = "only the VMM's connection has this command";
    throw new VfioError('EPERM', { operation: commandName(command), field: 'command', message });
  }
  return handler;
}

function unknownCommand(command: number): VfioError {
  const exists = (Object.values(Command) as number[]).includes(command);
  return new VfioError(exists ? 'EOPNOTSUPP' : 'EINVAL', {
    operation: commandName(command),
    field: 'command',
    message: 'is not served here',
  });
}

const handlers: ReadonlyMap<number, CommandHandler> = new Map<number, CommandHandler>([
  [Command.DMA_MAP, dmaMap],
  [Command.DMA_UNMAP, dmaUnmap],
  [Command.DEVICE_GET_INFO, getInfo],
  [Command.DEVICE_GET_REGION_INFO, getRegionInfo],
  [Command.DEVICE_GET_REGION_IO_FDS, getRegionIoFds],
  [Command.DEVICE_GET_IRQ_INFO, getIrqInfo],
  [Command.DEVICE_SET_IRQS, setIrqs],
  [Command.REGION_READ, regionRead],
  [Command.REGION_WRITE, regionWrite],
  [Command.REGION_WRITE_MULTI, regionWriteMulti],
  [Command.DEVICE_RESET, reset],
  [Command.DEVICE_FEATURE, feature],
  [Command.MIG_DATA_READ, migrationRead],
  [Command.MIG_DATA_WRITE, migrationWrite],
]);

/** What a tracker may send beside the VMM: nothing that touches the guest's memory map, its interrupts or the device's registers. */
const trackersCommands: ReadonlySet<number> = new Set<number>([
  Command.DEVICE_GET_INFO,
  Command.DEVICE_GET_REGION_INFO,
  Command.DEVICE_GET_IRQ_INFO,
  Command.DEVICE_FEATURE,
  Command.MIG_DATA_READ,
  Command.MIG_DATA_WRITE,
]);

function dmaMap({ device, limits, dmaRequests, reachByMessage }: CommandContext, { payload, fds }: Frame): Uint8Array {
  const { offset, ...region } = decodeDmaMap(payload);
  if (device.dma.map.statistics.regions >= limits.maxDmaMaps) {
    const message = `${limits.maxDmaMaps} regions are mapped`;
    throw new VfioError('ENOSPC', { operation: 'DMA_MAP', field: 'max_dma_maps', message });
  }
  const file = reachByMessage(region) ? undefined : fds.shift();
  const rights = { read: region.readable, write: region.writable };
  device.dma.map.map(
    region,
    file === undefined ? new MessageBacking(dmaRequests, region.iova) : backingFor(file, offset, region.length, rights),
  );
  return NO_BYTES;
}

function dmaUnmap(context: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const { device, turns } = context;
  const unmap = decodeDmaUnmap(payload);
  if (unmap === 'all') device.dma.map.unmapAll();
  else if (unmap.dirtyBitmap === undefined) device.dma.map.unmap(unmap.iova, unmap.length);
  else return turns.run(() => unmapWithBitmap(context, payload, unmap, unmap.dirtyBitmap!));
  return payload;
}

/**
 * Everything is checked before the region goes: from there on no DMA of it begins, those in flight land, and then the bits are taken, so that
 * nothing that was written there is missing.
 */
async function unmapWithBitmap(
  { device, limits }: CommandContext,
  payload: Uint8Array,
  { iova, length }: DmaUnmapInterval,
  { pageSize, bytes }: { pageSize: bigint; bytes: number },
): Promise<Uint8Array> {
  const bad = (field: string, message: string) => new VfioError('EINVAL', { operation: 'DMA_UNMAP', field, message });
  const { map, log } = device.dma;
  if (!device.hasLogging || !log.active) throw bad('flags', 'no dirty bitmap without DMA logging');
  if (bytes > limits.maxDataTransfer)
    throw bad('bitmap size', `${bytes}, at most ${limits.maxDataTransfer} are sent at once`);
  // The one interval that the log does not report on.
  if (iova + length === ADDRESS_LIMIT)
    throw new VfioError('EOVERFLOW', { operation: 'DMA_UNMAP', field: 'size', message: 'reaches 2^64' });
  const { reply, bitmap } = newDmaUnmapBitmap(payload, bytes);
  map.unmap(iova, length);
  await device.dma.landed();
  log.report(iova, length, pageSize, bitmap);
  return reply;
}

function getInfo({ device }: CommandContext, { payload }: Frame): Uint8Array {
  decodeInfoRequest(payload);
  return encodeInfo({ flags: device.flags, regions: device.regions.length, irqs: PCI_NUM_IRQS });
}

function getRegionInfo({ device, limits, features }: CommandContext, { payload }: Frame): Reply {
  const { region, argsz } = decodeRegionInfoRequest(payload);
  const info = requireRegion(device, region, 'DEVICE_GET_REGION_INFO');
  // A tracker looks on: what it maps it could change.
  const mapping = features.role === 'vmm' && limits.maxMessageFds > 0 ? info.mapping : undefined;
  const { payload: reply, withFile } = encodeRegionInfo(region, info, mapping, argsz);
  return mapping !== undefined && withFile ? { payload: reply, fds: [mapping.fd] } : reply;
}

function getRegionIoFds({ device, limits }: CommandContext, { payload }: Frame): Reply {
  const operation = 'DEVICE_GET_REGION_IO_FDS';
  const { region, argsz } = decodeRegionIoFdsRequest(payload);
  requireRegion(device, region, operation);
  const events = device.regionIoFds?.(region) ?? [];
  if (events.length > limits.maxMessageFds) {
    const message = `${events.length} eventfds, the client takes ${limits.maxMessageFds}`;
    throw new VfioError('E2BIG', { operation, field: 'max_msg_fds', message });
  }
  const entries = events.map(({ offset, size, match }, fdIndex) => ({
    offset,
    size,
    fdIndex,
    type: IoFdType.IOEVENTFD,
    flags: match === undefined ? 0 : IoEventFdFlag.DATAMATCH,
    match: match ?? 0n,
  }));
  const { payload: reply, complete } = encodeRegionIoFds(region, entries, argsz);
  return complete ? { payload: reply, fds: events.map(event => event.fd) } : reply;
}

function getIrqInfo({ device }: CommandContext, { payload }: Frame): Uint8Array {
  const type = decodeIrqInfoRequest(payload);
  return encodeIrqInfo(type, device.interrupts.info(type));
}

function setIrqs({ device }: CommandContext, { payload, fds }: Frame): Uint8Array {
  const message = decodeSetIrqs(payload);
  const { type, start, count, action, data } = message;
  device.interrupts.check(type, start, count);
  if (count === 0) device.interrupts.disable(type);
  else if (data === 'eventfd') setTriggers(device, message, fds);
  else if (data === 'none') applyAction(device, action, type, start, count);
  else {
    for (const [index, selected] of data.entries()) {
      if (selected !== 0) applyAction(device, action, type, start + index, 1);
    }
  }
  return NO_BYTES;
}

function setTriggers(device: Device, { type, start, count }: SetIrqsMessage, fds: Frame['fds']): void {
  if (fds.length !== 0 && fds.length !== count) {
    const message = `${fds.length} eventfds for ${count} vectors`;
    throw new VfioError('EINVAL', { operation: 'SET_IRQS', field: 'count', message });
  }
  requireEventFds(fds);
  const triggers =
    fds.length === 0 ? new Array<undefined>(count).fill(undefined) : fds.splice(0).map(fd => new EventfdTrigger(fd));
  device.interrupts.setTriggers(type, start, triggers);
}

function applyAction({ interrupts }: Device, action: IrqAction, type: number, start: number, count: number): void {
  switch (action) {
    case IrqSet.ACTION_MASK:
      interrupts.mask(type, start, count);
      break;
    case IrqSet.ACTION_UNMASK:
      interrupts.unmask(type, start, count);
      break;
    case IrqSet.ACTION_TRIGGER:
      interrupts.trigger(type, start, count);
      break;
  }
}

function reset({ device }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  requireSize(payload, 0, 'DEVICE_RESET');
  if ((device.flags & DeviceFlag.RESET) === 0) {
    throw new VfioError('EINVAL', { operation: 'DEVICE_RESET', message: `${device.name} cannot be reset` });
  }
  return device.reset()?.then(() => NO_BYTES) ?? NO_BYTES;
}

function feature({ device, limits, turns }: CommandContext, { payload }: Frame): MaybePromise<Reply> {
  const { argsz, get, probe } = decodeFeatureRequest(payload);
  // A caller may name more than fits one message: only as much as does is offered to the device.
  if (get && !probe && argsz > limits.maxDataTransfer) viewOf(payload).setUint32(0, limits.maxDataTransfer, true);
  const report = new ReportReply(device.dma.log);
  return turns.run(() => report.of(dispatchFeature(device, vfioUser, payload, undefined, report)));
}

function migrationRead({ device, limits, turns }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const size = decodeMigrationRead(payload, limits.maxDataTransfer);
  return turns.run(() => encodeMigrationReply(requireMigration(device, 'MIG_DATA_READ').readData(size), size));
}

function migrationWrite({ device, turns }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const data = decodeMigrationWrite(payload);
  return turns.run(() => {
    requireMigration(device, 'MIG_DATA_WRITE').writeData(data);
    return NO_BYTES;
  });
}
