import { readdirSync, readlinkSync } from 'node:fs';

const FOLDER = '/proc/self/fd';

/**
 * libuv's own: each event loop keeps one, gives it up to refuse connections when no descriptor is left, and takes another with its next stream,
 * which may be a run later. A thread that lives on shows by its eventpoll.
 */
const RESERVE = '/dev/null';

/** This process's open descriptors by what they are of: how many sockets, how many of a file; but for {@link RESERVE}. */
export function openFiles() {
  const counts = {};
  for (const fd of readdirSync(FOLDER)) {
    const name = nameOf(fd);
    if (name !== undefined && name !== RESERVE) counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

/** `undefined` for the one by which the folder was read. */
function nameOf(fd) {
  try {
    return readlinkSync(`${FOLDER}/${fd}`).replace(/:\[?\d+\]?$/, '');
  } catch {
    return undefined;
  }
}
