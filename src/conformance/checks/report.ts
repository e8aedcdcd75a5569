import {
  type ErrnoName,
  encodeReport,
  FEATURE_GET,
  FEATURE_HEADER_SIZE,
  REPORT_INLINE_SIZE,
} from '../../uapi/index.js';
import type { Bench, Outcome } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { type ReportInterval, setBits } from '../expected-log.js';
import { expectErrno, expectFailure, expectSuccess, reportOf } from './demands.js';
import { PAGE, pagesOf, write } from './writing.js';

const SPACE = 1n << 64n;
/** Addresses that a process never has: NULL, the kernel's half, and the hole between the halves. */
const BAD_POINTERS = [0n, 0xffff_8000_0000_0000n, 0x8000_0000_0000_0000n];

const notStarted: Check = {
  name: 'report/not-started',
  group: 'report',
  demand: 'REPORT without START, and after a STOP, fails.',
  source: 'contract rule 6; vfio-user 0.9 DMA_LOGGING_REPORT; docs/kernel.md rows C01, C52, C53',
  async run(bench) {
    expectFailure('REPORT without START', await bench.tryReport(bench.wholeWindow()));
    await bench.start();
    await bench.stop();
    expectFailure('REPORT after STOP', await bench.tryReport(bench.wholeWindow()));
    return 'refused before START and after STOP';
  },
};

/** Each of these page sizes is refused; logging goes on. */
async function expectPageSizesRefused(bench: Bench, pageSizes: readonly bigint[]): Promise<string> {
  await bench.start();
  for (const pageSize of pageSizes) {
    const asked = { iova: bench.window.iova, length: 65536n, pageSize };
    expectErrno(`REPORT in pages of ${pageSize} bytes`, await reportOf(bench, asked), 'EINVAL');
  }
  await bench.report(bench.wholeWindow());
  return `EINVAL for ${pageSizes.join(', ')}`;
}

const noPowerOfTwo: Check = {
  name: 'report/page-size-no-power-of-two',
  group: 'report',
  demand: 'A page size that is no power of two is EINVAL.',
  source: 'contract "Three profiles"; docs/kernel.md rows C03, C05, C08-C10, C12, C17',
  run: bench => expectPageSizesRefused(bench, [0n, 3n, 4095n, 4097n, 6144n, 12288n, SPACE - 1n]),
};

const below4096: Check = {
  name: 'report/page-size-below-4096',
  group: 'report',
  demand: 'A page size below 4096 is EINVAL.',
  source: 'linux/vfio.h; docs/kernel.md rows C04, C06, C07',
  profiles: ['linux'],
  run: bench => expectPageSizesRefused(bench, [1n, 512n, 2048n]),
};

/** Each of these page sizes is taken. */
async function expectPageSizesTaken(bench: Bench, pageSizes: readonly bigint[]): Promise<string> {
  await bench.start();
  for (const pageSize of pageSizes) {
    const asked = { iova: bench.window.iova, length: 16384n, pageSize };
    expectSuccess(`REPORT in pages of ${pageSize} bytes`, await bench.tryReport(asked));
  }
  return `${pageSizes.join(', ')} are taken`;
}

const smallPages: Check = {
  name: 'report/small-page-sizes',
  group: 'report',
  demand: 'Page sizes below 4096 are taken, down to 1.',
  source: 'docs/rfc.txt and vfio-user 0.9 DMA_LOGGING_REPORT: any power of two',
  profiles: ['rfc', 'vfio-user'],
  run: bench => expectPageSizesTaken(bench, [2048n, 512n, 64n, 2n, 1n]),
};

const largePages: Check = {
  name: 'report/large-page-sizes',
  group: 'report',
  demand: 'Every power of two from 4096 on is taken, whatever START has chosen.',
  source: 'contract rule 5; docs/kernel.md rows C11, C13-C16',
  run: bench => expectPageSizesTaken(bench, [4096n, 8192n, 65536n, 2n << 20n, 1n << 30n, 1n << 40n, 1n << 63n]),
};

