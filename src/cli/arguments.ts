import { InvalidArgumentError } from 'commander';

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
