import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { mix } from '../../src/devices/workload/mix.js';
import { fillPage, findFault, generationIn, PAGE_MAGIC } from '../../src/devices/workload/page-content.js';
import { PageFault } from '../../src/devices/workload/page-fault.js';

const anyWord = fc.nat(0xffff_ffff);
const anyIdentity = fc.tuple(fc.nat(2 ** 26), fc.integer({ min: 1, max: 0xffff_ffff }), anyWord);

function pageOf(page: number, generation: number, run: number, bytes = 4096): Int32Array {
  const words = new Int32Array(bytes / 4);
  fillPage(words, page, generation, run);
  return words;
}

describe('the content of a page', () => {
  test('it is what the header comment says', () => {
    const words = pageOf(5, 2, 7, 64);
    const key = mix(mix(mix(7 + 0x9e37_79b9) + 5) + 2);
    const expected = [PAGE_MAGIC, 5, 2, 7];
    for (let index = 4; index < 16; index++) expected.push((key + index * 0x9e37_79b9) | 0);
    expect([...words]).toEqual(expected);
    expect(new TextDecoder().decode(new Uint8Array(words.buffer, 0, 4))).toBe('PAGE');
  });

  test('any page that was filled is found right', () => {
    fc.assert(
      fc.property(anyIdentity, fc.constantFrom(64, 512, 4096, 65536), ([page, generation, run], bytes) => {
        const words = pageOf(page, generation, run, bytes);
        expect(findFault(words, page, generation, run)).toBe(PageFault.NONE);
        expect(generationIn(words)).toBe(generation);
      }),
      { numRuns: 1000 },
    );
  });

  test('any changed bit of any word is found', () => {
    fc.assert(
      fc.property(anyIdentity, fc.nat(1023), fc.nat(31), ([page, generation, run], word, bit) => {
        const words = pageOf(page, generation, run);
        words[word]! ^= 1 << bit;
        expect(findFault(words, page, generation, run)).not.toBe(PageFault.NONE);
      }),
      { numRuns: 3000 },
    );
  });

  test('no word of the body is the same in another generation, page or run: a page that is old in part shows', () => {
    fc.assert(
      fc.property(anyIdentity, anyIdentity, (one, other) => {
        fc.pre(one.some((value, index) => value !== other[index]));
        const [a, b] = [pageOf(...one), pageOf(...other)];
        expect(a.subarray(4).some((word, index) => word === b[index + 4])).toBe(false);
      }),
      { numRuns: 300 },
    );
  });

  test('each fault has its name', () => {
    const words = pageOf(5, 9, 7);
    expect(findFault(new Int32Array(1024), 5, 9, 7)).toBe(PageFault.BLANK);
    expect(findFault(words, 6, 9, 7)).toBe(PageFault.OTHER_PAGE);
    expect(findFault(words, 5, 9, 8)).toBe(PageFault.OTHER_RUN);
    expect(findFault(words, 5, 10, 7)).toBe(PageFault.STALE);
    expect(findFault(words, 5, 8, 7)).toBe(PageFault.NEWER);
    words[1023]!++;
    expect(findFault(words, 5, 9, 7)).toBe(PageFault.BODY);
  });
});