const overflow: Check = {
  name: 'report/overflow',
  group: 'report',
  demand: 'An interval that reaches 2^64 is EOVERFLOW; a bad page size is found before that.',
  source: 'linux/vfio.h; docs/kernel.md rows C24, C25, C27',
  profiles: ['linux'],
  async run(bench) {
    await bench.start();
    const cases: [string, ReportInterval, ErrnoName][] = [
      ['beyond 2^64', { iova: SPACE - PAGE, length: 2n * PAGE, pageSize: PAGE }, 'EOVERFLOW'],
      ['that ends at 2^64', { iova: SPACE - PAGE, length: PAGE, pageSize: PAGE }, 'EOVERFLOW'],
      ['beyond 2^64 in pages of 2048', { iova: SPACE - PAGE, length: 2n * PAGE, pageSize: 2048n }, 'EINVAL'],
    ];
    for (const [what, asked, errno] of cases) expectErrno(`REPORT ${what}`, await reportOf(bench, asked), errno);
    await bench.report(bench.wholeWindow());
    return 'EOVERFLOW beyond 2^64 and at its end; EINVAL where the page size is bad too';
  },
};

const wraps: Check = {
  name: 'report/beyond-the-address-space',
  group: 'report',
  demand: 'An interval beyond 2^64 is refused, or brings no bit: there is no memory there.',
  source: 'docs/vfio-user.md "Rules that keep data safe"; docs/rfc.txt does not name an errno',
  profiles: ['rfc', 'vfio-user'],
  async run(bench) {
    await bench.start();
    const asked = { iova: SPACE - PAGE, length: 2n * PAGE, pageSize: PAGE };
    const { errno, bitmap } = await bench.tryReport(asked);
    if (errno === undefined && !setBits(bitmap).next().done) throw new Deviation('a bit beyond 2^64 is set');
    await bench.report(bench.wholeWindow());
    return errno ?? 'success, with no bit set';
  },
};

const anyAlignment: Check = {
  name: 'report/any-alignment',
  group: 'report',
  demand: 'Neither IOVA nor length of a report need to be multiples of a page; a length of 0 has no bits.',
  source: 'contract rules 3 and 5; docs/kernel.md rows C18-C21',
  async run(bench) {
    const { iova } = bench.window;
    await bench.start();
    const cases: IntervalCase[] = [
      ['that begins in the middle of a page', { iova: iova + 0x800n, length: 16n * PAGE }],
      ['of one and a half pages', { iova, length: PAGE + 0x800n }],
      ['of one byte', { iova, length: 1n }],
      ['of no byte', { iova, length: 0n }],
    ];
    return expectTaken(bench, cases);
  },
};

const anywhere: Check = {
  name: 'report/anywhere',
  group: 'report',
  demand: 'A report may lie outside the ranges, cover more than them or a part: what is not logged reads as 0.',
  source: 'contract rule 3; docs/kernel.md rows C26, C28-C30; libvfio-user takes whole regions only',
  async run(bench) {
    const { iova } = bench.window;
    await bench.start({ ranges: [{ iova: iova + 16n * PAGE, length: 64n * PAGE }] });
    const cases: IntervalCase[] = [
      ['before the range', { iova, length: 16n * PAGE }],
      ['behind the range', { iova: iova + 128n * PAGE, length: 16n * PAGE }],
      ['of the highest pages', { iova: SPACE - 2n * PAGE, length: PAGE }],
      ['of more than the range', { iova, length: 256n * PAGE }],
      ["of the range's middle", { iova: iova + 20n * PAGE, length: 4n * PAGE }],
      ['across its beginning', { iova, length: 20n * PAGE }],
    ];
    return expectTaken(bench, cases);
  },
};

type IntervalCase = [what: string, interval: { iova: bigint; length: bigint }];

