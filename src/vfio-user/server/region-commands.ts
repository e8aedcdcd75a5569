import type { Device, RegionInfo } from '../../device/index.js';
import type { MaybePromise } from '../../memory/index.js';
import { RegionFlag, VfioError } from '../../uapi/index.js';
import type { Frame } from '../wire/frame-parser.js';
import {
  decodeRegionRead,
  decodeRegionWrite,
  decodeRegionWriteMulti,
  encodeRegionAccess,
  encodeRegionWritesDone,
  newRegionData,
  type RegionWrite,
} from '../wire/region-messages.js';
import type { CommandContext } from './context.js';

/* Accesses to a device's regions, one message at a time, and several writes in one. */

/** A region that the device numbers. @throws VfioError EINVAL */
export function requireRegion(device: Device, region: number, operation: string): RegionInfo {
  const info = device.regions[region];
  if (info !== undefined) return info;
  throw new VfioError('EINVAL', { operation, field: 'region', message: `${device.name} has no region ${region}` });
}

/** REGION_READ. @throws VfioError EINVAL */
export function regionRead({ device, limits }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const access = decodeRegionRead(payload, limits.maxDataTransfer);
  requireAccess('REGION_READ', device, access, RegionFlag.READ);
  const { reply, data } = newRegionData(access);
  return device.regionRead(access.region, access.offset, data)?.then(() => reply) ?? reply;
}

/** REGION_WRITE. @throws VfioError EINVAL */
export function regionWrite({ device }: CommandContext, { payload }: Frame): MaybePromise<Uint8Array> {
  const { data, ...access } = decodeRegionWrite(payload);
  requireAccess('REGION_WRITE', device, access, RegionFlag.WRITE);
  const done = device.regionWrite(access.region, access.offset, data);
  return done?.then(() => encodeRegionAccess(access)) ?? encodeRegionAccess(access);
}

/**
 * REGION_WRITE_MULTI: one write after the other, as if each had come by itself, up to the first that fails; the reply tells how many were
 * done. That is an error only when the first one fails.
 * @throws VfioError EINVAL for a message that is not whole: nothing was written then; what the first write said
 */
export async function regionWriteMulti({ device }: CommandContext, { payload }: Frame): Promise<Uint8Array> {
  const writes = decodeRegionWriteMulti(payload);
  for (const [done, write] of writes.entries()) {
    try {
      await writeOne(device, write);
    } catch (error) {
      if (done === 0 || !(error instanceof VfioError)) throw error;
      return encodeRegionWritesDone(done);
    }
  }
  return encodeRegionWritesDone(writes.length);
}

function writeOne(device: Device, { region, offset, data }: RegionWrite): MaybePromise<void> {
  requireAccess('REGION_WRITE_MULTI', device, { region, offset, count: data.length }, RegionFlag.WRITE);
  return device.regionWrite(region, offset, data);
}

/** Checked here for every device, before memory is taken for the reply. */
function requireAccess(
  operation: string,
  device: Device,
  { region, offset, count }: { region: number; offset: number; count: number },
  right: number,
): void {
  const info = requireRegion(device, region, operation);
  if (info.size === 0 || (info.flags & right) === 0) {
    throw new VfioError('EINVAL', { operation, field: 'region', message: `region ${region} cannot be accessed so` });
  }
  if (count > info.size || offset > info.size - count) {
    const message = `${count} bytes at ${offset} of ${info.size}`;
    throw new VfioError('EINVAL', { operation, field: 'offset', message });
  }
}
