import { bitmapBytes, encodeReport, FEATURE_GET } from '../../uapi/index.js';
import type { Bench, Outcome } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { isSet, type ReportInterval } from '../expected-log.js';
import { PAGE, pagesOf, write } from './writing.js';

/* The bitmap's own arithmetic: which bit speaks of which page, and what happens to the bits around them. */

/** Bits to try: at the ends of bytes, of words of 32 and 64 bits, of the second and third word, and somewhere behind. */
const PLACES = [0, 1, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 191, 200];

const bitOfPage: Check = {
  name: 'bitmap/bit-of-page',
  group: 'bitmap',
  demand: 'Bit n of the bitmap, bit n % 64 of its little-endian word n / 64, speaks of the n-th page of the interval.',
  source: 'contract "The bitmap" and its erratum; docs/kernel.md rows E10, E16, E19',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    const places = PLACES.filter(place => place < pagesOf(bench, 256));
    // One at a time: of several, one could stand for another.
    for (const place of places) {
      await write(bench, bench.window.iova + BigInt(place) * PAGE);
      await bench.checkReport();
    }
    return `pages ${places.join(', ')}: a bit each`;
  },
};

const firstBit: Check = {
  name: 'bitmap/begins-at-the-interval',
  group: 'bitmap',
  demand: 'Bit 0 speaks of the first page of the interval, whichever page of the range that is.',
  source: 'contract "The bitmap"; docs/kernel.md row E16',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    const pages = pagesOf(bench, 256);
    for (const first of PLACES.filter(place => place < pages)) {
      const page = bench.random.between(first, pages - 1);
      await write(bench, bench.window.iova + BigInt(page) * PAGE);
      await bench.checkReport({ ...pagesFrom(bench, first, pages - first) });
      await bench.checkReport();
    }
    return `intervals that begin in ${PLACES.length} places of a word`;
  },
};

const insidePages: Check = {
  name: 'bitmap/interval-inside-pages',
  group: 'bitmap',
  demand:
    'An interval may begin and end inside a page: its bits are counted from its own first byte, and the last may be of a part.',
  source: 'contract rule 3; docs/kernel.md rows C18, C19, E18',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    const { iova, length } = bench.window;
    const span = Math.min(Number(length), 64 * Number(PAGE));
    for (let round = 0; round < 24; round++) {
      const begin = bench.random.below(span - 1);
      const size = bench.random.between(1, span - begin);
      for (let count = 0; count < 4; count++) {
        await write(bench, iova + BigInt(bench.random.below(span - 8)), bench.random.between(1, 8));
      }
      // The bytes at both ends are where a page too few is counted.
      await write(bench, iova + BigInt(begin));
      await write(bench, iova + BigInt(begin + size - 1));
      await bench.checkReport({ iova: iova + BigInt(begin), length: BigInt(size), pageSize: PAGE });
    }
    await bench.checkReport();
    return '24 intervals of any alignment: every written byte has its bit';
  },
};

const everyLength: Check = {
  name: 'bitmap/every-length',
  group: 'bitmap',
  demand: 'A report of any number of pages tells exactly these, and leaves those behind it in the log.',
  source: 'contract rule 3; the faults of iova_bitmap below 8 bits, and of devices that want multiples of 64 pages',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    const most = pagesOf(bench, 66) - 1;
    for (let pages = 1; pages <= most; pages++) {
      await write(bench, bench.window.iova, Number(PAGE) * (most + 1));
      await bench.checkReport(pagesFrom(bench, 0, pages));
      await bench.checkReport(pagesFrom(bench, pages, most + 1 - pages));
    }
    return `reports of 1 to ${most} pages, and of the rest each time`;
  },
};

const emptyInterval: Check = {
  name: 'bitmap/empty-interval',
  group: 'bitmap',
  demand: 'A report of length 0 tells nothing and clears nothing.',
  source: 'contract rule 3; docs/kernel.md row C21',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova);
    const into = new Uint8Array(8);
    // In the pointer profiles a bitmap of no bits still needs an address.
    const { errno, bitmap } = await bench.tryReport({ ...pagesFrom(bench, 0, 0) }, into);
    if (errno === undefined && bitmap.some(byte => byte !== 0)) throw new Deviation('a report of nothing has set bits');
    await bench.checkReport();
    return errno === undefined ? 'no bits, and the log is as it was' : `${errno}, and the log is as it was`;
  },
};