/** Each is taken, and brings no bit, as nothing was written. */
async function expectTaken(bench: Bench, cases: readonly IntervalCase[]): Promise<string> {
  for (const [what, interval] of cases) {
    const { errno, bitmap } = await bench.tryReport({ ...interval, pageSize: PAGE });
    if (errno !== undefined) throw new Deviation(`REPORT ${what} failed with ${errno}`);
    const { value } = setBits(bitmap).next();
    if (value !== undefined) throw new Deviation(`REPORT ${what} has bit ${value} set, and nothing was written`);
  }
  return `zeros ${cases.map(([what]) => what).join('; ')}`;
}

const badPointer: Check = {
  name: 'report/bad-pointer',
  group: 'report',
  demand: 'A bitmap that cannot be written is EFAULT.',
  source: 'linux/vfio.h; docs/kernel.md rows C31, C32, C35, C36: newer kernels answer 0',
  profiles: ['rfc', 'linux'],
  async run(bench) {
    await bench.start();
    for (const pointer of BAD_POINTERS) {
      const outcome = await bench.reportAt(bench.wholeWindow(), pointer);
      expectErrno(`REPORT into a bitmap at 0x${pointer.toString(16)}`, outcome, 'EFAULT');
    }
    return 'EFAULT at NULL, at a kernel address and at a non-canonical one';
  },
};

const badPointerKeepsLog: Check = {
  name: 'report/bad-pointer-keeps-the-log',
  group: 'report',
  demand: 'A report whose bitmap cannot be written leaves what it did not deliver in the log, whatever it answers.',
  source: 'contract rule 3; docs/kernel.md rows E22, E23: newer kernels lose the log',
  needs: ['logging', 'dma'],
  profiles: ['rfc', 'linux'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova);
    await write(bench, bench.window.iova + 9n * PAGE);
    for (const pointer of BAD_POINTERS) await bench.reportAt(bench.wholeWindow(), pointer);
    return bench.checkReport();
  },
};

/** A report that must be refused, and refused must not have cleared anything. */
interface RefusedReport {
  what: string;
  ask(bench: Bench): Promise<Outcome>;
}

function refusedReports(bench: Bench): RefusedReport[] {
  const asked = bench.wholeWindow();
  const refused: RefusedReport[] = [
    { what: 'in pages of 0 bytes', ask: () => reportOf(bench, { ...asked, pageSize: 0n }) },
    { what: 'in pages of 12288 bytes', ask: () => reportOf(bench, { ...asked, pageSize: 12288n }) },
    { what: 'with SET', ask: () => request(bench, FEATURE_GET * 2, 65536) },
    { what: 'with GET and SET', ask: () => request(bench, FEATURE_GET * 3, 65536) },
    { what: 'with an unknown flag', ask: () => request(bench, FEATURE_GET + 2 ** 19, 65536) },
    { what: 'with an argsz of 8', ask: () => request(bench, FEATURE_GET, 8) },
  ];
  return refused;
}

function request(bench: Bench, flags: number, argsz: number): Promise<Outcome> {
  const send = (data: Uint8Array) => bench.request({ index: bench.profile.report, flags, argsz, data });
  const asked = bench.wholeWindow();
  if (!bench.profile.pointers) return send(encodeReport(asked));
  const size = Number(asked.length / PAGE / 8n) + 8;
  return bench.lending(new Uint8Array(size), bitmapPointer => send(encodeReport({ ...asked, bitmapPointer })));
}

const refusedKeepsLog: Check = {
  name: 'report/refused-keeps-the-log',
  group: 'report',
  demand: 'A report that is refused has not cleared anything.',
  source: 'contract rule 3; docs/kernel.md rows E20, E21',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova);
    await write(bench, bench.window.iova + 9n * PAGE);
    const all = refusedReports(bench);
    for (const { what, ask } of all) expectFailure(`REPORT ${what}`, await ask(bench));
    await bench.checkReport();
    return `refused ${all.map(({ what }) => what).join(', ')}; then all was still there`;
  },
};

