import { type Device, dispatchFeature, requireMigration } from '../device/index.js';
import { backingFor, type MaybePromise } from '../memory/index.js';
import {
  DeviceFlag,
  decodeFeatureRequest,
  IrqSet,
  PCI_NUM_IRQS,
  RegionFlag,
  VfioError,
  vfioUser,
  viewOf,
} from '../uapi/index.js';
import { Command, commandName, NO_BYTES } from './constants.js';
import {
  decodeInfoRequest,
  decodeIrqInfoRequest,
  decodeRegionInfoRequest,
  encodeInfo,
  encodeIrqInfo,
  encodeRegionInfo,
} from './device-messages.js';
import { decodeDmaMap, decodeDmaUnmap } from './dma-messages.js';
import { EventfdTrigger, requireEventFds } from './eventfd-trigger.js';
import type { Frame } from './frame-parser.js';
import { decodeSetIrqs, type IrqAction, type SetIrqsMessage } from './irq-messages.js';
import type { VfioUserLimits } from './limits.js';
import { MessageBacking } from './message-backing.js';
import { decodeMigrationRead, decodeMigrationWrite, encodeMigrationData } from './migration-messages.js';
import { requireSize } from './payload.js';
import { decodeRegionRead, decodeRegionWrite, encodeRegionAccess, newRegionData } from './region-messages.js';

/*
 * What each command does with the device: from a message's payload and descriptors to the reply's payload. A command that throws has
 * changed nothing. The descriptors that it does not take are closed by the session.
 */

/** What a command works on. */
export interface CommandContext {
  readonly device: Device;
  /** What client and server agreed on. */
  readonly limits: VfioUserLimits;
}

type CommandHandler = (context: CommandContext, frame: Frame) => MaybePromise<Uint8Array>;

/**
 * Serves one command, any but VERSION.
 * @returns the reply's payload
 * @throws VfioError (or rejects) with the errno to answer: EOPNOTSUPP for a command of the protocol that is not served here, EINVAL for one
 *   that does not exist, EMFILE when the message's descriptors were lost on the way.
 */
export function serveCommand(context: CommandContext, frame: Frame): MaybePromise<Uint8Array> {
  const operation = commandName(frame.header.command);
  const handler = handlers.get(frame.header.command);
  if (handler === undefined) throw unknownCommand(frame.header.command, operation);
  if (frame.fdsLost) {
    throw new VfioError('EMFILE', { operation, field: 'fds', message: 'no descriptors are left in this process' });
  }
  return handler(context, frame);
}

function unknownCommand(command: number, operation: string): VfioError {
  const exists = (Object.values(Command) as number[]).includes(command);
  return new VfioError(exists ? 'EOPNOTSUPP' : 'EINVAL', {
    operation,
    field: 'command',
    message: 'is not served here',
  });
}

const handlers = new Map<number, CommandHandler>([
  [Command.DMA_MAP, dmaMap],
  [Command.DMA_UNMAP, dmaUnmap],
  [Command.DEVICE_GET_INFO, getInfo],
  [Command.DEVICE_GET_REGION_INFO, getRegionInfo],
  [Command.DEVICE_GET_IRQ_INFO, getIrqInfo],
  [Command.DEVICE_SET_IRQS, setIrqs],
  [Command.REGION_READ, regionRead],
  [Command.REGION_WRITE, regionWrite],
  [Command.DEVICE_RESET, reset],
  [Command.DEVICE_FEATURE, feature],
  [Command.MIG_DATA_READ, migrationRead],
  [Command.MIG_DATA_WRITE, migrationWrite],
]);

function dmaMap({ device, limits }: CommandContext, { payload, fds }: Frame): Uint8Array {
  const { offset, ...region } = decodeDmaMap(payload);
  if (device.dma.map.statistics.regions >= limits.maxDmaMaps) {
    const message = `${limits.maxDmaMaps} regions are mapped`;
    throw new VfioError('ENOSPC', { operation: 'DMA_MAP', field: 'max_dma_maps', message });
  }
  const file = fds.shift();
  const rights = { read: region.readable, write: region.writable };
  device.dma.map.map(
    region,
    file === undefined ? new MessageBacking() : backingFor(file, offset, region.length, rights),
  );
  return NO_BYTES;
}

