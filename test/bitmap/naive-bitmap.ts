import fc from 'fast-check';

/* A bitmap as an array of booleans: the twins do bit by bit what the kernels do word by word. */

export function toBits(words: Uint32Array): boolean[] {
  return Array.from(
    { length: words.length * 32 },
    (_, bit) => Math.floor(words[Math.floor(bit / 32)] / 2 ** (bit % 32)) % 2 === 1,
  );
}

export function toWords(bits: readonly boolean[]): Uint32Array {
  const words = new Uint32Array(bits.length / 32);
  for (const [bit, set] of bits.entries()) {
    if (set) words[Math.floor(bit / 32)] += 2 ** (bit % 32);
  }
  return words;
}

export function naiveRuns(bits: readonly boolean[], from: number, limit: number): { start: number; end: number }[] {
  const found: { start: number; end: number }[] = [];
  for (let bit = from; bit < limit; bit++) {
    if (!bits[bit]) continue;
    const start = bit;
    while (bit < limit && bits[bit]) bit++;
    found.push({ start, end: bit });
  }
  return found;
}

/** Words as real bitmaps have them: often clean, often full, some with a few bits, some with many. */
export const word = fc.oneof(
  { weight: 3, arbitrary: fc.constant(0) },
  { weight: 2, arbitrary: fc.constant(0xffffffff) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 31 }).map(bit => 2 ** bit) },
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 0xffffffff }) },
);

/** A bitmap of 1 to 10 words. */
export const bitmap = fc.array(word, { minLength: 1, maxLength: 10 }).map(words => Uint32Array.from(words));

/** A bitmap and an interval of its bits, which may be empty. */
export const bitmapAndInterval = bitmap.chain(words =>
  fc
    .tuple(fc.nat(words.length * 32), fc.nat(words.length * 32))
    .map(([a, b]) => ({ words, start: Math.min(a, b), end: Math.max(a, b) })),
);

/** Two bitmaps, and `count` bits that both have from their start on. */
export const twoBitmaps = fc.tuple(bitmap, bitmap).chain(([source, target]) =>
  fc.tuple(fc.nat(source.length * 32), fc.nat(target.length * 32)).chain(([sourceStart, targetStart]) => {
    const most = Math.min(source.length * 32 - sourceStart, target.length * 32 - targetStart);
    return fc.nat(most).map(count => ({ source, sourceStart, target, targetStart, count }));
  }),
);
