import assert from 'node:assert/strict';
import { existsSync, readlinkSync } from 'node:fs';
import { release } from 'node:os';
import { basename } from 'node:path';
import { describe, it } from 'node:test';

describe('the machine that the tests run in', () => {
  it('runs one of the kernels that the tests know', () => {
    assert.match(release(), /^6\.(1|12)\./);
  });

  it('has two devices of vdlog, each in a group of its own', () => {
    const groups = [0, 1].map(n => basename(readlinkSync(`/sys/bus/platform/devices/vdlog.${n}/iommu_group`)));
    assert.notEqual(groups[0], groups[1]);
    for (const group of groups) assert.ok(existsSync(`/dev/vfio/${group}`));
  });

  it('has PCI devices in a group of their own, in a shared group, and in none', () => {
    const group = (address: string) => {
      const link = `/sys/bus/pci/devices/${address}/iommu_group`;
      return existsSync(link) ? basename(readlinkSync(link)) : undefined;
    };
    assert.notEqual(group('0000:00:10.0'), group('0000:00:12.0'));
    assert.equal(group('0000:00:11.0'), group('0000:00:11.1'));
    assert.equal(group('0000:41:00.0'), undefined);
  });
});
