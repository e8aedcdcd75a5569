import type { Backing } from '../memory/index.js';
import { VfioError } from '../uapi/index.js';

/**
 * A region that came without a file: its bytes are only with the client. It holds its place in the map, since clients map all that the guest
 * has (QEMU: ROMs), but DMA to it fails: no messages are sent for it.
 */
export class MessageBacking implements Backing {
  readonly kind = 'message';

  /** @throws VfioError EOPNOTSUPP */
  read(): never {
    throw refused('DMA_READ');
  }

  /** @throws VfioError EOPNOTSUPP */
  write(): never {
    throw refused('DMA_WRITE');
  }

  close(): void {}
}

function refused(operation: string): VfioError {
  return new VfioError('EOPNOTSUPP', { operation, field: 'address', message: 'the region was mapped without a file' });
}
