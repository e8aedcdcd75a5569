import { readdirSync, readlinkSync } from 'node:fs';

/**
 * The files of VFIO, iommufd and guest memory that this process has open: what a test must leave as it found it. Not all files, as Node opens
 * some of its own whenever it likes.
 */
export function openDeviceFiles(): string[] {
  const links = readdirSync('/proc/self/fd').map(linkOf);
  return links.filter(link => /^(anon_inode:.*vfio|\/dev\/(vfio|iommu)|\/memfd:)/.test(link)).sort();
}

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return 'closed meanwhile';
  }
}
