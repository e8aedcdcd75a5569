import { ones } from './words';

/*
 * Runs of set bits, as the sorted list of their edges: where a run begins, where it ends, where the next one begins ... Bit
 * n is an edge when it differs from bit n - 1, so 64 bits give their edges by one XOR with themselves shifted by one, and
 * each edge costs one count of trailing zeros, whichever way it goes.
 *
 * Worked example: word 0b0111_0010 after a clear bit. XOR 0b1110_0100 is 0b1001_0110: edges 1 2 4 7, the runs [1, 2) and
 * [4, 7).
 *
 * Bit numbers are u32 here, and below 2^31: to TypeScript they are its small integers.
 */

/** From this many clean words in a row on, sixteen bytes are looked at together. */
const MANY_CLEAN = 8;

/** Where the next call goes on: the first bit that was not looked at. */
let resumeAt: u32 = 0;

/** Where {@link edges} or {@link pages} stopped; the limit when it is done. */
export function edgesResume(): u32 {
  return resumeAt;
}

/**
 * Writes the edges of the runs in `[from, limit)` to `out`, as u32, and returns how many there are. The limit itself is no
 * edge: after an odd number of them in all, a run is open there. `open`: 1 when a run is open at `from`. `room`: how many
 * fit, at least 64. `base` is a multiple of 8.
 */
export function edges(base: usize, from: u32, limit: u32, open: u32, out: usize, room: u32): u32 {
  let bit = from;
  let before = <u64>open;
  let next = out;
  let clean = 0;
  const full = out + ((room - 64) << 2);
  while (bit < limit && next <= full) {
    const place = bit & 63;
    const here = min<u32>(64 - place, limit - bit);
    let word = load<u64>(base + ((bit >> 6) << 3));
    if (here !== 64) word = (word & ones(place, here)) >> place;
    if ((word | before) === 0) {
      bit += here;
      clean++;
      if (clean >= MANY_CLEAN && here === 64) bit = skipClean(base, bit, limit);
      continue;
    }
    clean = 0;
    let changes = word ^ ((word << 1) | before);
    if (here !== 64) changes &= ones(0, here);
    for (; changes !== 0; changes &= changes - 1, next += 4) store<u32>(next, bit + <u32>ctz(changes));
    before = (word >> (here - 1)) & 1;
    bit += here;
  }
  resumeAt = min<u32>(bit, limit);
  return (next - out) >> 2;
}

/** Skips stretches of 512 clean bits from `bit`, a border of 64. */
function skipClean(base: usize, bit: u32, limit: u32): u32 {
  while (limit - bit >= 512 && bit < limit) {
    const at = base + (bit >> 3);
    const any = v128.or(v128.or(v128.load(at), v128.load(at, 16)), v128.or(v128.load(at, 32), v128.load(at, 48)));
    if (v128.any_true(any)) break;
    bit += 512;
  }
  return bit;
}

/** Writes the numbers of the set bits in `[from, limit)` to `out`, as u32; otherwise as {@link edges}. */
export function pages(base: usize, from: u32, limit: u32, out: usize, room: u32): u32 {
  let bit = from;
  let next = out;
  let clean = 0;
  const full = out + ((room - 64) << 2);
  while (bit < limit && next <= full) {
    const place = bit & 63;
    const here = min<u32>(64 - place, limit - bit);
    let word = load<u64>(base + ((bit >> 6) << 3));
    if (here !== 64) word = (word & ones(place, here)) >> place;
    if (word === 0) {
      bit += here;
      clean++;
      if (clean >= MANY_CLEAN && here === 64) bit = skipClean(base, bit, limit);
      continue;
    }
    clean = 0;
    for (; word !== 0; word &= word - 1, next += 4) store<u32>(next, bit + <u32>ctz(word));
    bit += here;
  }
  resumeAt = min<u32>(bit, limit);
  return (next - out) >> 2;
}
