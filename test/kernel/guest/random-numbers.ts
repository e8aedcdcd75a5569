/** Numbers that look random and are the same each time (a linear congruential generator): `next(n)` is below n, at most 2^32. */
export function randomNumbers(seed: number): (below: number) => number {
  let state = BigInt(seed);
  return below => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    return Number((state >> 32n) % BigInt(below));
  };
}
