import {
  encodeRanges,
  encodeStartInline,
  encodeStartPointer,
  FEATURE_SET,
  type IovaRange,
  isPowerOfTwo,
  viewOf,
} from '../../uapi/index.js';
import type { Bench, Outcome, StartArguments } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { expectErrno, expectFailure, expectNotStarted, expectStarted, expectSuccess } from './demands.js';
import { PAGE, write } from './writing.js';

const SPACE = 1n << 64n;
/** Addresses that a process never has: NULL, the kernel's half, and the hole between the halves. */
const BAD_POINTERS = [0n, 0xffff_8000_0000_0000n, 0x8000_0000_0000_0000n];

/** `count` ranges of a page, every other page from an address on. */
function everyOtherPage(iova: bigint, count: number): IovaRange[] {
  return Array.from({ length: count }, (_, index) => ({ iova: iova + BigInt(2 * index) * PAGE, length: PAGE }));
}

/** START's structure with a pointer of its own. */
async function startAt(bench: Bench, numRanges: number, rangesPointer: bigint): Promise<Outcome> {
  const data = encodeStartPointer({ pageSize: PAGE, numRanges, rangesPointer });
  return bench.request({ index: bench.profile.start, flags: FEATURE_SET, data });
}

/** Each of these is refused with EINVAL or another errno, and starts nothing. */
async function expectRefusals(
  bench: Bench,
  errno: 'EINVAL' | 'EOVERFLOW',
  cases: readonly (readonly [string, StartArguments])[],
): Promise<string> {
  for (const [what, start] of cases) {
    expectErrno(`START ${what}`, await bench.tryStart(start), errno);
    await expectNotStarted(bench, `the refused START ${what}`);
  }
  return `${errno} ${cases.map(([what]) => what).join('; ')}`;
}

const oneRange: Check = {
  name: 'start/one-range',
  group: 'start',
  demand: 'START of one aligned range in pages of 4 KiB succeeds, and REPORT and STOP after it.',
  source: 'contract "Structures"; docs/kernel.md rows B01, B04, C02',
  async run(bench) {
    const pageSize = await bench.start();
    await bench.report(bench.wholeWindow());
    await bench.stop();
    return `log pages of ${pageSize} bytes`;
  },
};

const anyOrder: Check = {
  name: 'start/any-order',
  group: 'start',
  demand: 'Several ranges are taken in any order, also right beside each other.',
  source: 'docs/kernel.md rows B06, B07',
  async run(bench) {
    const { iova } = bench.window;
    const ranges = everyOtherPage(iova, 3).reverse();
    expectSuccess('START of 3 ranges from the last to the first', await bench.tryStart({ ranges }));
    await bench.stop();
    const adjacent = [
      { iova, length: 2n * PAGE },
      { iova: iova + 2n * PAGE, length: PAGE },
    ];
    expectSuccess('START of 2 adjacent ranges', await bench.tryStart({ ranges: adjacent }));
    return '3 ranges in descending order, and 2 beside each other';
  },
};

const manyRanges: Check = {
  name: 'start/256-ranges',
  group: 'start',
  demand: 'START takes 256 ranges; a device that supports fewer merges them.',
  source: 'contract "Three profiles" and rule 11; docs/kernel.md rows B10, B63',
  profiles: ['linux', 'vfio-user'],
  async run(bench) {
    expectSuccess('START of 256 ranges', await bench.tryStart({ ranges: everyOtherPage(bench.window.iova, 256) }));
    return '256 ranges are taken';
  },
};

const tooManyRanges: Check = {
  name: 'start/257-ranges',
  group: 'start',
  demand: 'More than 256 ranges are E2BIG, before their pointer is looked at; nothing is started.',
  source: 'linux/vfio.h; docs/kernel.md rows B11-B13',
  profiles: ['linux'],
  async run(bench) {
    const ranges = everyOtherPage(bench.window.iova, 257);
    expectErrno('START of 257 ranges', await bench.tryStart({ ranges }), 'E2BIG');
    expectErrno('START of 257 ranges at NULL', await startAt(bench, 257, 0n), 'E2BIG');
    expectErrno('START of 4294967295 ranges at NULL', await startAt(bench, 0xffff_ffff, 0n), 'E2BIG');
    await expectNotStarted(bench, 'a START of too many ranges');
    return 'E2BIG for 257, also at NULL, and 4294967295';
  },
};

