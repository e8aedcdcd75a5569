import type { Bench } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import type { ReportInterval } from '../expected-log.js';
import { PAGE, write } from './writing.js';

/* Reports in other page sizes than the log's (contract rule 5): at any ratio, either way, from any address. */

const KIB = 1024n;
const MIB = 1024n * KIB;

/** START's hints: the device chooses what it can do, and the checks go by that. */
const HINTS = [4n * KIB, 64n * KIB, 2n * MIB];

const coarser: Check = {
  name: 'conversion/coarser-report',
  group: 'conversion',
  demand: 'A report page that is larger than the log page is dirty when any log page in it is.',
  source: 'contract rule 5; libvfio-user tells page 513 as bit 0 where 256 is right, at twice the log page',
  needs: ['logging', 'dma'],
  async run(bench) {
    const seen: string[] = [];
    for (const hint of HINTS) {
      const { logPage, iova, length } = await startAligned(bench, hint);
      for (const ratio of [2n, 4n, 16n, 64n, 512n]) {
        const pageSize = logPage * ratio;
        // Log pages of every place in a report page; numbers above 512 among them, where the window is large enough.
        const pages = [0n, 1n, ratio - 1n, ratio, 3n * ratio + 1n, 255n, 256n, 513n, 1025n, length / logPage - 1n];
        for (const page of pages.filter(page => page < length / logPage)) {
          await write(bench, iova + page * logPage);
          await bench.checkReport({ iova, length, pageSize });
        }
      }
      seen.push(sizeText(logPage));
      await bench.stop();
    }
    return `log pages of ${distinct(seen)}, reported in 2 to 512 times their size`;
  },
};

const finer: Check = {
  name: 'conversion/finer-report',
  group: 'conversion',
  demand:
    'A log page that is larger than the report page makes all report pages in it dirty, and the answer comes, whatever its length.',
  source: 'contract rule 5; docs/kernel.md row E27; libvfio-user never answers 256 bits and more of half the log page',
  needs: ['logging', 'dma'],
  async run(bench) {
    const seen: string[] = [];
    for (const hint of HINTS) {
      const { logPage, iova, length } = await startAligned(bench, hint);
      const sizes = [2n, 4n, 16n, 512n].map(ratio => logPage / ratio);
      for (const pageSize of sizes.filter(size => size >= bench.profile.minReportPageSize && size >= 512n)) {
        const bits = length / pageSize;
        for (const count of [1n, 64n, 255n, 256n, 300n, 513n].filter(count => count <= bits)) {
          await write(bench, iova + (count - 1n) * pageSize);
          await write(bench, iova);
          await bench.checkReport({ iova, length: count * pageSize, pageSize });
          // The rest of the log page that the interval ends in is still dirty, and may stay so for this report alone.
          await bench.checkReport({ iova, length, pageSize: logPage });
          await bench.checkReport({ iova, length, pageSize: logPage });
        }
        seen.push(`${sizeText(logPage)} in ${sizeText(pageSize)}`);
      }
      await bench.stop();
    }
    return seen.length === 0 ? 'the device logs no page that is larger than the smallest report page' : seen.join(', ');
  },
};

const partOfLogPage: Check = {
  name: 'conversion/part-of-a-log-page',
  group: 'conversion',
  demand: 'A report of a part of a log page keeps what was written in the rest of it.',
  source: 'contract rule 4; docs/kernel.md rows E28, E29',
  needs: ['logging', 'dma'],
  async run(bench) {
    const seen: string[] = [];
    for (const hint of HINTS) {
      const { logPage, iova, length } = await startAligned(bench, hint);
      const half = logPage / 2n;
      // Half a page is less than a page of some dialects: one bit of the smallest that holds it.
      const pageSize = half < bench.profile.minReportPageSize ? bench.profile.minReportPageSize : half;
      for (const page of [0n, 1n, 7n].filter(page => (page + 1n) * logPage <= length)) {
        const start = iova + page * logPage;
        await write(bench, start);
        await write(bench, start + logPage - 1n);
        await bench.checkReport({ iova: start, length: half, pageSize });
        await bench.checkReport({ iova: start + half, length: half, pageSize });
      }
      seen.push(sizeText(logPage));
      await bench.stop();
    }
    return `halves of log pages of ${distinct(seen)}`;
  },
};

