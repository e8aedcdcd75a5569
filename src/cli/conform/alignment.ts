import { InvalidArgumentError } from 'commander';
import { parseSize } from '../arguments.js';

/** Largest blocks that a stimulus writes, bytes: those of a page, or a write could not be kept to one. */
const MOST = 4096;

/** The size of the blocks that a device writes. @throws InvalidArgumentError for what is no power of two, or more than a page */
export function parseAlignment(text: string): number {
  const bytes = parseSize(text);
  const isPowerOfTwo = bytes > 0 && (bytes & (bytes - 1)) === 0;
  if (!isPowerOfTwo || bytes > MOST) throw new InvalidArgumentError(`It takes a power of two, 1 to ${MOST}.`);
  return bytes;
}
