import { ones } from './words';

/*
 * Runs of set bits, as the sorted list of their edges: where a run begins, where it ends, where the next one begins ... Bit
 * n is an edge when it differs from bit n - 1, so 64 bits give their edges by one XOR with themselves shifted by one, and
 * each edge costs one count of trailing zeros, whichever way it goes.
 *
 * Worked example: word 0b0111_0010 after a clear bit. XOR 0b1110_0100 is 0b1001_0110: edges 1 2 4 7, the runs [1, 2) and
 * [4, 7).
 */

/** Where the next call goes on: the first bit that was not looked at. */
let resumeAt: u64 = 0;

/** Where {@link edges} stopped; the limit when it is done. */
export function edgesResume(): f64 {
  return <f64>resumeAt;
}

/**
 * Writes the edges of the runs in `[from, limit)` to `out`, as f64, and returns how many there are. The limit itself is no
 * edge: after an odd number of them in all, a run is open there. `open`: 1 when a run is open at `from`. `room`: how many
 * fit, at least 64. `base` is a multiple of 8.
 */
export function edges(base: usize, from: f64, limit: f64, open: u32, out: usize, room: u32): u32 {
  let bit = <u64>from;
  const end = <u64>limit;
  let before = <u64>open;
  let next = out;
  const full = out + ((room - 64) << 3);
  while (bit < end && next <= full) {
    const place = bit & 63;
    if (place === 0 && before === 0) {
      bit = skipClear(base, bit, end);
      if (bit >= end) break;
    }
    const here = min<u64>(64 - place, end - bit);
    const word = (load<u64>(base + <usize>((bit >> 6) << 3)) & ones(place, here)) >> place;
    let changes = word ^ ((word << 1) | before);
    if (here < 64) changes &= ones(0, here);
    for (; changes !== 0; changes &= changes - 1, next += 8) store<f64>(next, <f64>(<i64>(bit + ctz(changes))));
    before = (word >> (here - 1)) & 1;
    bit += here;
  }
  resumeAt = min<u64>(bit, end);
  return <u32>((next - out) >> 3);
}

/** The first border of 64 bits from `bit` on, itself one, whose word is not 0; `end` or a bit beyond when there is none. */
function skipClear(base: usize, bit: u64, end: u64): u64 {
  while (bit + 512 <= end) {
    const at = base + <usize>(bit >> 3);
    const any = v128.or(v128.or(v128.load(at), v128.load(at, 16)), v128.or(v128.load(at, 32), v128.load(at, 48)));
    if (v128.any_true(any)) break;
    bit += 512;
  }
  while (bit < end && load<u64>(base + <usize>(bit >> 3)) === 0) bit += 64;
  return bit;
}

/** Writes the numbers of the set bits in `[from, limit)` to `out`, as f64. As {@link edges}; `room` at least 64. */
export function pages(base: usize, from: f64, limit: f64, out: usize, room: u32): u32 {
  let bit = <u64>from;
  const end = <u64>limit;
  let next = out;
  const full = out + ((room - 64) << 3);
  while (bit < end && next <= full) {
    const place = bit & 63;
    if (place === 0) {
      bit = skipClear(base, bit, end);
      if (bit >= end) break;
    }
    const here = min<u64>(64 - place, end - bit);
    let word = (load<u64>(base + <usize>((bit >> 6) << 3)) & ones(place, here)) >> place;
    for (; word !== 0; word &= word - 1, next += 8) store<f64>(next, <f64>(<i64>(bit + ctz(word))));
    bit += here;
  }
  resumeAt = min<u64>(bit, end);
  return <u32>((next - out) >> 3);
}