const probeKeepsLog: Check = {
  name: 'report/probe-keeps-the-log',
  group: 'report',
  demand: 'PROBE of START, STOP and REPORT has not cleared anything.',
  source: 'contract "One entry point": PROBE changes nothing',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { start, stop, report } = bench.profile;
    const { features } = bench.device;
    await bench.start();
    await write(bench, bench.window.iova);
    await bench.within('PROBE', features.probe(start, { set: true }));
    await bench.within('PROBE', features.probe(stop, { set: true }));
    await request(bench, FEATURE_GET * 5, 65536);
    await bench.within('PROBE', features.probe(report, { get: true }));
    return bench.checkReport();
  },
};

const smallArgsz: Check = {
  name: 'report/argsz-too-small',
  group: 'report',
  demand: 'A report whose bitmap does not fit into argsz is EINVAL, and has not cleared anything.',
  source: 'vfio-user 0.9 DEVICE_FEATURE: argsz is the most that a reply may have; contract rule 3',
  profiles: ['vfio-user'],
  async run(bench) {
    await bench.start();
    const { stimulus } = bench;
    if (stimulus !== undefined) await write(bench, bench.window.iova);
    const asked = bench.wholeWindow();
    const whole = FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE + Number((asked.length / PAGE + 63n) / 64n) * 8;
    for (const argsz of [whole - 1, FEATURE_HEADER_SIZE + REPORT_INLINE_SIZE, 8]) {
      expectErrno(
        `REPORT with an argsz of ${argsz}, needs ${whole}`,
        await request(bench, FEATURE_GET, argsz),
        'EINVAL',
      );
    }
    return bench.checkReport();
  },
};

const enormous: Check = {
  name: 'report/enormous',
  group: 'report',
  demand: 'A report that no reply could hold is refused before memory is taken for it, and the device goes on.',
  source: 'docs/vfio-user.md "Rules that keep data safe": a request is bounded before memory is taken for it',
  profiles: ['vfio-user'],
  async run(bench) {
    await bench.start();
    for (const length of [1n << 50n, (1n << 63n) - PAGE]) {
      const data = encodeReport({ iova: 0n, length, pageSize: 1n });
      for (const argsz of [65536, 0xffff_ffff]) {
        const outcome = await bench.request({ index: bench.profile.report, flags: FEATURE_GET, argsz, data });
        expectFailure(`REPORT of ${length} bytes in pages of 1`, outcome);
      }
    }
    return bench.checkReport();
  },
};

const brings: Check = {
  name: 'report/brings-what-was-written',
  group: 'report',
  demand:
    'Every page that a write touches is reported, also by its last byte alone, and no page that none has touched.',
  source: 'contract rules 1 to 3; docs/kernel.md rows E04, E05, E10',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { iova } = bench.window;
    await bench.start();
    await bench.checkReport();
    await write(bench, iova);
    await write(bench, iova + 4n * PAGE - 1n, 2);
    await write(bench, iova + 63n * PAGE, 2 * Number(PAGE));
    await write(bench, iova + 200n * PAGE + 17n, 3);
    return bench.checkReport();
  },
};

const clears: Check = {
  name: 'report/clears',
  group: 'report',
  demand: 'What was reported is cleared: the next report has only what was written since.',
  source: 'contract rule 3; docs/kernel.md row E11',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { iova } = bench.window;
    await bench.start();
    await write(bench, iova, 8 * Number(PAGE));
    await bench.checkReport();
    await bench.checkReport();
    await write(bench, iova + 3n * PAGE);
    await bench.checkReport();
    return bench.checkReport();
  },
};

const clearsOnlyInterval: Check = {
  name: 'report/clears-only-the-interval',
  group: 'report',
  demand: 'A report of a part clears that part, and nothing else.',
  source: 'contract rule 3; docs/kernel.md rows E14, E15; pds takes multiples of 64 pages only',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { random } = bench;
    const { iova } = bench.window;
    const pages = pagesOf(bench, 512);
    await bench.start();
    for (let round = 0; round < 20; round++) {
      for (let writes = 0; writes < 6; writes++) await write(bench, iova + BigInt(random.below(pages)) * PAGE);
      const first = random.below(pages);
      const length = BigInt(random.between(1, pages - first)) * PAGE;
      await bench.checkReport({ iova: iova + BigInt(first) * PAGE, length, pageSize: PAGE });
    }
    return bench.checkReport();
  },
};

