import type { OpenDevice } from '../../conformance/index.js';
import { connect, makeLocalDevice, parseTarget } from '../../connect/index.js';
import { type DeviceHandle, LocalDevice } from '../../device/index.js';
import { type ProfileName, profiles } from '../../uapi/index.js';

/**
 * How a target is opened, again and again. A device in this process is made once: it is the same one that is left and come back to.
 * @throws VfioError as making a local device does
 */
export async function openTarget(target: string, profile: ProfileName, timeoutMs: number): Promise<OpenDevice> {
  const parsed = parseTarget(target);
  if (parsed.transport !== 'local') return () => connect(target, { vfioUser: { timeoutMs } });
  const device = await makeLocalDevice(parsed);
  return async () => new LocalDevice(device, profiles[profile]);
}

/** Gives a handle that is open already the first time, and opens others after it: some devices end when their first client leaves. */
export function beginningWith(first: DeviceHandle, open: OpenDevice): OpenDevice {
  let next: DeviceHandle | undefined = first;
  return async () => {
    const device = next ?? (await open());
    next = undefined;
    return device;
  };
}
