import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { connect } from '../../../src/connect/index.js';
import { GuestMemory } from '../../../src/memory/index.js';

import { DirtySet, LoggingSession } from '../../../src/tracker/index.js';
import { hostSession, MEMORY_SIZE } from '../../connect/host-session.js';
import { openDeviceFiles } from './device-files.js';
import { cdevFile, groupFile, VDLOG, WITHOUT_CDEV } from './devices.js';
import { dmaWrite } from './vdlog.js';

async function serves(target: string): Promise<void> {
  const before = openDeviceFiles();
  {
    using memory = GuestMemory.create(MEMORY_SIZE);
    const device = await connect(target);
    try {
      await hostSession(device, (iova, length, fill) => dmaWrite(device, { iova, length, fill }), memory, {
        newDirtySet: ranges => new DirtySet(ranges),
        newSession: handle => new LoggingSession(handle.features),
      });
    } finally {
      await device.close();
    }
  }
  assert.deepEqual(openDeviceFiles(), before);
}

describe('connect', () => {
  const [vdlog] = VDLOG;

  it('serves the host session of all wires by a name on its bus', () => serves('vfio:vdlog.0'));

  it('serves it by a group', () => serves(`vfio:${groupFile(vdlog)}`));

  it('serves it by a group and a name', () => serves(`vfio:${groupFile(vdlog)}:vdlog.0`));

  it('serves it by a character device', { skip: WITHOUT_CDEV }, () => serves(`vfio:${cdevFile(vdlog)}`));
});
