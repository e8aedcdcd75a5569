import { mkdirSync } from 'node:fs';
import { beforeEach, expect, test } from 'vitest';
import { locateDevice } from '../../src/kernel/device-site.js';
import { errnoOf, temporaryFolder } from '../native/helpers.js';
import { MadeUpSystem } from './made-up-system.js';

const inFolder = temporaryFolder();
const UUID = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
let system: MadeUpSystem;
let count = 0;

beforeEach(() => {
  const folder = inFolder(`system-${++count}`);
  mkdirSync(folder);
  system = new MadeUpSystem(folder);
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'vfio-pci', group: 12, cdev: 'vfio0' });
  system.add({ name: '0000:3b:00.3', bus: 'pci', driver: 'vfio-pci', group: 12, cdev: 'vfio1' });
  system.add({ name: UUID, bus: 'mdev', driver: 'vfio_mdev', group: 13, cdev: 'vfio2' });
  system.add({ name: 'vdlog.0', bus: 'platform', driver: 'vdlog', group: 14 });
});

test('a PCI device is found by its address, with domain or without, in any case of letters', () => {
  for (const target of ['0000:3b:00.2', '3b:00.2', '3B:00.2']) {
    expect(locateDevice(target, system.roots)).toEqual({
      name: '0000:3b:00.2',
      folder: `${system.roots.sys}/bus/pci/devices/0000:3b:00.2`,
      bus: 'pci',
      driver: 'vfio-pci',
      group: 12,
      cdev: 'vfio0',
    });
  }
});

test('every other name leads to the same device', () => {
  const ways: [string, string][] = [
    [UUID, UUID],
    [UUID.toUpperCase(), UUID],
    ['vdlog.0', 'vdlog.0'],
    ['/dev/vfio/13', UUID],
    ['/dev/vfio/12:0000:3b:00.3', '0000:3b:00.3'],
    ['/dev/vfio/devices/vfio1', '0000:3b:00.3'],
    [`${system.roots.sys}/bus/platform/devices/vdlog.0`, 'vdlog.0'],
  ];
  for (const [target, name] of ways) expect(locateDevice(target, system.roots).name).toBe(name);
});

test('what has no driver, group or character device says so', () => {
  system.add({ name: '0000:00:1f.0', bus: 'pci' });
  const { driver, group, cdev } = locateDevice('0000:00:1f.0', system.roots);
  expect([driver, group, cdev]).toEqual([undefined, undefined, undefined]);
});

test('a device that is not there is ENODEV, and the message says where to look', () => {
  const advice: [string, RegExp][] = [
    ['0000:99:00.0', /no PCI device 0000:99:00\.0: lspci -D/],
    ['83b8f4f2-509f-382f-3c1e-e6bfe0fa1fff', /mdev_supported_types/],
    ['/dev/vfio/99', /no IOMMU group 99/],
    ['/dev/vfio/12:0000:3b:00.9', /group 12 has no device 0000:3b:00\.9: it has 0000:3b:00\.2, 0000:3b:00\.3/],
    ['/dev/vfio/devices/vfio9', /ls \/sys\/class\/vfio-dev/],
    ['/sys/nowhere', /there is no device/],
    ['disk', /there is no device 'disk': a PCI address/],
    ['../../pci/devices/0000:3b:00.2', /there is no device/],
    ['', /there is no device/],
  ];
  for (const [target, message] of advice) {
    expect(errnoOf(() => locateDevice(target, system.roots))).toBe('ENODEV');
    expect(() => locateDevice(target, system.roots)).toThrow(message);
  }
});

test('of a group with several devices one must be named, of a name on several buses the folder', () => {
  expect(() => locateDevice('/dev/vfio/12', system.roots)).toThrow(
    /name one, as in \/dev\/vfio\/12:0000:3b:00\.2 .*EINVAL/,
  );
  system.add({ name: 'vdlog.0', bus: 'auxiliary', driver: 'other' });
  expect(() => locateDevice('vdlog.0', system.roots)).toThrow(/on several buses.*EINVAL/);
});
