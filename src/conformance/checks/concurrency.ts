import type { Bench } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { ExpectedLog } from '../expected-log.js';
import { PAGE, pagesOf, write } from './writing.js';

/* Reports and DMA at the same time (contract rule 2). */

/** Pages that are written while reports are under way: each once, so that a lost bit cannot hide behind a later one. */
const PAGES = 256;
/** Reports that are under way at a time. */
const REPORTS = 4;

const duringReports: Check = {
  name: 'concurrency/writes-during-reports',
  group: 'concurrency',
  demand: 'A write that completes during a report is in that report or in the next one; never in none.',
  source: 'contract rule 2',
  needs: ['logging', 'dma'],
  async run(bench) {
    const logPage = await bench.start();
    const gathered = new Gathered(bench, logPage);
    const pages = pagesOf(bench, PAGES);
    let writing = true;
    const writes = writeEach(bench, shuffled(bench, pages)).finally(() => {
      writing = false;
    });
    let reports = 0;
    const reporting = (async () => {
      for (; writing; reports++) {
        await gathered.report();
        await turn();
      }
    })();
    await allEnded([writes, reporting]);
    await gathered.report();
    gathered.check(pages);
    return `${pages} pages written during ${reports} reports: each was told`;
  },
};

const severalReports: Check = {
  name: 'concurrency/several-reports-at-once',
  group: 'concurrency',
  demand: 'Of several reports that are asked for at once, each dirty page is in one at least.',
  source: 'contract rules 2 and 3',
  needs: ['logging', 'dma'],
  async run(bench) {
    const logPage = await bench.start();
    const pages = pagesOf(bench, PAGES / 2);
    for (let round = 0; round < 4; round++) {
      const gathered = new Gathered(bench, logPage);
      for (const page of shuffled(bench, pages)) await writePage(bench, page);
      await reportAtOnce(gathered);
      gathered.check(pages);
    }
    return `${REPORTS} reports at once, 4 times: together they told all ${pages} pages`;
  },
};

const severalDuringWrites: Check = {
  name: 'concurrency/several-reports-during-writes',
  group: 'concurrency',
  demand: 'Several reports at once and DMA beside them lose nothing.',
  source: 'contract rule 2',
  needs: ['logging', 'dma'],
  async run(bench) {
    const logPage = await bench.start();
    const gathered = new Gathered(bench, logPage);
    const pages = pagesOf(bench, PAGES);
    const writes = writeEach(bench, shuffled(bench, pages));
    const reporting = (async () => {
      for (let round = 0; round < 8; round++) await reportAtOnce(gathered);
    })();
    await allEnded([writes, reporting]);
    await gathered.report();
    gathered.check(pages);
    return `${pages} pages, 8 times ${REPORTS} reports: each page was told`;
  },
};

const writtenAgain: Check = {
  name: 'concurrency/written-again-after-a-report',
  group: 'concurrency',
  demand: 'A page that is written again when a report has ended is in the next report, however soon that comes.',
  source: 'contract rules 2 and 3',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    const rounds = 200;
    for (let round = 0; round < rounds; round++) {
      await write(bench, bench.window.iova + BigInt(round % 3) * PAGE);
      await bench.checkReport({ ...bench.wholeWindow(), length: 3n * PAGE });
    }
    return `3 pages, written and reported in turn ${rounds} times`;
  },
};

async function writePage(bench: Bench, page: number): Promise<void> {
  await write(bench, bench.window.iova + BigInt(page) * PAGE);
}

async function writeEach(bench: Bench, pages: readonly number[]): Promise<void> {
  for (const page of pages) {
    await writePage(bench, page);
    await turn();
  }
}

/** A turn of the event loop: without it, a device in this process would have no time to do its work. */
function turn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve));
}

async function reportAtOnce(gathered: Gathered): Promise<void> {
  await allEnded(Array.from({ length: REPORTS }, () => gathered.report()));
}

/** Waits for all, so that none is left behind unhandled; then the first failure is thrown. */
async function allEnded(works: readonly Promise<void>[]): Promise<void> {
  for (const ended of await Promise.allSettled(works)) if (ended.status === 'rejected') throw ended.reason;
}

/** The pages from 0 on in an order of their own. */
function shuffled({ random }: Bench, count: number): number[] {
  const pages = Array.from({ length: count }, (_, page) => page);
  for (let left = count; left > 1; left--) {
    const other = random.below(left);
    [pages[left - 1], pages[other]] = [pages[other]!, pages[left - 1]!];
  }
  return pages;
}

/** All that several reports have told together. */
class Gathered {
  readonly #bench: Bench;
  readonly #logPage: bigint;
  readonly #bitmap: Uint8Array;

  constructor(bench: Bench, logPage: bigint) {
    this.#bench = bench;
    this.#logPage = logPage;
    this.#bitmap = new Uint8Array(Math.ceil(Number(bench.window.length / PAGE) / 64) * 8);
  }

  async report(): Promise<void> {
    const bitmap = await this.#bench.report(this.#bench.wholeWindow());
    for (const [index, byte] of bitmap.entries()) this.#bitmap[index]! |= byte;
  }

  /** @throws Deviation when one of the first `pages` pages is missing, or one that nobody has written is there */
  check(pages: number): void {
    const expected = new ExpectedLog([this.#bench.window], this.#logPage);
    const { alignment } = this.#bench.stimulus!.limits;
    for (let page = 0; page < pages; page++) {
      const start = BigInt(page) * PAGE;
      const from = this.#bench.window.iova + start - ((this.#bench.window.iova + start) % BigInt(alignment));
      expected.write(from, alignment);
    }
    try {
      expected.report(this.#bench.wholeWindow(), this.#bitmap);
    } catch (error) {
      throw error instanceof Deviation ? new Deviation(`in all reports together, ${error.message}`) : error;
    }
  }
}

/** Checks of reports and DMA at the same time. */
export const concurrencyChecks: readonly Check[] = [duringReports, severalReports, severalDuringWrites, writtenAgain];
