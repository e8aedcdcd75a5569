// A real device whose answers are late or wrong, as the run says: see FAULTS of device in faults.ts.
import { setTimeout as delay } from 'node:timers/promises';
import { MigrationState, VfioError } from '../../../../dist/uapi/index.js';

const LATE_MS = 150;

/**
 * @param fault what is wrong with the device, and in which pass; `undefined`: nothing
 * @param progress `pass`: how many passes are done; `struck()` is called whenever the fault shows
 * @returns the device as the migration sees it
 */
export function faultyDevice(device, fault, progress) {
  const { features } = device;
  const isDue = () => fault !== undefined && progress.pass >= fault.afterPasses;
  const refuse = (errno, operation) => {
    progress.struck();
    throw new VfioError(errno, { operation, message: 'the device is broken' });
  };
  const late = async () => {
    progress.struck();
    await delay(LATE_MS);
  };
  let reportsFailed = 0;

  return overlay(device, {
    features: overlay(features, {
      async report(asked, bitmap) {
        if (!isDue()) return features.report(asked, bitmap);
        if (fault.what === 'report-fails-once' && reportsFailed++ === 0) return refuse('EIO', 'DMA_LOGGING_REPORT');
        if (fault.what === 'report-fails-always') return refuse('EIO', 'DMA_LOGGING_REPORT');
        if (fault.what === 'device-is-late') await late();
        if (fault.what !== 'report-lies') return features.report(asked, bitmap);
        progress.struck();
        return features.report(asked, new Uint32Array(bitmap.length));
      },
      async setMigrationState(state) {
        const stops = state === MigrationState.STOP_COPY;
        if (isDue() && fault.what === 'device-refuses-to-stop' && stops) return refuse('EIO', 'MIG_DEVICE_STATE');
        const loads = state === MigrationState.STOP && fault?.what === 'device-refuses-to-load';
        if (loads && isDue()) return refuse('EINVAL', 'MIG_DEVICE_STATE');
        const runs = state === MigrationState.RUNNING && fault?.what === 'device-refuses-to-run';
        if (runs && isDue()) return refuse('EIO', 'MIG_DEVICE_STATE');
        if (isDue() && fault.what === 'device-is-late') await late();
        return features.setMigrationState(state);
      },
      /** So much state for the first passes that no limit is met: the number of passes is the run's, not the clock's. */
      migrationDataSize: () => (progress.pass + 1 < progress.passes ? 2n ** 50n : features.migrationDataSize()),
    }),
    async readMigrationData(limit) {
      const data = await device.readMigrationData(limit);
      if (!isDue() || fault.what !== 'device-state-is-wrong' || data.length === 0) return data;
      progress.struck();
      return data.map((byte, index) => (index < 64 ? byte ^ 0xff : byte));
    },
    async writeMigrationData(data) {
      if (isDue() && fault.what === 'device-refuses-state') return refuse('ENOSPC', 'MIG_DATA_WRITE');
      if (isDue() && fault.what === 'device-is-late') await late();
      return device.writeMigrationData(data);
    },
  });
}

/** `target` with some members replaced. Its own keep `target` as their `this`: they have private fields. */
function overlay(target, replaced) {
  return new Proxy(target, {
    get(_, key) {
      if (Object.hasOwn(replaced, key)) return replaced[key];
      const member = target[key];
      return typeof member === 'function' ? member.bind(target) : member;
    },
  });
}
