import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KernelDevice, locateDevice, Type1Container } from '../../../src/kernel/index.js';
import { GuestMemory } from '../../../src/memory/index.js';
import type { ErrnoName } from '../../../src/uapi/index.js';
import { openDeviceFiles } from './device-files.js';
import { KERNEL, PCI, withVfioPci } from './devices.js';
import { openFiles } from './open-files.js';
import { WAYS } from './ways.js';

/*
 * What people get wrong: one line that says what it is, and how to put it right.
 */

const NOBODY = 65534;

/** That opening fails with one line in which all of this stands, and that nothing stays open. */
async function refused(target: string, by: 'container' | 'iommufd', errno: ErrnoName, ...said: RegExp[]) {
  const before = openFiles();
  await assert.rejects(KernelDevice.open(target, { by }), (error: Error & { errno: string }) => {
    assert.equal(error.errno, errno, error.message);
    assert.doesNotMatch(error.message, /\n/);
    for (const words of said) assert.match(error.message, words);
    return true;
  });
  assert.deepEqual(openFiles(), before);
}

async function asNobody(work: () => Promise<void>): Promise<void> {
  process.seteuid!(NOBODY);
  try {
    await work();
  } finally {
    process.seteuid!(0);
  }
}

for (const by of WAYS) {
  describe(`opening by ${by}`, () => {
    it('says that there is no such device', () => refused('0000:7f:1f.7', by, 'ENODEV', /no PCI device 0000:7f:1f\.7/));

    it('says that a device has no driver, and how it gets one', () =>
      refused(PCI.idle, by, 'ENODEV', /no driver/, /vfio-pci/, /driver_override/));

    it('says which other driver has a device, and how vfio-pci gets it', () =>
      refused(PCI.first, by, 'ENODEV', /nvme/, /driverctl set-override 0000:00:11\.0 vfio-pci/, /unbind/));

    it('says that no IOMMU covers a device', () => refused(PCI.withoutIommu, by, 'ENODEV', /IOMMU/));

    it('says which sibling in the group still has another driver', () =>
      withVfioPci(PCI.first, () => refused(PCI.first, by, 'EPERM', /0000:00:11\.1/, /nvme/, /vfio-pci/)));

    it('says that somebody has the device already', async () => {
      await using device = await KernelDevice.open('vdlog.0', { by });
      await refused('vdlog.0', by, 'EBUSY', /in use/, /this process/);
      assert.equal((await device.info()).regions, 1);
    });

    it('says which file may not be opened, by whom, and what allows it', () =>
      asNobody(() => refused('vdlog.0', by, 'EACCES', /\/dev\/vfio\//, /65534/, /chown/)));

    it('says that more memory is to be locked than the process may', () =>
      withVfioPci(PCI.idle, async () => {
        await using device = await KernelDevice.open(PCI.idle, { by });
        using memory = GuestMemory.create(2n ** 26n);
        const region = { iova: 0n, length: memory.size, readable: true, writable: true };
        await asNobody(() =>
          assert.rejects(device.dmaMap(region, { fd: memory.fd }), (error: Error & { errno: string }) => {
            assert.equal(error.errno, 'ENOMEM', error.message);
            assert.match(error.message, /RLIMIT_MEMLOCK is \d+/);
            return true;
          }),
        );
        assert.deepEqual(device.space.regions, []);
        await device.dmaMap(region, { fd: memory.fd });
      }));
  });
}

describe('opening', () => {
  it('leaves a group to others where its device could not be had', async () => {
    const before = openDeviceFiles();
    const site = locateDevice('vdlog.0', { sys: '/sys', dev: '/dev', proc: '/proc' });
    const container = Type1Container.create();
    await assert.rejects(container.openDevice({ ...site, name: 'vdlog.9' }), { errno: 'ENODEV' });
    {
      await using device = await KernelDevice.open('vdlog.0', { by: 'container' });
      assert.equal((await device.info()).regions, 1);
    }
    const device = await container.openDevice(site);
    device.close();
    await container.close();
    assert.deepEqual(openDeviceFiles(), before);
  });

  it(
    'says that this kernel has no character device, where it has none',
    {
      skip: KERNEL !== '6.1' && 'this kernel has character devices',
    },
    () => refused('vdlog.0', 'iommufd', 'ENODEV', /modprobe/),
  );
});
