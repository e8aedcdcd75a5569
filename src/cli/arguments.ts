import { InvalidArgumentError } from 'commander';
import type { WorkloadKindName } from '../devices/dma-engine/index.js';

/*
 * Command line values. A wrong one is answered by one line that shows a right one.
 */

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** A size such as `1G`, `512M`, `64KiB` or `4096`, in bytes. */
export function parseSize(text: string): number {
  const match = /^(\d+)([KMGT]?)(i?B)?$/i.exec(text.trim());
  const bytes = match ? Number(match[1]) * UNITS[match[2]!.toUpperCase()]! : Number.NaN;
  if (!Number.isSafeInteger(bytes)) throw new InvalidArgumentError('It takes a size such as 1G, 512M or 4096.');
  return bytes;
}

const DURATIONS: Readonly<Record<string, number>> = { '': 1, ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
/** Longest time that a timer takes. */
const LONGEST_MS = 2 ** 31 - 1;

/** A time such as `300`, `300ms`, `90s`, `10m` or `2h`, in milliseconds, 1 at least. */
export function parseDuration(text: string): number {
  const match = /^(\d+)(ms|s|m|h|)$/.exec(text.trim());
  const milliseconds = match ? Number(match[1]) * DURATIONS[match[2]!]! : Number.NaN;
  if (!(milliseconds >= 1 && milliseconds <= LONGEST_MS)) {
    throw new InvalidArgumentError('It takes a time such as 300ms, 90s or 10m.');
  }
  return milliseconds;
}

/** A size as {@link parseSize} takes it, but not 0: a limit of nothing. */
export function parsePositiveSize(text: string): number {
  const bytes = parseSize(text);
  if (bytes === 0) throw new InvalidArgumentError('It takes a size above 0, such as 1G.');
  return bytes;
}

/** Where to connect to, or to listen. */
export interface Address {
  host: string;
  port: number;
}

/** `HOST:PORT`; an IPv6 address in brackets. @param leastPort 0 where the system may choose one */
export function parseAddress(leastPort: 0 | 1): (text: string) => Address {
  return text => {
    const match = /^(\[[0-9a-f:.%]+\]|[^:[\]\s]+):(\d{1,5})$/i.exec(text.trim());
    const port = match ? Number(match[2]) : Number.NaN;
    if (!(port >= leastPort && port <= 65535)) {
      throw new InvalidArgumentError('It takes HOST:PORT such as host-b:7007, 192.0.2.7:7007 or [2001:db8::7]:7007.');
    }
    return { host: match![1]!.replace(/^\[|\]$/g, ''), port };
  };
}

/** How the DMA engine chooses the pages that it writes by itself. */
export const WORKLOAD_KINDS: readonly WorkloadKindName[] = ['sequential', 'uniform', 'hot-set', 'rings'];

/** A whole number of at least `least` and at most `most`. */
export function wholeNumber(least: number, most = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return text => {
    const value = /^\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
    if (!(value >= least && value <= most)) {
      const range = most === Number.MAX_SAFE_INTEGER ? `${least} or more` : `${least} to ${most}`;
      throw new InvalidArgumentError(`It takes a whole number, ${range}.`);
    }
    return value;
  };
}

/** One of some words. */
export function oneOf<T extends string>(words: readonly T[]): (text: string) => T {
  return text => {
    const word = words.find(candidate => candidate === text);
    if (word === undefined) throw new InvalidArgumentError(`It takes one of ${words.join(', ')}.`);
    return word;
  };
}
