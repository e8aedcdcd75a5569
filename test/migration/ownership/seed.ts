/** The seed of this run, said so that a failure can be repeated: `DMALOG_SEED=… npx vitest run …`. */
export function seedOfRun(what: string): number {
  const seed = Number(process.env['DMALOG_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`${what}: DMALOG_SEED=${seed}`);
  return seed;
}

/** Numbers from 0 to below 1, always the same for a seed (xorshift, 32 bits). */
export function randomFrom(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
