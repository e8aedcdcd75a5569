import type { OwnedFd } from '../native/index.js';
import { VfioError } from '../uapi/index.js';
import type { AddressSpace } from './address-space.js';
import { type DeviceSite, locateDevice } from './device-site.js';
import { hasFile, requireUsable } from './diagnosis.js';
import { IommufdSpace } from './iommufd-space.js';
import { type Roots, SYSTEM_ROOTS } from './roots.js';
import { Type1Container } from './type1-container.js';

/** How a device is opened. */
export interface OpenOptions {
  /**
   * `'iommufd'`: by its character device; `'container'`: by its group. Default: by a given address space's, else the one that the target
   * names, else by the character device where there are both it and an iommufd.
   */
  readonly by?: 'iommufd' | 'container';
  /** An address space to share with other devices; it is not closed with the device. Default: one of its own. */
  readonly space?: AddressSpace;
  /** Where the kernel's file systems are. */
  readonly roots?: Roots;
}

/** A device that is open, and what came with it. */
export interface OpenedDevice {
  readonly file: OwnedFd;
  readonly site: DeviceSite;
  readonly space: AddressSpace;
  readonly ownsSpace: boolean;
  /** The device's number in the iommufd. */
  readonly iommufdId: number | undefined;
}

/** @throws VfioError as `KernelDevice.open` */
export async function openDevice(target: string, options: OpenOptions): Promise<OpenedDevice> {
  const { roots = SYSTEM_ROOTS } = options;
  const site = locateDevice(target, roots);
  requireUsable(site, roots);
  const by = waysFor(target, site, options, roots);
  const { space = by === 'iommufd' ? IommufdSpace.create(roots) : Type1Container.create(roots) } = options;
  const ownsSpace = options.space === undefined;
  try {
    if (space instanceof IommufdSpace) {
      const { file, id } = await space.openDevice(site);
      return { file, site, space, ownsSpace, iommufdId: id };
    }
    if (space instanceof Type1Container) {
      return { file: await space.openDevice(site), site, space, ownsSpace, iommufdId: undefined };
    }
    throw new VfioError('EINVAL', {
      operation: 'open',
      field: 'space',
      message: 'it is neither container nor iommufd',
    });
  } catch (error) {
    if (ownsSpace) await space.close();
    throw error;
  }
}

function waysFor(target: string, site: DeviceSite, { by, space }: OpenOptions, roots: Roots): 'iommufd' | 'container' {
  if (by !== undefined && space !== undefined && by !== space.kind) {
    const message = `${by} is asked for, and a ${space.kind} is given`;
    throw new VfioError('EINVAL', { operation: 'open', field: 'by', message });
  }
  const wanted = by ?? space?.kind ?? named(target);
  if (wanted !== undefined) return wanted;
  const both =
    site.cdev !== undefined && hasFile(`/dev/vfio/devices/${site.cdev}`, roots) && hasFile('/dev/iommu', roots);
  return both ? 'iommufd' : 'container';
}

/** The way that a target names by itself. */
function named(target: string): 'iommufd' | 'container' | undefined {
  if (target.startsWith('/dev/vfio/devices/')) return 'iommufd';
  if (target.startsWith('/dev/vfio/')) return 'container';
  return undefined;
}