const writtenTwice: Check = {
  name: 'bitmap/written-twice',
  group: 'bitmap',
  demand: 'A page that is written twice, or more often, before a report is in it as one that is written once.',
  source: 'contract rule 3; a log that is kept as the difference of two bitmaps (pds) must not lose it',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    const most = Math.min(8, pagesOf(bench, 8));
    for (let times = 1; times <= most; times++) {
      for (let time = 0; time < times; time++) await write(bench, bench.window.iova + BigInt(times - 1) * PAGE);
    }
    return bench.checkReport();
  },
};

const emptyWrite: Check = {
  name: 'bitmap/empty-write',
  group: 'bitmap',
  demand: 'A DMA write of no bytes marks no page.',
  source: 'contract rule 1',
  needs: ['logging', 'dma', 'empty write'],
  async run(bench) {
    await bench.start();
    for (const offset of [0n, 1n, PAGE]) await bench.dmaWrite(bench.window.iova + offset, 0);
    return bench.checkReport();
  },
};

const ors: Check = {
  name: 'bitmap/ors-into-the-callers',
  group: 'bitmap',
  demand: "A report adds its bits to those that the caller's bitmap holds already, and clears none of them.",
  source: 'contract "Three profiles"; linux/vfio.h; docs/kernel.md row E12',
  needs: ['logging', 'dma'],
  profiles: ['rfc', 'linux'],
  async run(bench) {
    await bench.start();
    const pages = pagesOf(bench, 256);
    const half = Math.floor(pages / 16) * 8;
    const asked = pagesFrom(bench, 0, pages);
    for (let page = half; page < pages; page += 3) await write(bench, bench.window.iova + BigInt(page) * PAGE);
    // The caller's bits are of pages that the device does not write: what it adds can be told from them.
    const before = new Uint8Array(Number(bitmapBytes(asked.length, PAGE)));
    for (let index = 0; index < half / 8; index++) before[index] = bench.random.between(1, 255);
    const { errno, bitmap } = await bench.tryReport(asked, before.slice());
    if (errno !== undefined) throw new Deviation(`REPORT failed with ${errno}`);
    const cleared = before.findIndex((byte, index) => (byte & ~bitmap[index]!) !== 0);
    if (cleared >= 0) throw new Deviation(`bits of byte ${cleared} were cleared that the caller had set`);
    bench.expected!.report(
      asked,
      bitmap.map((byte, index) => byte & ~before[index]!),
    );
    return `the caller's bits in ${half / 8} bytes are still there, and the device's beside them`;
  },
};

const beyondUntouched: Check = {
  name: 'bitmap/leaves-bits-beyond',
  group: 'bitmap',
  demand: "Bits behind the interval's last page, in its last word and in the memory behind it, stay as they were.",
  source: 'contract "The bitmap"; iova_bitmap once wrote past the end of the bitmap',
  needs: ['logging', 'dma'],
  profiles: ['rfc', 'linux'],
  async run(bench) {
    await bench.start();
    const most = pagesOf(bench, 130);
    for (const pages of [1, 5, 8, 31, 32, 60, 64, 65, 100].filter(count => count < most)) {
      await write(bench, bench.window.iova, Number(PAGE) * most);
      const asked = pagesFrom(bench, 0, pages);
      const guarded = new Uint8Array(Number(bitmapBytes(asked.length, PAGE)) + 64);
      const { errno } = await bench.lending(guarded, bitmapPointer => reportAt(bench, asked, bitmapPointer));
      if (errno !== undefined) throw new Deviation(`REPORT of ${pages} pages failed with ${errno}`);
      for (let bit = pages; bit < guarded.length * 8; bit++) {
        if (isSet(guarded, bit)) throw new Deviation(`a report of ${pages} pages has set bit ${bit}`);
      }
      bench.expected!.report(asked, guarded);
      await bench.checkReport();
    }
    return 'nothing beyond the interval was set, and what is written there is in the next report';
  },
};

const beyondZero: Check = {
  name: 'bitmap/zeros-beyond',
  group: 'bitmap',
  demand: "Bits of the reply behind the interval's last page are 0, and the pages there stay in the log.",
  source: 'contract "Three profiles"; libvfio-user sets and clears up to 63 pages beyond',
  needs: ['logging', 'dma'],
  profiles: ['vfio-user'],
  async run(bench) {
    await bench.start();
    const most = pagesOf(bench, 130);
    for (const pages of [1, 5, 8, 31, 32, 60, 64, 65, 100].filter(count => count < most)) {
      await write(bench, bench.window.iova, Number(PAGE) * most);
      await bench.checkReport(pagesFrom(bench, 0, pages));
      await bench.checkReport();
    }
    return 'zeros beyond the interval, and what is written there is in the next report';
  },
};