const moreThanTheMessage: Check = {
  name: 'start/more-ranges-than-sent',
  group: 'start',
  demand: 'A number of ranges that the message does not hold is refused, and starts nothing.',
  source: 'docs/vfio-user.md "Rules that keep data safe": counts are bounded before memory is taken',
  profiles: ['vfio-user'],
  async run(bench) {
    for (const count of [2, 257, 0x1000_0001, 0xffff_ffff]) {
      const data = encodeStartInline(PAGE, [bench.window]);
      viewOf(data).setUint32(8, count, true);
      const outcome = await bench.request({ index: bench.profile.start, flags: FEATURE_SET, argsz: 65536, data });
      expectErrno(`START of ${count} ranges that holds one`, outcome, 'EINVAL', 'E2BIG');
    }
    await expectNotStarted(bench, 'a START of ranges that were not sent');
    return 'refused for 2, 257, 268435457 and 4294967295';
  },
};

const noRanges: Check = {
  name: 'start/no-ranges',
  group: 'start',
  demand: 'START of no ranges at all is EINVAL, and starts nothing.',
  source: 'contract "Three profiles"; docs/kernel.md rows B08, B09',
  profiles: ['rfc', 'linux'],
  async run(bench) {
    expectErrno('START of 0 ranges', await bench.tryStart({ ranges: [] }), 'EINVAL');
    expectErrno('START of 0 ranges at NULL', await startAt(bench, 0, 0n), 'EINVAL');
    await expectNotStarted(bench, 'a START of no ranges');
    return 'EINVAL, also at NULL';
  },
};

const everything: Check = {
  name: 'start/no-ranges-is-everything',
  group: 'start',
  demand: 'START of no ranges logs every write, also to memory that is mapped later.',
  source: 'vfio-user 0.9 DMA_LOGGING_START; contract rule 12',
  needs: ['logging', 'dma'],
  profiles: ['vfio-user'],
  async run(bench) {
    expectSuccess('START of 0 ranges', await bench.tryStart({ ranges: [] }));
    for (const window of bench.windows) {
      await write(bench, window.iova);
      await write(bench, window.iova + window.length - PAGE, Number(PAGE));
    }
    for (const window of bench.windows) await bench.checkReport({ ...window, pageSize: PAGE });
    await bench.unmapWindow();
    await bench.mapWindow();
    await write(bench, bench.window.iova + PAGE);
    return bench.checkReport();
  },
};

const unaligned: Check = {
  name: 'start/unaligned',
  group: 'start',
  demand: 'A range whose IOVA or length is no multiple of the page size is EINVAL, and starts nothing.',
  source: 'linux/vfio.h; docs/kernel.md rows B14-B16, B25, B49',
  profiles: ['linux'],
  async run(bench) {
    const { iova } = bench.window;
    const good = { iova, length: PAGE };
    return expectRefusals(bench, 'EINVAL', [
      ['of an IOVA inside a page', { ranges: [{ iova: iova + 0x800n, length: PAGE }] }],
      ['of one and a half pages', { ranges: [{ iova, length: PAGE + 0x800n }] }],
      ['whose second range is not aligned', { ranges: [good, { iova: iova + 2n * PAGE, length: 1n }] }],
      ['in pages of 64 KiB, aligned to 4 KiB', { pageSize: 65536n, ranges: [{ iova: iova + PAGE, length: 65536n }] }],
      ['that reaches 2^64 and is not aligned', { ranges: [{ iova: SPACE - 2n * PAGE, length: 2n * PAGE + 1n }] }],
    ]);
  },
};

