import { VfioError } from '../../uapi/index.js';
import type { VfioUserLimits } from '../wire/limits.js';

/** How a `VfioUserClient` connects. */
export interface ClientOptions extends Partial<VfioUserLimits> {
  /** How long a request may wait for its reply before the connection is given up, milliseconds; default 30000; 0: for ever. */
  timeoutMs?: number;
  /**
   * `'vmm'`, the default: the one client that a device works for. `'tracker'`: one that looks on beside it, at a server of this project: it
   * may report, migrate and read statistics, and map nothing.
   */
  role?: 'vmm' | 'tracker';
  /**
   * Whether the server may send its DMA_READs and DMA_WRITEs on a socket of their own. Default true: then neither side's requests hold up
   * the other's, and the C reference mistakes none for the reply that it waits for. A server that does not know it does without.
   */
  twinSocket?: boolean;
  /**
   * `'shared'`, the default: the event loop brings the replies. `'dedicated'`: the client's thread waits for them in the kernel, some
   * milliseconds at most, which saves each round trip a trip through the event loop: for a thread that has nothing else to do meanwhile.
   * The device must not be served by the same thread. While memory is lent by messages and there is a twin socket, it is as `'shared'`.
   */
  loop?: 'shared' | 'dedicated';
  /** Takes a path that begins with `@` for a name in Linux's abstract namespace, which any user may take. Default: it is refused. */
  abstract?: boolean;
}

/** A region of IO virtual addresses that a device may reach. */
export interface DmaMapping {
  /** Bytes, a multiple of 4096. */
  iova: bigint;
  /** Bytes, a multiple of 4096. */
  length: bigint;
  /** The device may read. */
  readable: boolean;
  /** The device may write. */
  writable: boolean;
}

/** The file behind a {@link DmaMapping}. */
export interface DmaFile {
  /** Stays the caller's: it may be closed when the call has returned its promise. */
  fd: number;
  /** Where the region begins in the file, bytes, a multiple of 4096; default 0. */
  offset?: bigint;
}

/** A time to wait, for timers: 0 is for ever. @throws VfioError EINVAL */
export function checkedTimeout(timeoutMs: number): number {
  if (!(timeoutMs >= 0))
    throw new VfioError('EINVAL', { operation: 'connect', field: 'timeoutMs', message: `${timeoutMs}` });
  return timeoutMs === Number.POSITIVE_INFINITY ? 0 : timeoutMs;
}