const anyAddress: Check = {
  name: 'bitmap/at-any-address',
  group: 'bitmap',
  demand: 'The bitmap may lie at any address, odd ones included; bit 0 is the lowest bit of its first byte.',
  source: 'docs/kernel.md rows C37, C38, E16; iova_bitmap was once wrong for a bitmap that is not 8-byte aligned',
  needs: ['logging', 'dma'],
  profiles: ['linux'],
  async run(bench) {
    await bench.start();
    const pages = pagesOf(bench, 100);
    const asked = pagesFrom(bench, 0, pages);
    const size = Number(bitmapBytes(asked.length, PAGE));
    for (const shift of [1, 2, 3, 4, 5, 7, 8]) {
      for (let page = shift; page < pages; page += 9) await write(bench, bench.window.iova + BigInt(page) * PAGE);
      const memory = new Uint8Array(size + 16);
      const { errno } = await bench.lending(memory, address => reportAt(bench, asked, address + BigInt(shift)));
      if (errno !== undefined) throw new Deviation(`REPORT into a bitmap at +${shift} failed with ${errno}`);
      if (memory.subarray(0, shift).some(byte => byte !== 0)) {
        throw new Deviation(`REPORT into a bitmap at +${shift} has written before it`);
      }
      bench.expected!.report(asked, memory.subarray(shift));
    }
    return 'the same bits at +1, +2, +3, +4, +5, +7 and +8';
  },
};

/** Bits of 2 MiB of bitmap: 64 GiB of IOVA at 4 KiB. */
const WINDOW_BITS = 2n ** 24n;

const across64GiB: Check = {
  name: 'bitmap/across-64-gib',
  group: 'bitmap',
  demand:
    'A report of more than 64 GiB tells the pages on both sides of its 2^24th bit, those that one write crosses it with included.',
  source:
    'contract "Behaviour of the real implementations": iova_bitmap wrote past the 2 MiB of bitmap that it had mapped',
  needs: ['logging', 'dma', 'second window'],
  async run(bench) {
    const [low, high] = [bench.windows[0]!, bench.windows[1]!];
    await bench.start({ ranges: [low, high] });
    // 2^24 bits from here end in the middle of 16 pages that the second window begins with.
    const middle = high.iova + 8n * PAGE;
    const asked = { iova: middle - WINDOW_BITS * PAGE, length: WINDOW_BITS * PAGE + 64n * PAGE, pageSize: PAGE };
    await write(bench, low.iova + 8n * PAGE);
    await write(bench, high.iova, 16 * Number(PAGE));
    await write(bench, middle + 40n * PAGE);
    await reportInPieces(bench, asked);
    // What was told is gone, on both sides of the bit; all the rest was 0 in the first report already.
    await bench.checkReport({ iova: high.iova, length: 64n * PAGE, pageSize: PAGE });
    return `${asked.length / PAGE} pages: nothing is lost at bit 2^24`;
  },
};

/** One report where the way takes that much in one, else as many as it takes. */
async function reportInPieces(bench: Bench, { iova, length, pageSize }: ReportInterval): Promise<void> {
  const room = BigInt(bench.device.features.door.maxReply) - 64n;
  const most = (room / 8n) * 64n * pageSize;
  for (let at = iova; at < iova + length; at += most) {
    const left = iova + length - at;
    await bench.checkReport({ iova: at, length: left < most ? left : most, pageSize });
  }
}

/** An interval of whole pages of the first window. */
function pagesFrom(bench: Bench, first: number, count: number): ReportInterval {
  return { iova: bench.window.iova + BigInt(first) * PAGE, length: BigInt(count) * PAGE, pageSize: PAGE };
}

/** REPORT into a bitmap at an address. */
function reportAt(bench: Bench, asked: ReportInterval, bitmapPointer: bigint): Promise<Outcome> {
  return bench.request({
    index: bench.profile.report,
    flags: FEATURE_GET,
    data: encodeReport({ ...asked, bitmapPointer }),
  });
}

/** Checks of the bitmap. */
export const bitmapChecks: readonly Check[] = [
  bitOfPage,
  firstBit,
  insidePages,
  everyLength,
  emptyInterval,
  writtenTwice,
  emptyWrite,
  ors,
  beyondUntouched,
  beyondZero,
  anyAddress,
  across64GiB,
];