const anyAlignment: Check = {
  name: 'conversion/any-alignment',
  group: 'conversion',
  demand: "The page sizes of log and report and the interval's first byte have nothing to do with each other.",
  source: 'contract rule 5',
  needs: ['logging', 'dma'],
  async run(bench) {
    let reports = 0;
    for (const hint of HINTS) {
      const { logPage, iova, length } = await startAligned(bench, hint);
      for (let round = 0; round < 30; round++) {
        for (let count = bench.random.between(1, 4); count > 0; count--) await writeSomewhere(bench, iova, length);
        await bench.checkReport(someReport(bench, iova, length, logPage));
        reports++;
      }
      await bench.checkReport({ iova, length, pageSize: logPage < PAGE ? PAGE : logPage });
      await bench.stop();
    }
    return `${reports} reports at random: every written byte was told`;
  },
};

const hugePage: Check = {
  name: 'conversion/page-beyond-the-interval',
  group: 'conversion',
  demand: 'A report page may be larger than the interval, and than the range: bit 0 then speaks of all of it.',
  source: 'contract rule 5; docs/kernel.md row C15',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    for (const exponent of [30n, 40n, 50n]) await reportOnePage(bench, 1n << exponent);
    return 'pages of 2^30, 2^40 and 2^50 bytes: one bit, set and cleared';
  },
};

const largestPages: Check = {
  name: 'conversion/largest-pages',
  group: 'conversion',
  demand:
    'Every power of two is a page size, up to 2^63: it is refused, or tells what was written; it never succeeds and loses it.',
  source: 'contract rule 5; docs/kernel.md row C16',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    const lost: string[] = [];
    for (let exponent = 51n; exponent < 64n; exponent++) {
      try {
        await reportOnePage(bench, 1n << exponent);
      } catch (error) {
        if (!(error instanceof Deviation)) throw error;
        lost.push(`2^${exponent}`);
      }
    }
    if (lost.length > 0) throw new Deviation(`a written page is lost in reports of pages of ${lost.join(', ')} bytes`);
    return 'pages of 2^51 to 2^63 bytes: one bit, set and cleared';
  },
};

/** A page that the whole window lies in: one bit, which comes when something was written, and goes. */
async function reportOnePage(bench: Bench, pageSize: bigint): Promise<void> {
  await bench.checkReport(bench.wholeWindow(pageSize));
  await write(bench, bench.window.iova + bench.window.length - 1n);
  await bench.checkReport(bench.wholeWindow(pageSize));
  await bench.checkReport(bench.wholeWindow(pageSize));
}

/** Starts with as much of the first window as is whole pages of the hint; with less, the hint is made smaller. */
async function startAligned(bench: Bench, hint: bigint): Promise<{ logPage: bigint; iova: bigint; length: bigint }> {
  const { window } = bench;
  for (let pageSize = hint; ; pageSize /= 2n) {
    const iova = ((window.iova + pageSize - 1n) / pageSize) * pageSize;
    const end = ((window.iova + window.length) / pageSize) * pageSize;
    if (end <= iova && pageSize > PAGE) continue;
    const range = { iova, length: end - iova };
    const logPage = await bench.start({ pageSize, ranges: [range] });
    return { logPage, ...range };
  }
}

/** A few bytes, or many, anywhere in an interval. */
async function writeSomewhere(bench: Bench, iova: bigint, length: bigint): Promise<void> {
  const room = Number(length);
  const size = Math.min(bench.random.pick([1, 8, 4096, 70_000]), room);
  await write(bench, iova + BigInt(bench.random.below(room - size + 1)), size);
}

/** A report of any place, length and page size that the dialect has, within the interval. */
function someReport(bench: Bench, iova: bigint, length: bigint, logPage: bigint): ReportInterval {
  const { random, profile } = bench;
  const begin = random.below(Number(length) - 1);
  const size = random.between(1, Number(length) - begin);
  const sizes = [512n, 4n * KIB, 8n * KIB, 64n * KIB, 256n * KIB, 2n * MIB, logPage];
  const fitting = sizes.filter(pageSize => pageSize >= profile.minReportPageSize && BigInt(size) / pageSize < 8192n);
  const grid = random.pick([1n, 4n * KIB, 64n * KIB]);
  const start = iova + BigInt(begin) - ((iova + BigInt(begin)) % grid);
  return { iova: start < iova ? iova : start, length: BigInt(size), pageSize: random.pick(fitting) };
}

function sizeText(bytes: bigint): string {
  return bytes % KIB === 0n ? `${bytes / KIB} KiB` : `${bytes} bytes`;
}

function distinct(texts: readonly string[]): string {
  return [...new Set(texts)].join(', ');
}

/** Checks of reports in other page sizes than the log's. */
export const conversionChecks: readonly Check[] = [coarser, finer, partOfLogPage, anyAlignment, hugePage, largestPages];
