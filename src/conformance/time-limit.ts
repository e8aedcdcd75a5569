import { GoneError } from './deviation.js';

/**
 * What `promise` gives, or a {@link GoneError} when that takes longer than `limitMs` milliseconds: a device that never answers is stuck. The
 * promise goes on by itself; whatever becomes of it, nobody is told.
 */
export async function withinLimit<T>(what: string, limitMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new GoneError(`${what}: no answer within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
