import { orShifted } from './words';

/*
 * Whole blocks, 64 bytes each, of one group: those whose summary bit is set move into the target. The blocks of a group are
 * visited in one sweep where most of them are dirty, so that no branch is guessed wrong; otherwise one by one.
 */

/** From this many dirty blocks of 64 on, all are swept; 12 to 34 made no difference beyond noise. */
const SWEEP: u64 = 32;

/** Moves the blocks of `marked` from `source` (a group's page bits) into the target from bit `to` on; plainly. */
export function moveBlocks(source: usize, marked: u64, target: usize, to: u64): void {
  const out = target + <usize>(to >> 3);
  const shift = to & 7;
  if (shift !== 0) {
    for (; marked !== 0; marked &= marked - 1) {
      const offset = <usize>(ctz(marked) << 6);
      moveBlockShifted(source + offset, out + offset, shift);
    }
  } else if (popcnt(marked) >= SWEEP) {
    for (let offset: usize = 0; offset < 4096; offset += 64) moveBlock(source + offset, out + offset);
  } else {
    for (; marked !== 0; marked &= marked - 1) {
      const offset = <usize>(ctz(marked) << 6);
      moveBlock(source + offset, out + offset);
    }
  }
}

function moveBlock(at: usize, out: usize): void {
  const zero = i64x2.splat(0);
  const first = v128.load(at);
  const second = v128.load(at, 16);
  const third = v128.load(at, 32);
  const fourth = v128.load(at, 48);
  v128.store(at, zero);
  v128.store(at, zero, 16);
  v128.store(at, zero, 32);
  v128.store(at, zero, 48);
  v128.store(out, v128.or(v128.load(out), first));
  v128.store(out, v128.or(v128.load(out, 16), second), 16);
  v128.store(out, v128.or(v128.load(out, 32), third), 32);
  v128.store(out, v128.or(v128.load(out, 48), fourth), 48);
}

function moveBlockShifted(at: usize, out: usize, shift: u64): void {
  for (const end = at + 64; at < end; at += 8, out += 8) {
    const word = load<u64>(at);
    if (word === 0) continue;
    store<u64>(at, 0);
    orShifted(out, shift, word);
  }
}

/** {@link moveBlocks} while others set bits in the source: each word that is not 0 is taken by an atomic exchange. */
export function exchangeBlocks(source: usize, marked: u64, target: usize, to: u64): void {
  const out = target + <usize>(to >> 3);
  const shift = to & 7;
  for (; marked !== 0; marked &= marked - 1) {
    const offset = <usize>(ctz(marked) << 6);
    if (shift === 0) exchangeBlock(source + offset, out + offset);
    else exchangeBlockShifted(source + offset, out + offset, shift);
  }
}

function exchangeBlock(at: usize, out: usize): void {
  for (const end = at + 64; at < end; at += 8, out += 8) {
    if (load<u64>(at) !== 0) store<u64>(out, load<u64>(out) | atomic.xchg<u64>(at, 0));
  }
}

function exchangeBlockShifted(at: usize, out: usize, shift: u64): void {
  for (const end = at + 64; at < end; at += 8, out += 8) {
    if (load<u64>(at) !== 0) orShifted(out, shift, atomic.xchg<u64>(at, 0));
  }
}