const overlapping: Check = {
  name: 'start/overlap',
  group: 'start',
  demand: 'Ranges that overlap, be it by one page, are EINVAL, and start nothing.',
  source: 'linux/vfio.h; docs/kernel.md rows B17-B19, B29',
  profiles: ['linux'],
  async run(bench) {
    const { iova } = bench.window;
    const range = { iova, length: 4n * PAGE };
    const byOnePage = { iova: iova + 3n * PAGE, length: 2n * PAGE };
    return expectRefusals(bench, 'EINVAL', [
      ['of ranges that overlap by a page', { ranges: [range, byOnePage] }],
      ['of the same, the later first', { ranges: [byOnePage, range] }],
      ['of a range twice', { ranges: [range, range] }],
      ['of a range inside another', { ranges: [range, { iova: iova + PAGE, length: PAGE }] }],
      ['of an empty range inside another', { ranges: [range, { iova: iova + PAGE, length: 0n }] }],
    ]);
  },
};

const overflow: Check = {
  name: 'start/overflow',
  group: 'start',
  demand: 'A range that reaches 2^64 is EOVERFLOW, and starts nothing.',
  source: 'linux/vfio.h; docs/kernel.md rows B20, B21',
  profiles: ['linux'],
  async run(bench) {
    return expectRefusals(bench, 'EOVERFLOW', [
      ['of a range beyond 2^64', { ranges: [{ iova: SPACE - 2n * PAGE, length: 4n * PAGE }] }],
      ['of a range that ends at 2^64', { ranges: [{ iova: SPACE - 2n * PAGE, length: 2n * PAGE }] }],
    ]);
  },
};

const highest: Check = {
  name: 'start/large-ranges',
  group: 'start',
  demand:
    'A range that no 64-bit check forbids is taken, or refused for what the device can do; refused, it starts nothing.',
  source: 'docs/kernel.md rows B22-B24',
  async run(bench) {
    const cases: [string, IovaRange][] = [
      ['of the last page but one', { iova: SPACE - 2n * PAGE, length: PAGE }],
      ['of all but the last page', { iova: 0n, length: SPACE - PAGE }],
      ['of 512 GiB', { iova: 0n, length: 1n << 39n }],
    ];
    const seen: string[] = [];
    for (const [what, range] of cases) {
      const outcome = await bench.tryStart({ ranges: [range] });
      if (outcome.errno === 'EOVERFLOW') throw new Deviation(`START ${what} failed with EOVERFLOW`);
      if (outcome.errno === undefined) await bench.stop();
      else await expectNotStarted(bench, `the refused START ${what}`);
      seen.push(`${outcome.errno ?? 'taken'} ${what}`);
    }
    return seen.join('; ');
  },
};

const pageSizeZero: Check = {
  name: 'start/page-size-0',
  group: 'start',
  demand: 'A page size of 0 is EINVAL, and starts nothing.',
  source: 'contract "Three profiles"; docs/kernel.md rows B30, B44',
  async run(bench) {
    return expectRefusals(bench, 'EINVAL', [['in pages of 0 bytes', { pageSize: 0n }]]);
  },
};

const HINTS = [1n, 2n, 3n, 5n, 512n, 2048n, 6144n, 4096n, 8192n, 16384n, 65536n, 262144n, 1048576n];

/** Page sizes to ask for, which some device or other cannot do; Linux takes those that the window is aligned to, by this mask. */
function hintsFor({ window: { iova, length } }: Bench): bigint[] {
  return HINTS.filter(hint => ((iova | length) & (hint - 1n)) === 0n);
}

