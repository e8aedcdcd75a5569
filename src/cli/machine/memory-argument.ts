import { InvalidArgumentError } from 'commander';
import { parseSize } from '../arguments.js';

/*
 * `--memory FILE[@IOVA[+LENGTH[+OFFSET]]]`: a file that holds guest memory, where the machine sees it, how much of it, and from which byte of the
 * file on. The last @ counts: a file whose name has one is followed by another.
 *
 * Worked example, 6 GiB of which a PC has 2 below the hole at 4 GiB:
 *   /dev/shm/vm7@0+2G          bytes [0, 2 GiB) of the file at IOVA 0
 *   /dev/shm/vm7@4G+4G+2G      bytes [2 GiB, 6 GiB) of the file at IOVA 4 GiB
 */

/** One `--memory`. */
export interface MemoryArgument {
  file: string;
  iova: bigint;
  /** Bytes; `undefined`: what the file has from `offset` on. */
  length: number | undefined;
  /** Bytes. */
  offset: number;
}

/** How it is written, for help. */
export const MEMORY_FORM = 'file[@iova[+length[+offset]]]';

/** A `--memory`, behind those before it. */
export function parseMemory(text: string, before: readonly MemoryArgument[] = []): MemoryArgument[] {
  const at = text.lastIndexOf('@');
  const file = at === -1 ? text : text.slice(0, at);
  const [iova = '0', length, offset = '0', rest] = at === -1 ? [] : text.slice(at + 1).split('+');
  if (file === '' || rest !== undefined) throw wrongForm();
  const argument = {
    file,
    iova: parsePageNumber(iova),
    length: length === undefined ? undefined : Number(parsePageNumber(length)),
    offset: Number(parsePageNumber(offset)),
  };
  if (argument.length === 0) throw wrongForm();
  return [...before, argument];
}

function parsePageNumber(text: string): bigint {
  const value = /^0x[0-9a-f]{1,16}$/i.test(text) ? BigInt(text) : decimal(text);
  if (value % 4096n !== 0n) throw new InvalidArgumentError('It takes whole pages: multiples of 4096.');
  return value;
}

function decimal(text: string): bigint {
  try {
    return BigInt(parseSize(text));
  } catch {
    throw wrongForm();
  }
}

function wrongForm(): InvalidArgumentError {
  return new InvalidArgumentError('It takes FILE[@IOVA[+LENGTH[+OFFSET]]] such as /dev/shm/vm7 or ram@0x100000000+4G.');
}
