import { InvalidArgumentError } from 'commander';
import type { IovaRange } from '../../uapi/index.js';
import { parseSize } from '../arguments.js';

const LEAST = 2 ** 20;

/**
 * A window such as `0x10000000+16M`, behind those before it.
 * @throws InvalidArgumentError for what is none, is less than 1 MiB, or lies outside of the address space
 */
export function parseWindow(text: string, before: readonly IovaRange[] = []): IovaRange[] {
  const [address, size, rest] = text.split('+');
  if (address === undefined || !/^(0x[0-9a-f]+|\d+)$/i.test(address) || size === undefined || rest !== undefined) {
    throw new InvalidArgumentError('It takes an address and a size such as 0x10000000+16M.');
  }
  const window = { iova: BigInt(address), length: BigInt(parseSize(size)) };
  if (window.length < LEAST || (window.iova | window.length) % 4096n !== 0n) {
    throw new InvalidArgumentError('It takes whole pages of 4096 bytes, and 1 MiB at least.');
  }
  if (window.iova + window.length >= 1n << 64n) throw new InvalidArgumentError('It reaches 2^64.');
  return [...before, window];
}
