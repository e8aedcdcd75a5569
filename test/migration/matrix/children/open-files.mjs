import { readdirSync, readlinkSync } from 'node:fs';

const FOLDER = '/proc/self/fd';

/** This process's open descriptors by what they are of: how many sockets, how many of a file. */
export function openFiles() {
  const counts = {};
  for (const fd of readdirSync(FOLDER)) {
    const name = nameOf(fd);
    if (name !== undefined) counts[name] = (counts[name] ?? 0) + 1;
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
