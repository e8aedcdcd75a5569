import { release } from 'node:os';
import { createMemoryFile, Mapping, WriteWatch } from '../../native/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';

const PAGE_SIZE = 4096;

/**
 * Tries whether the kernel and the rights of this process let it track its own writes, with one page: opens, arms, writes, scans.
 *
 * @returns `undefined` when they do; else why not, in one line with what would help: ENOSYS, EPERM, EINVAL or ENOTTY (Linux before 6.7),
 *   ENOENT (no /proc), EMFILE, ENOMEM. Whoever writes the memory then marks its writes itself: `MarkedTracker`
 */
export function probeCpuTracking(): VfioError | undefined {
  try {
    using file = createMemoryFile('dmalog-probe', PAGE_SIZE);
    using mapping = Mapping.map(file.fd, 0, PAGE_SIZE, { read: true, write: true });
    using watch = new WriteWatch();
    const interval = { mapping, offset: 0, length: PAGE_SIZE };
    watch.add(interval);
    mapping.fill(0, 1, 1);
    let found = 0;
    watch.takeWritten(interval, (_, count) => {
      found += count;
    });
    if (found === 1) return undefined;
    throw new VfioError('EIO', { operation: 'PAGEMAP_SCAN', message: 'it does not find a page that was written' });
  } catch (error) {
    return explained(error);
  }
}

/** The same error, with what would help. */
export function explained(error: unknown): VfioError {
  const known = asVfioError(error, 'CpuTracker');
  const hint = hintFor(known);
  if (hint === undefined) return known;
  return new VfioError(known.errno, { operation: known.operation, message: hint, cause: known });
}

function hintFor({ operation, errno }: VfioError): string | undefined {
  if (operation === 'userfaultfd' && errno === 'ENOSYS') {
    return 'the kernel is built without CONFIG_USERFAULTFD, or a seccomp profile hides it';
  }
  if (operation === 'userfaultfd' && errno === 'EPERM') {
    return "this process may not: a container's seccomp profile has to allow userfaultfd";
  }
  if (operation === 'UFFDIO_API' || (operation === 'PAGEMAP_SCAN' && errno === 'ENOTTY')) {
    return `tracking the CPU's writes needs Linux 6.7 or later, built with CONFIG_PTE_MARKER_UFFD_WP; this is ${release()}`;
  }
  if (operation === 'PAGEMAP_SCAN' && errno === 'ENOENT') return '/proc/self/pagemap is not there: is /proc mounted?';
  return undefined;
}
