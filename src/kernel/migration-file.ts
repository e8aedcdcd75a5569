import { Turns } from '../device/index.js';
import { ioctl, NativeBlock, OwnedFd, readStreamOffThread, writeStreamOffThread } from '../native/index.js';
import {
  decodePrecopyInfo,
  encodePrecopyInfo,
  MigrationState,
  migrationStateName,
  type PrecopyInfo,
  VfioError,
} from '../uapi/index.js';
import { GuardedFd } from './guarded-fd.js';
import { VfioRequest } from './vfio-abi.js';

/*
 * The descriptor that a device's migration data travels through (linux/vfio.h, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE). The kernel opens it when
 * the device enters a state with data, and says its number once: who does not take it then has leaked it. It is of use in that state alone.
 *
 * Example: RUNNING to PRE_COPY brings descriptor 23; PRE_COPY to STOP_COPY brings -1, and 23 goes on; STOP_COPY to STOP ends it, and it is closed.
 */

const STATES_WITH_DATA: ReadonlySet<number> = new Set([
  MigrationState.STOP_COPY,
  MigrationState.RESUMING,
  MigrationState.PRE_COPY,
  MigrationState.PRE_COPY_P2P,
]);

/** Most bytes of one read or write: what is asked for beyond comes with the next. */
const MOST_AT_ONCE = 2 ** 20;

/** The migration data of one device. */
export class MigrationFile {
  #file: GuardedFd | undefined;
  readonly #turns = new Turns();

  /** Whether there is a descriptor. */
  get isOpen(): boolean {
    return this.#file !== undefined;
  }

  /**
   * The device is in a new state.
   * @param dataFd a new descriptor, taken over; -1: none
   */
  entered(state: number, dataFd: number): void {
    if (dataFd >= 0) {
      this.close();
      this.#file = new GuardedFd(new OwnedFd(dataFd), 'the migration data');
    }
    if (!STATES_WITH_DATA.has(state)) this.close();
  }

  /**
   * The next bytes, at most `limit`; none: all that there is for now. The device may let the reader wait, which another thread does.
   * @throws VfioError EINVAL in a state without data; as the driver answers
   */
  async read(limit: number): Promise<Uint8Array> {
    const operation = 'MIG_DATA_READ';
    if (!(limit > 0)) return new Uint8Array(0);
    return this.#turns.run(() =>
      this.#use(operation, async fd => {
        const block = new NativeBlock(Math.min(limit, MOST_AT_ONCE));
        const count = await readStreamOffThread(fd, block, operation).catch(nothingForNow);
        return block.bytes.slice(0, count);
      }),
    );
  }

  /**
   * Writes all of `data`.
   * @throws VfioError EINVAL in a state without data; as the driver answers, and a part may have been taken then
   */
  async write(data: Uint8Array): Promise<void> {
    const operation = 'MIG_DATA_WRITE';
    const bytes = data.slice();
    await this.#turns.run(() =>
      this.#use(operation, async fd => {
        for (let done = 0; done < bytes.length; ) {
          const block = NativeBlock.from(bytes.subarray(done, done + MOST_AT_ONCE));
          const count = await writeStreamOffThread(fd, block, operation);
          if (count === 0) throw new VfioError('EIO', { operation, message: 'the device takes nothing' });
          done += count;
        }
      }),
    );
  }

  /**
   * What PRE_COPY still has to offer (VFIO_MIG_GET_PRECOPY_INFO).
   * @throws VfioError EINVAL in any other state
   */
  precopyInfo(): PrecopyInfo {
    const operation = 'MIG_GET_PRECOPY_INFO';
    const block = NativeBlock.from(encodePrecopyInfo({ initialBytes: 0n, dirtyBytes: 0n }));
    ioctl(this.#open(operation).now(operation), VfioRequest.MIG_GET_PRECOPY_INFO, block, operation);
    return decodePrecopyInfo(block.bytes);
  }

  /** Lets go of the descriptor, when the last thread is done with it. */
  async close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }

  async #use<T>(operation: string, work: (fd: number) => Promise<T>): Promise<T> {
    return this.#open(operation).use(operation, work);
  }

  #open(operation: string): GuardedFd {
    if (this.#file !== undefined) return this.#file;
    const states = [...STATES_WITH_DATA].map(migrationStateName).join(', ');
    throw new VfioError('EINVAL', { operation, message: `there is data in the states ${states} only` });
  }
}

/** PRE_COPY ends a read with ENOMSG when all is read for now, and a descriptor that does not wait with EAGAIN. */
function nothingForNow(error: unknown): number {
  if (error instanceof VfioError && (error.errno === 'ENOMSG' || error.errno === 'EAGAIN')) return 0;
  throw error;
}
