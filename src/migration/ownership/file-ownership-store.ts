import { type FileHandle, mkdir, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { lockFile } from '../../native/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import {
  decodeRecord,
  encodeRecord,
  isSameRecord,
  MAX_RECORD_SIZE,
  type OwnershipRecord,
  requireName,
} from './ownership-record.js';
import type { CompareAndSetResult, OwnershipStore } from './ownership-store.js';

/** How long to wait for another process's lock, which is held for a few milliseconds, and how often to try. */
const LOCK_WAIT_MS = 5000;
const LOCK_TRY_MS = 5;

/**
 * Records as files in one folder of a local file system, for two ends on one host.
 *
 * A record is replaced by a rename, under a lock of its own file that the system takes away from whoever dies. A crash at any call leaves the
 * old record or the new one, whole: before the rename, a file `NAME.new` that the next writer overwrites; after it, nothing to be done. Nobody
 * is told of a record before the folder is on disk, so that not even a power cut undoes what somebody has acted on.
 */
export class FileOwnershipStore implements OwnershipStore {
  readonly name: string;
  readonly #folder: string;

  /** @param folder is made when it is not there; every process that shares it must be able to write in it */
  constructor(folder: string) {
    this.#folder = folder;
    this.name = `the folder ${folder}`;
  }

  /**
   * {@inheritDoc OwnershipStore.read}
   * @throws VfioError EBADMSG for a file that holds no record, EAGAIN when its lock was held for five seconds, EACCES, EIO… as the system says
   */
  async read(machine: string): Promise<OwnershipRecord | undefined> {
    requireName('machine', machine);
    try {
      return await this.#locked(machine, async () => {
        const record = await this.#load(machine);
        await this.#syncFolder();
        return record;
      });
    } catch (error) {
      throw asVfioError(error, 'ownership');
    }
  }

  async compareAndSet(expected: OwnershipRecord | undefined, next: OwnershipRecord): Promise<CompareAndSetResult> {
    let outcome: 'not-set' | 'unknown' = 'not-set';
    try {
      return await this.#locked(next.machine, async () => {
        const current = await this.#load(next.machine);
        if (!isSameRecord(current, expected)) {
          await this.#syncFolder();
          return { outcome: 'conflict', current };
        }
        await this.#writeNew(next);
        outcome = 'unknown';
        await rename(this.#path(next.machine, 'new'), this.#path(next.machine, 'json'));
        await this.#syncFolder();
        return { outcome: 'set' };
      });
    } catch (error) {
      return { outcome, error: asVfioError(error, 'ownership') };
    }
  }

  #path(machine: string, kind: 'json' | 'new' | 'lock'): string {
    return join(this.#folder, `${machine}.${kind}`);
  }

  async #locked<T>(machine: string, work: () => Promise<T>): Promise<T> {
    await mkdir(this.#folder, { recursive: true });
    // Never removed: a lock on a file that another process has removed and made anew would exclude nobody.
    const file = await open(this.#path(machine, 'lock'), 'a');
    try {
      await this.#lock(file);
      return await work();
    } finally {
      await file.close();
    }
  }

  async #lock(file: FileHandle): Promise<void> {
    const deadline = performance.now() + LOCK_WAIT_MS;
    while (true) {
      try {
        return lockFile(file.fd, 'exclusive');
      } catch (error) {
        const isHeld = error instanceof VfioError && error.errno === 'EAGAIN';
        if (!isHeld || performance.now() > deadline) throw error;
      }
      await delay(LOCK_TRY_MS);
    }
  }

  async #load(machine: string): Promise<OwnershipRecord | undefined> {
    const path = this.#path(machine, 'json');
    const text = await readStart(path, MAX_RECORD_SIZE + 1);
    if (text === undefined) return undefined;
    const record = decodeRecord(text, path);
    if (record.machine === machine) return record;
    const message = `${path} is the record of ${record.machine}`;
    throw new VfioError('EBADMSG', { operation: 'ownership', field: 'machine', message });
  }

  async #writeNew(record: OwnershipRecord): Promise<void> {
    const file = await open(this.#path(record.machine, 'new'), 'w');
    try {
      await file.writeFile(encodeRecord(record));
      await file.sync();
    } finally {
      await file.close();
    }
  }

  async #syncFolder(): Promise<void> {
    const folder = await open(this.#folder, 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }
}

/** The first bytes of a file as text; `undefined` when there is no such file. */
async function readStart(path: string, most: number): Promise<string | undefined> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(most), position: 0 });
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}
