/*
 * Whole blocks, 64 bytes each, of one group go straight into a report of whose pages 8, 16, 32 or 64 make a log page: each bit
 * becomes 1, 2, 4 or 8 bytes of the target, read, cleared and expanded in one step.
 *
 * Worked example: ratio 16, so two bytes a page. Bit 3 of word 1 is page 67 of the block: the target's bytes 134 and 135.
 */

/** Moves the blocks of `marked` from `source` (a group's page bits) into the target from its byte `out` on; plainly. */
export function expandBlocks(source: usize, marked: u64, out: usize, bytes: u32): void {
  for (; marked !== 0; marked &= marked - 1) {
    const block = <usize>ctz(marked);
    // 4 KiB to 64 KiB is the common pair; in a loop of its own it takes a fifth less time.
    if (bytes === 2) expandBlock16(source + (block << 6), out + (block << 10));
    else expandBlock(source + (block << 6), out + (block << 9) * bytes, bytes);
  }
}

function expandBlock16(at: usize, out: usize): void {
  for (const end = at + 64; at < end; at += 8, out += 128) {
    let word = load<u64>(at);
    store<u64>(at, 0);
    for (; word !== 0; word &= word - 1) store<u16>(out + ((<usize>ctz(word)) << 1), 0xffff);
  }
}

function expandBlock(at: usize, out: usize, bytes: u32): void {
  for (const end = at + 64; at < end; at += 8, out += 64 * bytes) {
    const word = load<u64>(at);
    store<u64>(at, 0);
    expandWord(word, out, bytes);
  }
}

/** Bit n of `word` becomes `bytes` (1, 2, 4 or 8) bytes of ones at `out + n * bytes`. */
export function expandWord(word: u64, out: usize, bytes: u32): void {
  if (bytes === 2) for (; word !== 0; word &= word - 1) store<u16>(out + ((<usize>ctz(word)) << 1), 0xffff);
  else if (bytes === 1) for (; word !== 0; word &= word - 1) store<u8>(out + <usize>ctz(word), 0xff);
  else if (bytes === 4) for (; word !== 0; word &= word - 1) store<u32>(out + ((<usize>ctz(word)) << 2), ~0);
  else for (; word !== 0; word &= word - 1) store<u64>(out + ((<usize>ctz(word)) << 3), ~0);
}