const acrossRanges: Check = {
  name: 'report/across-ranges',
  group: 'report',
  demand: 'One report may cover several ranges and the holes between them.',
  source:
    'contract rule 3; docs/kernel.md rows E12, E19; libvfio-user answers across two regions with an empty success',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { iova } = bench.window;
    const ranges = [4n, 100n, 180n].map(page => ({ iova: iova + page * PAGE, length: 16n * PAGE }));
    await bench.start({ ranges });
    for (const range of ranges) {
      await write(bench, range.iova);
      await write(bench, range.iova + range.length - PAGE);
    }
    await bench.checkReport({ iova, length: 256n * PAGE, pageSize: PAGE });
    for (const range of ranges) await write(bench, range.iova + 5n * PAGE);
    await bench.checkReport({ iova: iova + 8n * PAGE, length: 98n * PAGE, pageSize: PAGE });
    return bench.checkReport({ iova, length: 256n * PAGE, pageSize: PAGE });
  },
};

const keepsPartialPage: Check = {
  name: 'report/keeps-a-partial-log-page',
  group: 'report',
  demand: 'A log page that a report covers only in part is reported and kept: the other part may be what was written.',
  source: 'contract rule 4; docs/kernel.md rows E27-E29',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { iova } = bench.window;
    const logPage = await bench.start({ pageSize: 65536n });
    await write(bench, iova + 10n * PAGE);
    for (let page = 0n; page < 16n; page += 4n) {
      await bench.checkReport({ iova: iova + page * PAGE, length: 4n * PAGE, pageSize: PAGE });
    }
    await write(bench, iova + 15n * PAGE);
    await write(bench, iova + 16n * PAGE);
    await bench.checkReport({ iova: iova + 8n * PAGE, length: 9n * PAGE, pageSize: PAGE });
    await write(bench, iova + 20n * PAGE);
    await bench.checkReport({ iova: iova + 0x800n, length: 20n * PAGE, pageSize: PAGE });
    await bench.checkReport();
    return `log pages of ${logPage} bytes, reported in parts of 4 KiB pages: nothing was lost`;
  },
};

const unmapped: Check = {
  name: 'report/unmapped-memory',
  group: 'report',
  demand: 'What was written to memory that was unmapped since is reported all the same.',
  source: 'contract rule 10; libvfio-user loses the log of a region that is unmapped',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova);
    await write(bench, bench.window.iova + 70n * PAGE);
    await bench.unmapWindow();
    await bench.checkReport();
    await bench.mapWindow();
    await write(bench, bench.window.iova + 3n * PAGE);
    await bench.unmapWindow();
    await bench.mapWindow();
    return bench.checkReport();
  },
};

const reads: Check = {
  name: 'report/reads-are-not-logged',
  group: 'report',
  demand: 'DMA reads are not logged.',
  source: 'contract "Purpose": only DMA writes; docs/kernel.md row E07',
  needs: ['logging', 'dma', 'dma-read'],
  async run(bench) {
    await bench.start();
    for (const page of [0n, 5n, 64n]) await bench.dmaRead(bench.window.iova + page * PAGE, 4096);
    return bench.checkReport();
  },
};

/** REPORT: what is refused, and what it brings and clears. */
export const reportChecks: readonly Check[] = [
  notStarted,
  noPowerOfTwo,
  below4096,
  largePages,
  overflow,
  wraps,
  anyAlignment,
  anywhere,
  badPointer,
  smallArgsz,
  enormous,
  brings,
  clears,
  clearsOnlyInterval,
  acrossRanges,
  keepsPartialPage,
  refusedKeepsLog,
  probeKeepsLog,
  badPointerKeepsLog,
  unmapped,
  reads,
  // Last: the C reference never answers again.
  smallPages,
];
