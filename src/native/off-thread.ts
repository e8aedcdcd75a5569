import { ERRNO } from '../uapi/index.js';
import { lastErrno, systemError } from './libc.js';

/*
 * Calls that may take long, on libuv's threads, so that the event loop goes on.
 *
 * Those threads, four unless UV_THREADPOOL_SIZE says otherwise, are Node's own: four calls that wait would stop every file access of the
 * process. So two run at once, and the others wait here, in order.
 *
 * Example: five devices are asked for their logs at once. Two requests run, three wait; a configuration file that is read meanwhile finds
 * two threads free.
 */

const MOST_AT_ONCE = 2;

let running = 0;
const waiting: (() => void)[] = [];

/** Hands a call to another thread; it calls back with the call's result, -1 for a failure, with errno set. */
export type StartCall = (answer: (error: unknown, result: number) => void) => void;

/**
 * Makes a call on another thread, again when a signal interrupts it. What it is given must stay where it is until the promise settles.
 * @returns what the call returned
 * @throws VfioError with the call's errno, `operation` as operation
 */
export async function offThread(operation: string, start: StartCall): Promise<number> {
  if (running === MOST_AT_ONCE) await new Promise<void>(resolve => waiting.push(resolve));
  else running++;
  try {
    return await uninterruptedOffThread(operation, start);
  } finally {
    // The place goes to the first that waits, so that nobody comes before it.
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  }
}

async function uninterruptedOffThread(operation: string, start: StartCall): Promise<number> {
  for (;;) {
    const { result, errno } = await answered(start);
    if (result !== -1) return result;
    if (errno !== ERRNO.EINTR) throw systemError(operation, undefined, errno);
  }
}

function answered(start: StartCall): Promise<{ result: number; errno: number }> {
  return new Promise((resolve, reject) => {
    start((error, result) => {
      // errno is that of the other thread only here.
      if (error === null) resolve({ result, errno: result === -1 ? lastErrno() : 0 });
      else reject(error);
    });
  });
}
