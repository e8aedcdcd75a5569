import { ioctlOffThread, NativeBlock } from '../native/index.js';
import { encodeAttach, VfioRequest } from './vfio-abi.js';

/**
 * Attaches a device that is bound to an iommufd to one of its page tables or address spaces, in place of the one before.
 * @throws VfioError EINVAL for a page table that does not fit the device, ENOENT for one that is not there
 */
export async function attachPageTable(device: number, pageTable: number): Promise<void> {
  const block = NativeBlock.from(encodeAttach(pageTable));
  await ioctlOffThread(device, VfioRequest.DEVICE_ATTACH_IOMMUFD_PT, block, 'ATTACH_IOMMUFD_PT');
}
