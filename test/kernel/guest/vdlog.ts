import type { DeviceHandle } from '../../../src/device/index.js';
import { viewOf } from '../../../src/uapi/index.js';

/** One DMA that vdlog is told to do. */
export interface Dma {
  iova: bigint;
  length: bigint;
  /** It really writes memory, bytes of this value. Default: it is only logged. */
  fill?: number;
}

const REALLY_WRITE = 1;

/** Has vdlog do a DMA write. */
export async function dmaWrite(device: DeviceHandle, { iova, length, fill }: Dma): Promise<void> {
  const command = new Uint8Array(24);
  const view = viewOf(command);
  view.setBigUint64(0, iova, true);
  view.setBigUint64(8, length, true);
  view.setUint32(16, fill === undefined ? 0 : REALLY_WRITE, true);
  view.setUint32(20, fill ?? 0, true);
  await device.regionWrite(0, 0, command);
}

/** What vdlog says of its log: all 0 while it does not log. */
export async function logState(device: DeviceHandle): Promise<{ pageSize: bigint; ranges: bigint; dirty: bigint }> {
  const view = viewOf(await device.regionRead(0, 0, 24));
  return {
    pageSize: view.getBigUint64(0, true),
    ranges: view.getBigUint64(8, true),
    dirty: view.getBigUint64(16, true),
  };
}