function dmaUnmap({ device }: CommandContext, { payload }: Frame): Uint8Array {
  const unmap = decodeDmaUnmap(payload);
  if (unmap === 'all') device.dma.map.unmapAll();
  else device.dma.map.unmap(unmap.iova, unmap.length);
  return payload;
}

function getInfo({ device }: CommandContext, { payload }: Frame): Uint8Array {
  decodeInfoRequest(payload);
  return encodeInfo({ flags: device.flags, regions: device.regions.length, irqs: PCI_NUM_IRQS });
}

function getRegionInfo({ device }: CommandContext, { payload }: Frame): Uint8Array {
  const region = decodeRegionInfoRequest(payload);
  const info = device.regions[region];
  if (info === undefined) throw noRegion('DEVICE_GET_REGION_INFO', device, region);
  return encodeRegionInfo(region, info);
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

function regionRead({ device, limits }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const access = decodeRegionRead(payload, limits.maxDataTransfer);
  requireAccess('REGION_READ', device, access, RegionFlag.READ);
  const { reply, data } = newRegionData(access);
  return whenDone(device.regionRead(access.region, access.offset, data), reply);
}

function regionWrite({ device }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const { data, ...access } = decodeRegionWrite(payload);
  requireAccess('REGION_WRITE', device, access, RegionFlag.WRITE);
  return whenDone(device.regionWrite(access.region, access.offset, data), encodeRegionAccess(access));
}

/** Checked here for every device, before memory is taken for the reply. */
function requireAccess(
  operation: string,
  device: Device,
  { region, offset, count }: { region: number; offset: number; count: number },
  right: number,
): void {
  const info = device.regions[region];
  if (info === undefined || info.size === 0) throw noRegion(operation, device, region);
  if ((info.flags & right) === 0) {
    throw new VfioError('EINVAL', { operation, field: 'region', message: `region ${region} cannot be accessed so` });
  }
  if (count > info.size || offset > info.size - count) {
    const message = `${count} bytes at ${offset} of ${info.size}`;
    throw new VfioError('EINVAL', { operation, field: 'offset', message });
  }
}

function noRegion(operation: string, device: Device, region: number): VfioError {
  return new VfioError('EINVAL', { operation, field: 'region', message: `${device.name} has no region ${region}` });
}

/** `reply` at once when the device is done at once. */
function whenDone(done: MaybePromise<void>, reply: Uint8Array): MaybePromise<Uint8Array> {
  return done === undefined ? reply : Promise.resolve(done).then(() => reply);
}

function reset({ device }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  requireSize(payload, 0, 'DEVICE_RESET');
  if ((device.flags & DeviceFlag.RESET) === 0) {
    throw new VfioError('EINVAL', { operation: 'DEVICE_RESET', message: `${device.name} cannot be reset` });
  }
  return whenDone(device.reset(), NO_BYTES);
}

function feature({ device, limits }: CommandContext, { payload }: Frame): Promise<Uint8Array> {
  const { argsz, get, probe } = decodeFeatureRequest(payload);
  // A caller may name more than fits one message: only as much as does is offered to the device.
  if (get && !probe && argsz > limits.maxDataTransfer) viewOf(payload).setUint32(0, limits.maxDataTransfer, true);
  return dispatchFeature(device, vfioUser, payload);
}

function migrationRead({ device, limits }: CommandContext, { payload }: Frame): Uint8Array {
  const size = decodeMigrationRead(payload, limits.maxDataTransfer);
  return encodeMigrationData(requireMigration(device, 'MIG_DATA_READ').readData(size));
}

function migrationWrite({ device }: CommandContext, { payload }: Frame): Uint8Array {
  requireMigration(device, 'MIG_DATA_WRITE').writeData(decodeMigrationWrite(payload));
  return NO_BYTES;
}
