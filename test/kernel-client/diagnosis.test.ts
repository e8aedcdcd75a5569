import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { beforeEach, expect, test } from 'vitest';
import { locateDevice } from '../../src/kernel/device-site.js';
import {
  explainBind,
  explainMap,
  explainOpen,
  explainSetIommu,
  notViable,
  requireUsable,
} from '../../src/kernel/diagnosis.js';
import { KernelDevice } from '../../src/kernel/index.js';
import { VfioError } from '../../src/uapi/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { MadeUpSystem } from './made-up-system.js';

expectNoFdLeak();
const inFolder = temporaryFolder();
let system: MadeUpSystem;
let count = 0;

beforeEach(() => {
  const folder = inFolder(`system-${++count}`);
  mkdirSync(folder);
  system = new MadeUpSystem(folder);
});

const failure = (errno: 'EPERM' | 'EBUSY' | 'EINVAL' | 'ENOMEM' | 'EACCES', operation = 'open') =>
  new VfioError(errno, { operation });
const usable = (target: string) => () => requireUsable(locateDevice(target, system.roots), system.roots);

test('a PCI device in no IOMMU group: switch the IOMMU on', () => {
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'ixgbe' });
  expect(usable('3b:00.2')).toThrow(
    /iommu_group: 0000:3b:00\.2 has no IOMMU group: switch VT-d or AMD-Vi on.*intel_iommu=on.*ENODEV/,
  );
  system.addIommu();
  expect(usable('3b:00.2')).toThrow(/no IOMMU covers 0000:3b:00\.2/);
});

test('a device that another driver has: the name of the driver, and the commands that change it', () => {
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'ixgbe', group: 12 });
  const folder = `${system.roots.sys}/bus/pci/devices/0000:3b:00.2`;
  expect(usable('3b:00.2')).toThrow(
    '0000:3b:00.2 is bound to ixgbe, which is no VFIO driver: driverctl set-override 0000:3b:00.2 vfio-pci',
  );
  expect(usable('3b:00.2')).toThrow(
    `echo vfio-pci > ${folder}/driver_override; echo 0000:3b:00.2 > ${folder}/driver/unbind; echo 0000:3b:00.2 > /sys/bus/pci/drivers_probe`,
  );
});

test('a device that no driver has needs no unbinding', () => {
  system.add({ name: '0000:3b:00.2', bus: 'pci', group: 12 });
  expect(usable('3b:00.2')).toThrow(/has no driver: driverctl/);
  expect(usable('3b:00.2')).not.toThrow(/unbind/);
});

test('a VFIO driver is known by the device it makes, on old kernels by its name', () => {
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'mlx5_special', group: 12, cdev: 'vfio0' });
  system.add({ name: '0000:3b:00.3', bus: 'pci', driver: 'mlx5_vfio_pci', group: 12 });
  expect(usable('3b:00.2')).not.toThrow();
  expect(usable('3b:00.3')).not.toThrow();
});

test('a group that is not viable: the devices that other drivers have, and those alone', () => {
  system.add({ name: '0000:3b:00.0', bus: 'pci', driver: 'ixgbe', group: 12 });
  system.add({ name: '0000:3b:00.1', bus: 'pci', driver: 'nvme', group: 12 });
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'vfio-pci', group: 12, cdev: 'vfio0' });
  system.add({ name: '0000:3a:00.0', bus: 'pci', driver: 'pcieport', group: 12 });
  system.add({ name: '0000:3b:00.4', bus: 'pci', group: 12 });
  const { message } = notViable(12, system.roots);
  expect(message).toBe(
    'open: group: IOMMU group 12 is not viable: 0000:3b:00.0 is bound to ixgbe, 0000:3b:00.1 is bound to nvme: bind those to vfio-pci as well (EPERM)',
  );
});

test('VFIO that is not loaded: the module to load', async () => {
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'vfio-pci', group: 12, cdev: 'vfio0' });
  await expect(KernelDevice.open('3b:00.2', { roots: system.roots })).rejects.toThrow(
    /\/dev\/vfio\/vfio: .*modprobe vfio-pci \(ENODEV\)/,
  );
  await expect(KernelDevice.open('3b:00.2', { roots: system.roots, by: 'iommufd' })).rejects.toThrow(
    /\/dev\/iommu: .*modprobe iommufd \(ENODEV\)/,
  );
});

