import koffi from 'koffi';
import { createEventFd, type OwnedFd } from '../../src/native/index.js';
import { errnoOf } from '../native/helpers.js';

const RLIMIT_NOFILE = 7;
const library = koffi.load(null);
const getrlimit = library.func('int getrlimit(int resource, void *limits)');
const setrlimit = library.func('int setrlimit(int resource, const void *limits)');

/** Leaves this process no descriptor to open, until the returned function is called. */
export function takeAllFds(): () => void {
  const limits = new BigUint64Array(2);
  getrlimit(RLIMIT_NOFILE, limits);
  const [soft, hard] = [limits[0]!, limits[1]!];
  // A low limit, so that filling up is quick whatever the machine's own is.
  setrlimit(RLIMIT_NOFILE, BigUint64Array.of(soft < 512n ? soft : 512n, hard));
  const fillers: OwnedFd[] = [];
  while (errnoOf(() => fillers.push(createEventFd())) === undefined);
  return () => {
    for (const filler of fillers) filler.close();
    setrlimit(RLIMIT_NOFILE, BigUint64Array.of(soft, hard));
  };
}
