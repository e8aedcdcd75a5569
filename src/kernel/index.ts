/** Real VFIO devices by ioctl: by group and container, or by character device and iommufd. @module */
export type { AddressSpace, DmaRegion, DmaRegionFile } from './address-space.js';
export { type DeviceSite, locateDevice } from './device-site.js';
export * from './iommufd-space.js';
export * from './kernel-device.js';
export type { MappedRegionArea } from './kernel-regions.js';
export type { OpenOptions } from './open-device.js';
export type { Roots } from './roots.js';
export * from './type1-container.js';
export type { UnmapWatch } from './unmap-watch.js';
export type { IommuInfo, KernelRegionInfo, RegionType } from './vfio-abi.js';
