import { bitsToBorder, ones, orPart, orShifted } from './words';

/*
 * OR and read-and-clear between two bitmaps at any two bit offsets: a partial word to the source's next border, whole words
 * (sixteen bytes at a time when the two offsets differ by whole bytes), a partial word.
 *
 * Worked example: 200 bits from source bit 60 to target bit 3. Bits 60 to 63 go first, to target 3 to 6; then the words 1
 * to 3, whose images begin at target bits 7, 71 and 135: byte 0, 8 and 16, each shifted by 7; then four bits of word 4, to
 * target 199 to 202.
 */

/** ORs source bits `[sourceStart, sourceStart + count)` into the target from `targetStart` on. No shared bytes. */
export function or(source: usize, sourceStart: f64, target: usize, targetStart: f64, count: f64): void {
  let from = <u64>sourceStart;
  let to = <u64>targetStart;
  let left = <u64>max(count, 0);
  const head = bitsToBorder(from, left);
  if (head !== 0) {
    orPart(target, to, (load<u64>(source + <usize>((from >> 6) << 3)) & ones(from & 63, head)) >> (from & 63));
    from += head;
    to += head;
    left -= head;
  }
  let at = source + <usize>(from >> 3);
  const end = at + <usize>((left >> 6) << 3);
  let out = target + <usize>(to >> 3);
  const shift = to & 7;
  if (shift === 0) {
    for (; end - at >= 16; at += 16, out += 16) v128.store(out, v128.or(v128.load(out), v128.load(at)));
    if (at < end) {
      store<u64>(out, load<u64>(out) | load<u64>(at));
      at += 8;
    }
  } else {
    for (; at < end; at += 8, out += 8) {
      const word = load<u64>(at);
      if (word !== 0) orShifted(out, shift, word);
    }
  }
  if ((left & 63) !== 0) orPart(target, to + (left & ~(<u64>63)), load<u64>(at) & ones(0, left & 63));
}

/** {@link or}, and clears the bits in the source. */
export function readAndClear(source: usize, sourceStart: f64, target: usize, targetStart: f64, count: f64): void {
  move(source, <u64>sourceStart, target, <u64>targetStart, <u64>max(count, 0));
}

/** {@link readAndClear}, in whole numbers. */
export function move(source: usize, from: u64, target: usize, to: u64, left: u64): void {
  const head = bitsToBorder(from, left);
  if (head !== 0) {
    movePart(source + <usize>((from >> 6) << 3), ones(from & 63, head), from & 63, target, to);
    from += head;
    to += head;
    left -= head;
  }
  let at = source + <usize>(from >> 3);
  const end = at + <usize>((left >> 6) << 3);
  let out = target + <usize>(to >> 3);
  const shift = to & 7;
  if (shift === 0) {
    for (; end - at >= 16; at += 16, out += 16) {
      const bits = v128.load(at);
      if (!v128.any_true(bits)) continue;
      v128.store(at, i64x2.splat(0));
      v128.store(out, v128.or(v128.load(out), bits));
    }
    if (at < end) {
      store<u64>(out, load<u64>(out) | load<u64>(at));
      store<u64>(at, 0);
      at += 8;
    }
  } else {
    for (; at < end; at += 8, out += 8) {
      const word = load<u64>(at);
      if (word === 0) continue;
      store<u64>(at, 0);
      orShifted(out, shift, word);
    }
  }
  if ((left & 63) !== 0) movePart(at, ones(0, left & 63), 0, target, to + (left & ~(<u64>63)));
}

function movePart(at: usize, mask: u64, shift: u64, target: usize, to: u64): void {
  const word = load<u64>(at) & mask;
  if (word === 0) return;
  store<u64>(at, load<u64>(at) & ~mask);
  orPart(target, to, word >> shift);
}

/**
 * {@link readAndClear} while others set bits in the source: what is taken is taken and cleared in one atomic step, so a bit
 * that is set at the same time is either taken or stays. `source` is a multiple of 8.
 */
export function exchange(source: usize, sourceStart: f64, target: usize, targetStart: f64, count: f64): void {
  moveShared(source, <u64>sourceStart, target, <u64>targetStart, <u64>max(count, 0));
}

/** {@link exchange}, in whole numbers. */
export function moveShared(source: usize, from: u64, target: usize, to: u64, left: u64): void {
  while (left !== 0) {
    const place = from & 63;
    const taken = min<u64>(64 - place, left);
    const mask = ones(place, taken);
    const at = source + <usize>((from >> 6) << 3);
    if ((load<u64>(at) & mask) !== 0) orPart(target, to, (atomic.and<u64>(at, ~mask) & mask) >> place);
    from += taken;
    to += taken;
    left -= taken;
  }
}

/**
 * {@link or} while others OR into the same target, in other threads or in other processes that map the same memory: so the
 * reports of several trackers become one. `target` is a multiple of 8.
 */
export function orShared(source: usize, sourceStart: f64, target: usize, targetStart: f64, count: f64): void {
  let from = <u64>sourceStart;
  let to = <u64>targetStart;
  let left = <u64>max(count, 0);
  if (((from | to) & 63) === 0) {
    const whole = left & ~(<u64>63);
    orWordsShared(source + <usize>(from >> 3), target + <usize>(to >> 3), <usize>(whole >> 3));
    from += whole;
    to += whole;
    left -= whole;
  }
  while (left !== 0) {
    const place = from & 63;
    const taken = min<u64>(64 - place, left);
    const word = (load<u64>(source + <usize>((from >> 6) << 3)) & ones(place, taken)) >> place;
    if (word !== 0) {
      const at = target + <usize>((to >> 6) << 3);
      const shift = to & 63;
      atomic.or<u64>(at, word << shift);
      const high = shift === 0 ? 0 : word >> (64 - shift);
      if (high !== 0) atomic.or<u64>(at + 8, high);
    }
    from += taken;
    to += taken;
    left -= taken;
  }
}

/** Whole words at the same place in both: what a report of a whole range is made of. */
function orWordsShared(at: usize, out: usize, bytes: usize): void {
  const end = at + bytes;
  for (; at < end; at += 8, out += 8) {
    const word = load<u64>(at);
    if (word !== 0) atomic.or<u64>(out, word);
  }
}
