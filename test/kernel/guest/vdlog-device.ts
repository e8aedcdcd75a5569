import type { DeviceHandle } from '../../../src/device/index.js';
import { viewOf } from '../../../src/uapi/index.js';
import type { Stimulus } from '../../connect/host-session.js';

const REALLY_WRITE = 1;

/** Has vdlog write by DMA: `struct vdlog_cmd` of test/kernel/vdlog.c. */
export function vdlogWrite(device: DeviceHandle): Stimulus {
  return (iova, length, byte) => {
    const command = new Uint8Array(24);
    const view = viewOf(command);
    view.setBigUint64(0, iova, true);
    view.setBigUint64(8, length, true);
    view.setUint32(16, REALLY_WRITE, true);
    view.setUint32(20, byte, true);
    return device.regionWrite(0, 0, command);
  };
}