const pageSizeChoice: Check = {
  name: 'start/page-size-choice',
  group: 'start',
  demand: 'The page size that START gives back is a power of two, whatever the hint was.',
  source:
    'contract "Three profiles": a hint that is no power of two is a hint all the same, and the choice is returned',
  async run(bench) {
    const seen: string[] = [];
    for (const hint of hintsFor(bench)) {
      const { errno, pageSize } = await bench.tryStart({ pageSize: hint });
      if (errno === undefined) {
        if (!isPowerOfTwo(pageSize)) throw new Deviation(`the hint ${hint} was answered with ${pageSize}`);
        await bench.stop();
      }
      seen.push(`${hint} gives ${errno ?? pageSize}`);
    }
    return seen.join(', ');
  },
};

const hintTaken: Check = {
  name: 'start/any-hint',
  group: 'start',
  demand: 'Every page size but 0 is taken as a hint, also one that the device cannot do or that is no power of two.',
  source: 'contract "Three profiles"; docs/kernel.md rows B31-B38, B40',
  async run(bench) {
    for (const pageSize of hintsFor(bench)) {
      expectSuccess(`START in pages of ${pageSize} bytes`, await bench.tryStart({ pageSize }));
      await bench.stop();
    }
    return `${hintsFor(bench).join(', ')} are taken`;
  },
};

const closestPageSize: Check = {
  name: 'start/closest-page-size',
  group: 'start',
  demand: 'The page size that is chosen is the supported one closest to the hint.',
  source: 'docs/rfc.txt at page_size: the closest it supports; contract "Three profiles": in log2',
  profiles: ['rfc'],
  async run(bench) {
    const choices = new Map<bigint, bigint>();
    for (const hint of hintsFor(bench)) {
      const { errno, pageSize } = await bench.tryStart({ pageSize: hint });
      if (errno !== undefined) continue;
      choices.set(hint, pageSize);
      await bench.stop();
    }
    const supported = new Set(choices.values());
    for (const [hint, choice] of choices) {
      for (const other of supported) {
        if (distance(hint, other) < distance(hint, choice)) {
          throw new Deviation(`the hint ${hint} was answered with ${choice}, although ${other} is supported`);
        }
      }
    }
    return [...choices].map(([hint, choice]) => `${hint} gives ${choice}`).join(', ');
  },
};

function distance(hint: bigint, pageSize: bigint): number {
  return Math.abs(Math.log2(Number(hint)) - Math.log2(Number(pageSize)));
}

const badPointer: Check = {
  name: 'start/bad-pointer',
  group: 'start',
  demand: 'Ranges that cannot be read are EFAULT, and start nothing.',
  source: 'linux/vfio.h; docs/kernel.md rows B50, B51',
  profiles: ['rfc', 'linux'],
  async run(bench) {
    for (const pointer of BAD_POINTERS) {
      expectErrno(`START of a range at 0x${pointer.toString(16)}`, await startAt(bench, 1, pointer), 'EFAULT');
    }
    await expectNotStarted(bench, 'a START of ranges that cannot be read');
    return 'EFAULT at NULL, at a kernel address and at a non-canonical one';
  },
};

const reserved: Check = {
  name: 'start/reserved',
  group: 'start',
  demand: "What is in START's reserved field is not looked at.",
  source: 'docs/kernel.md row B54',
  profiles: ['linux'],
  async run(bench) {
    const outcome = await bench.lending(encodeRanges([bench.window]), rangesPointer => {
      const data = encodeStartPointer({ pageSize: PAGE, numRanges: 1, rangesPointer });
      viewOf(data).setUint32(12, 0xdead, true);
      return bench.request({ index: bench.profile.start, flags: FEATURE_SET, data });
    });
    expectSuccess('START with a reserved field that is not 0', outcome);
    return 'not 0, and taken';
  },
};

const second: Check = {
  name: 'start/second-fails',
  group: 'start',
  demand: 'A second START without a STOP fails, and logging goes on.',
  source: 'contract rule 6; docs/kernel.md rows B02, B03',
  async run(bench) {
    await bench.start();
    expectFailure('a second START', await bench.tryStart());
    expectFailure('a second START in other pages', await bench.tryStart({ pageSize: 65536n }));
    await expectStarted(bench, 'a second START');
    return 'refused, and logging goes on';
  },
};

