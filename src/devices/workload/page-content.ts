import { GOLDEN, mix } from './mix.js';
import { PageFault } from './page-fault.js';

/*
 * What the workload writes into a page, so that anybody who knows (page, generation, run) can tell whether the page is right.
 *
 *   word 0  "PAGE"        word 1  page index        word 2  generation, how often the page was written        word 3  run id (the seed)
 *   word i  key + i * GOLDEN, where key is the three mixed together
 *
 * Example: page 5, generation 2, run 7: the words 0x45474150, 5, 2, 7, then key + 4 * GOLDEN, key + 5 * GOLDEN and so on with
 * key = mix(mix(mix(7 + GOLDEN) + 5) + 2). Every word of another generation is a different one, so a page that is old in part shows wherever
 * the old part is.
 */

/** Word 0 of every page: "PAGE". */
export const PAGE_MAGIC = 0x4547_4150;

const HEADER_WORDS = 4;

/** GOLDEN once more: V8 folds a module's own constants into a loop, not imported ones. A page takes 1.8 us so, and 5.5 us with the import. */
const STEP = GOLDEN;

/** Writes a page's content. @param words the page; its length is the page size in words of 4 bytes */
export function fillPage(words: Int32Array, page: number, generation: number, run: number): void {
  words[0] = PAGE_MAGIC;
  words[1] = page;
  words[2] = generation;
  words[3] = run;
  let value = (keyOf(page, generation, run) + Math.imul(HEADER_WORDS, GOLDEN)) | 0;
  for (let index = HEADER_WORDS; index < words.length; index++) {
    words[index] = value;
    value = (value + STEP) | 0;
  }
}

/** What is wrong with a page that should hold this generation of itself; the first thing that is. */
export function findFault(words: Int32Array, page: number, generation: number, run: number): PageFault {
  if (words[0] !== PAGE_MAGIC) return PageFault.BLANK;
  if (words[1] !== (page | 0)) return PageFault.OTHER_PAGE;
  if (words[3] !== (run | 0)) return PageFault.OTHER_RUN;
  const found = generationIn(words);
  if (found !== generation) return found < generation ? PageFault.STALE : PageFault.NEWER;
  let value = (keyOf(page, generation, run) + Math.imul(HEADER_WORDS, GOLDEN)) | 0;
  for (let index = HEADER_WORDS; index < words.length; index++) {
    if (words[index] !== value) return PageFault.BODY;
    value = (value + STEP) | 0;
  }
  return PageFault.NONE;
}

/** The generation that a page's header names. */
export function generationIn(words: Int32Array): number {
  return words[2]! >>> 0;
}

function keyOf(page: number, generation: number, run: number): number {
  return mix(mix(mix(run + GOLDEN) + page) + generation);
}
