import { existsSync, readdirSync, readFileSync, readlinkSync, type Stats, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { asVfioError, type ErrnoName, VfioError } from '../uapi/index.js';
import { type DeviceSite, devicesInGroup } from './device-site.js';
import type { Roots } from './roots.js';

/*
 * Why a device cannot be opened, in one line each: what is wrong, and how to put it right. The kernel says EINVAL or EPERM for most of it; the
 * reason stands in sysfs.
 */

/** Drivers that do no DMA of their own: a group is viable with them (linux: drivers/iommu and drivers/pci, `driver_managed_dma`). */
const HARMLESS_DRIVERS = new Set(['pci-stub', 'pcieport', 'shpchp']);

/** Whether a VFIO driver has the device. */
export function isBoundToVfio(site: DeviceSite): boolean {
  // Kernels before 6.1 have no folder vfio-dev; their VFIO drivers have it in their names.
  return site.cdev !== undefined || /vfio/.test(site.driver ?? '');
}

/**
 * What is wrong with a device before anything of it is opened.
 * @throws VfioError ENODEV: no IOMMU, no VFIO driver, or no VFIO in the kernel
 */
export function requireUsable(site: DeviceSite, roots: Roots): void {
  if (site.group === undefined && site.bus === 'pci') throw withoutIommu(site, roots);
  if (!isBoundToVfio(site)) throw withoutDriver(site);
  if (site.group === undefined) {
    throw wrong('ENODEV', 'iommu_group', `${site.name} has no IOMMU group, though ${site.driver} has it`);
  }
}

function withoutIommu(site: DeviceSite, roots: Roots): VfioError {
  const any = entries(join(roots.sys, 'class/iommu')).length > 0;
  const message = any
    ? `no IOMMU covers ${site.name}: it sits where its DMA cannot be held apart; another slot may do`
    : `${site.name} has no IOMMU group: switch VT-d or AMD-Vi on in the firmware's setup, and boot with intel_iommu=on iommu=pt (Intel) or iommu=pt (AMD)`;
  return wrong('ENODEV', 'iommu_group', message);
}

function withoutDriver({ name, bus, driver, folder }: DeviceSite): VfioError {
  const has = driver === undefined ? 'has no driver' : `is bound to ${driver}, which is no VFIO driver`;
  if (bus !== 'pci') return wrong('ENODEV', 'driver', `${name} ${has}: bind it to one`);
  const unbind = driver === undefined ? '' : `; echo ${name} > ${folder}/driver/unbind`;
  const advice = `driverctl set-override ${name} vfio-pci, or: modprobe vfio-pci; echo vfio-pci > ${folder}/driver_override${unbind}; echo ${name} > /sys/bus/pci/drivers_probe`;
  return wrong('ENODEV', 'driver', `${name} ${has}: ${advice}`);
}

/** Which file could not be opened, and what for. */
export interface DeviceFile {
  /** As people know it: `/dev/vfio/12`. */
  readonly path: string;
  /** What makes it: `'vfio-pci'`. */
  readonly module: string;
  /** Where it is looked for. */
  readonly roots: Roots;
}

/** Why a device file could not be opened. */
export function explainOpen(error: unknown, file: DeviceFile): VfioError {
  const { errno, message } = asVfioError(error, 'open');
  switch (errno) {
    case 'ENOENT':
    case 'ENXIO':
    case 'ENODEV':
      return wrong(
        'ENODEV',
        file.path,
        `it is not there: the kernel has no such interface, or not loaded: modprobe ${file.module}`,
        error,
      );
    case 'EACCES':
    case 'EPERM':
      return wrong(errno, file.path, withoutPermission(file), error);
    case 'EBUSY':
      return wrong('EBUSY', file.path, `it is in use already${by(file)}: end that, or share its address space`, error);
    default:
      return wrong(errno, file.path, message, error);
  }
}

function withoutPermission({ path, roots }: DeviceFile): string {
  const uid = process.geteuid!();
  const name = userName() ?? `${uid}`;
  const rule = `udev rule SUBSYSTEM=="vfio", OWNER="${name}"`;
  return `user ${name} (${uid}) may not open it${rights(path, roots)}: chown ${name} ${path}, or for good a ${rule}`;
}

/** Whose a device file is; nothing where that cannot be seen either, as in a folder that is closed to the user. */
function rights(path: string, roots: Roots): string {
  const found = statIfAllowed(fileOf(path, roots));
  if (found === undefined) return '';
  const { uid, gid, mode } = found;
  return ` (owner ${uid}, group ${gid}, mode ${(mode & 0o777).toString(8).padStart(4, '0')})`;
}

function statIfAllowed(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** A user need not have a name: containers often run as a bare number. */
function userName(): string | undefined {
  try {
    return userInfo().username;
  } catch {
    return undefined;
  }
}

/** The process that has a device file open, where that can be seen. */
function by({ path, roots }: DeviceFile): string {
  const pid = entries(roots.proc)
    .filter(name => /^\d+$/.test(name))
    .find(name => entries(join(roots.proc, name, 'fd')).some(fd => linkTo(join(roots.proc, name, 'fd', fd)) === path));
  if (pid === undefined) return '';
  const command = textOf(join(roots.proc, pid, 'comm'));
  return Number(pid) === process.pid ? ' by this process' : ` by process ${pid} (${command})`;
}

/** Why a group cannot be given to anybody: devices of it that drivers of the kernel still work with. */
export function notViable(group: number, roots: Roots, cause?: unknown): VfioError {
  const others = siblingsInUse(group, roots);
  const list = others.map(({ name, driver }) => `${name} is bound to ${driver}`).join(', ');
  const advice =
    list === ''
      ? 'a device of it is in use by a driver'
      : `${list}: bind ${others.length > 1 ? 'those' : 'it'} to vfio-pci as well`;
  return wrong('EPERM', 'group', `IOMMU group ${group} is not viable: ${advice}`, cause);
}

/** Why a container could not be given an IOMMU. */
export function explainSetIommu(error: unknown): VfioError {
  const known = asVfioError(error, 'SET_IOMMU');
  if (known.errno !== 'EPERM') return known;
  const message =
    'the IOMMU does not remap interrupts: switch that on in the firmware (x2APIC, interrupt remapping), or, where every guest is trusted, echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts';
  return wrong('EPERM', 'iommu', message, error);
}

/** A device that is open answers EINVAL by its character device, a group that is open EBUSY, and one that a driver works with EPERM or EBUSY. */
const TAKEN: ReadonlySet<ErrnoName> = new Set(['EINVAL', 'EBUSY', 'EPERM']);

/** Why a character device could not be bound to an iommufd, and given an address space. */
export function explainBind(error: unknown, site: DeviceSite, roots: Roots): VfioError {
  const known = asVfioError(error, 'BIND_IOMMUFD');
  if (known.operation !== 'BIND_IOMMUFD' || !TAKEN.has(known.errno)) return known;
  if (site.group !== undefined && siblingsInUse(site.group, roots).length > 0) {
    return notViable(site.group, roots, error);
  }
  const path = `/dev/vfio/devices/${site.cdev}`;
  return explainOpen(new VfioError('EBUSY', { operation: 'open', cause: error }), { path, module: 'vfio-pci', roots });
}

/** The devices of a group that drivers other than VFIO's work with. */
export function siblingsInUse(group: number, roots: Roots): DeviceSite[] {
  return devicesInGroup(group, roots).filter(
    site => site.driver !== undefined && !HARMLESS_DRIVERS.has(site.driver) && !isBoundToVfio(site),
  );
}

/** Why memory could not be mapped for devices. */
export function explainMap(error: unknown, length: bigint, roots: Roots): VfioError {
  const { errno, message } = asVfioError(error, 'DMA_MAP');
  if (errno !== 'ENOMEM')
    return new VfioError(errno, { operation: 'DMA_MAP', message: shorten(message), cause: error });
  const limit = /^Max locked memory\s+(\S+)/m.exec(textOf(join(roots.proc, 'self/limits')))?.[1] ?? 'unknown';
  const advice = `${length} bytes of memory are to be locked for the device, RLIMIT_MEMLOCK is ${limit}: raise it (ulimit -l, LimitMEMLOCK= in systemd)`;
  return new VfioError('ENOMEM', { operation: 'DMA_MAP', field: 'length', message: advice, cause: error });
}

/** A file under the root that is asked about. */
export function fileOf(path: string, roots: Roots): string {
  return path.replace(/^\/dev(?=\/)/, roots.dev);
}

/** Whether a device file is there. */
export function hasFile(path: string, roots: Roots): boolean {
  return existsSync(fileOf(path, roots));
}

function wrong(errno: ErrnoName, field: string, message: string, cause?: unknown): VfioError {
  return new VfioError(errno, { operation: 'open', field, message, ...(cause === undefined ? {} : { cause }) });
}

/** Without the operation in front and the errno behind, which the new error says itself. */
function shorten(message: string): string {
  return message.replace(/^DMA_MAP: ?/, '').replace(/ ?\(\w+\)$/, '');
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function linkTo(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}
