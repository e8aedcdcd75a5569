import koffi from 'koffi';
import { createEventFd, type OwnedFd } from '../../src/native/index.js';
import { VfioError } from '../../src/uapi/index.js';

const RLIMIT_NOFILE = 7;
const library = koffi.load(null);
const getrlimit = library.func('int getrlimit(int resource, void *limits)');
const setrlimit = library.func('int setrlimit(int resource, const void *limits)');

/** Runs `action` while this process can open exactly `free` descriptors more. */
export function withFreeFds<T>(free: number, action: () => T): T {
  const limits = new BigUint64Array(2);
  getrlimit(RLIMIT_NOFILE, limits);
  const [soft, hard] = [limits[0]!, limits[1]!];
  const fillers: OwnedFd[] = [];
  try {
    // A low limit, so that filling up is quick whatever the machine's own is.
    setrlimit(RLIMIT_NOFILE, BigUint64Array.of(soft < 512n ? soft : 512n, hard));
    fillUp(fillers);
    for (let index = 0; index < free; index++) fillers.pop()!.close();
    return action();
  } finally {
    for (const filler of fillers) filler.close();
    setrlimit(RLIMIT_NOFILE, BigUint64Array.of(soft, hard));
  }
}

function fillUp(fillers: OwnedFd[]): void {
  for (;;) {
    try {
      fillers.push(createEventFd());
    } catch (error) {
      if (error instanceof VfioError && error.errno === 'EMFILE') return;
      throw error;
    }
  }
}