const secondKeepsLog: Check = {
  name: 'start/second-keeps-the-log',
  group: 'start',
  demand: 'A second START that fails has not changed what is in the log, nor its ranges.',
  source: 'contract rule 6; docs/kernel.md rows E24, E25',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova);
    const { expected } = bench;
    const other = { iova: bench.window.iova + 16n * PAGE, length: PAGE };
    expectFailure('a second START', await bench.tryStart({ ranges: [other] }));
    await bench.tryStart({ pageSize: 0n });
    if (bench.expected !== expected) throw new Deviation('a second START succeeded');
    await write(bench, bench.window.iova + 3n * PAGE);
    return bench.checkReport();
  },
};

const onlyTheRanges: Check = {
  name: 'start/logs-only-the-ranges',
  group: 'start',
  demand: 'Writes outside of all ranges are not logged; of one across an edge, only what lies inside.',
  source:
    'contract rule 1; docs/kernel.md rows E06, E08; mlx5 once lost the last byte, libvfio-user ignores the ranges',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { iova } = bench.window;
    const range = { iova: iova + 64n * PAGE, length: 64n * PAGE };
    const end = range.iova + range.length;
    await bench.start({ ranges: [range] });
    await write(bench, iova);
    await write(bench, end + 32n * PAGE, Number(PAGE));
    await write(bench, range.iova - PAGE, 2 * Number(PAGE));
    await write(bench, end - PAGE, 2 * Number(PAGE));
    return bench.checkReport({ iova, length: 256n * PAGE, pageSize: PAGE });
  },
};

const edges: Check = {
  name: 'start/logs-both-edges',
  group: 'start',
  demand: "A range's first and last byte are logged.",
  source: 'contract rule 1; mlx5 once computed a range without its last byte',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { iova } = bench.window;
    const seen: string[] = [];
    for (const pages of [1n, 2n, 63n, 64n, 65n]) {
      const range = { iova: iova + 8n * PAGE, length: pages * PAGE };
      await bench.start({ ranges: [range] });
      await write(bench, range.iova);
      await write(bench, range.iova + range.length - 1n);
      await bench.checkReport({ iova, length: 128n * PAGE, pageSize: PAGE });
      await bench.stop();
      seen.push(`${pages}`);
    }
    return `both edges of ranges of ${seen.join(', ')} pages`;
  },
};

const mergingLosesNothing: Check = {
  name: 'start/many-ranges-lose-nothing',
  group: 'start',
  demand: 'Of many ranges, each is logged: a device that has to merge them may log more, never less.',
  source: 'contract rule 11',
  needs: ['logging', 'dma'],
  async run(bench) {
    const most = Math.min(128, Number(bench.window.length / (2n * PAGE)));
    const ranges = everyOtherPage(bench.window.iova, most);
    await bench.start({ ranges });
    for (const range of ranges) await write(bench, range.iova + PAGE - 1n);
    return bench.checkReport();
  },
};

const beginsClean: Check = {
  name: 'start/begins-clean',
  group: 'start',
  demand: 'What was written before START is not in the log.',
  source: 'contract rule 7; docs/kernel.md rows E01, E03',
  needs: ['logging', 'dma'],
  async run(bench) {
    await write(bench, bench.window.iova, 4 * Number(PAGE));
    await bench.start();
    return bench.checkReport();
  },
};

/** START: what is refused, what is chosen, and what is logged then. */
export const startChecks: readonly Check[] = [
  oneRange,
  anyOrder,
  manyRanges,
  tooManyRanges,
  moreThanTheMessage,
  noRanges,
  everything,
  unaligned,
  overlapping,
  overflow,
  highest,
  pageSizeZero,
  pageSizeChoice,
  hintTaken,
  closestPageSize,
  badPointer,
  reserved,
  second,
  secondKeepsLog,
  onlyTheRanges,
  edges,
  mergingLosesNothing,
  beginsClean,
];
