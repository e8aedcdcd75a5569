import { GoneError } from './deviation.js';

/** How long a run that was ended waits for what is under way, milliseconds: to know what the device did, and not to be waited for. */
const LAST_WAIT_MS = 1000;

/**
 * What `promise` gives, or a {@link GoneError} when that takes longer than `limitMs` milliseconds: a device that never answers is stuck. The
 * promise goes on by itself; whatever becomes of it, nobody is told.
 *
 * @param signal ends the waiting soon, with its reason
 */
export async function withinLimit<T>(
  what: string,
  limitMs: number,
  promise: Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const timers: NodeJS.Timeout[] = [];
  let onAbort: (() => void) | undefined;
  const late = new Promise<never>((_, reject) => {
    timers.push(setTimeout(() => reject(new GoneError(`${what}: no answer within ${limitMs} ms`)), limitMs));
    onAbort = () => timers.push(setTimeout(() => reject(signal?.reason), LAST_WAIT_MS));
    signal?.addEventListener('abort', onAbort);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    for (const timer of timers) clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
  }
}