test('a device file of somebody else: whose it is, and how to get it', () => {
  chmodSync(system.addFile('vfio/12'), 0o640);
  const { message } = explainOpen(failure('EACCES'), { path: '/dev/vfio/12', module: 'vfio-pci', roots: system.roots });
  expect(message).toMatch(
    /^open: \/dev\/vfio\/12: user \S+ \(\d+\) may not open it \(owner \d+, group \d+, mode 0640\): chown \S+ \/dev\/vfio\/12, .*SUBSYSTEM=="vfio".* \(EACCES\)$/,
  );
});

test('a device file in a folder that is closed to the user: how to get it, though not whose it is', () => {
  const { message } = explainOpen(failure('EACCES'), { path: '/dev/vfio/13', module: 'vfio-pci', roots: system.roots });
  expect(message).toMatch(/^open: \/dev\/vfio\/13: user \S+ \(\d+\) may not open it: chown .* \(EACCES\)$/);
});

test('a group that is in use: by which process, where that can be seen', () => {
  const file = { path: '/dev/vfio/12', module: 'vfio-pci', roots: system.roots };
  expect(explainOpen(failure('EBUSY'), file).message).toMatch(/in use already: end that/);
  system.addProcess(4711, 'qemu-system-x86', '/dev/vfio/12');
  expect(explainOpen(failure('EBUSY'), file).message).toMatch(
    /in use already by process 4711 \(qemu-system-x86\): .*EBUSY/,
  );
});

test('a character device that cannot be bound is taken, or its group not viable; other answers stay', () => {
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'vfio-pci', group: 12, cdev: 'vfio0' });
  const site = locateDevice('3b:00.2', system.roots);
  const explain = (error: VfioError) => explainBind(error, site, system.roots);
  for (const errno of ['EINVAL', 'EBUSY', 'EPERM'] as const) {
    expect(explain(failure(errno, 'BIND_IOMMUFD')).errno).toBe('EBUSY');
  }
  expect(explain(failure('ENOMEM', 'BIND_IOMMUFD')).errno).toBe('ENOMEM');
  expect(explain(failure('EINVAL', 'ATTACH_IOMMUFD_PT')).operation).toBe('ATTACH_IOMMUFD_PT');
  system.add({ name: '0000:3b:00.0', bus: 'pci', driver: 'ixgbe', group: 12 });
  expect(explain(failure('EPERM', 'BIND_IOMMUFD')).message).toMatch(/not viable: 0000:3b:00\.0 is bound to ixgbe/);
});

test('memory that may not be locked: how much, and the limit', () => {
  mkdirSync(`${system.roots.proc}/self`);
  writeFileSync(
    `${system.roots.proc}/self/limits`,
    'Max locked memory         8388608              8388608              bytes\n',
  );
  const { message } = explainMap(failure('ENOMEM', 'DMA_MAP'), 1n << 30n, system.roots);
  expect(message).toBe(
    'DMA_MAP: length: 1073741824 bytes of memory are to be locked for the device, RLIMIT_MEMLOCK is 8388608: raise it (ulimit -l, LimitMEMLOCK= in systemd) (ENOMEM)',
  );
  expect(explainMap(failure('EINVAL', 'DMA_MAP'), 4096n, system.roots).errno).toBe('EINVAL');
});

test('an IOMMU that does not remap interrupts: what to switch on', () => {
  expect(explainSetIommu(failure('EPERM', 'SET_IOMMU')).message).toMatch(/allow_unsafe_interrupts \(EPERM\)$/);
  expect(explainSetIommu(failure('EINVAL', 'SET_IOMMU')).errno).toBe('EINVAL');
});

test('an address space of the wrong kind is refused before anything is opened', async () => {
  system.add({ name: '0000:3b:00.2', bus: 'pci', driver: 'vfio-pci', group: 12, cdev: 'vfio0' });
  const space = { kind: 'container' } as never;
  await expect(KernelDevice.open('3b:00.2', { roots: system.roots, space, by: 'iommufd' })).rejects.toThrow(
    /by: iommufd is asked for, and a container is given/,
  );
  await expect(KernelDevice.open('3b:00.2', { roots: system.roots, space })).rejects.toThrow(/space: it is neither/);
});
