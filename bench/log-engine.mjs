// What the log engine's jobs cost, each beside a plain C program of the same job (bench/log-engine.c, gcc -O3 -march=native,
// compiled now where gcc is present) and beside memcpy of the same bitmap. Both are timed in turn, A B A B, and medians are
// compared: on a shared machine only ratios within one run mean anything.
//
//   npm run bench [-- --json] [-- --only report] [-- --rounds 15]
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import koffi from 'koffi';
import { PageBatches, RunBatches, RunCursor } from '../dist/bitmap/index.js';
import { DmaLog } from '../dist/log/index.js';

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    rounds: { type: 'string', default: '15' },
  },
});
const rounds = Number(values.rounds);
const WARM_UP = 3;
const GIB = 2 ** 30;
const PAGE = 4096;
const rows = [];

const engine = loadEngine();

/** The C program as a library; undefined where there is no gcc. */
function loadEngine() {
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-bench-'));
  try {
    const library = join(folder, 'log-engine.so');
    const source = fileURLToPath(new URL('log-engine.c', import.meta.url));
    execFileSync('gcc', ['-O3', '-march=native', '-shared', '-fPIC', '-pthread', '-o', library, source]);
    const c = koffi.load(library);
    const list = prototype => c.func(prototype);
    return {
      create: list('void *engine_new(uint64_t pages)'),
      free: list('void engine_free(void *handle)'),
      bitmap: list('void *engine_bitmap(uint64_t bytes)'),
      clear: list('void engine_clear(void *bitmap, uint64_t bytes)'),
      copy: list('void engine_copy(void *to, void *from, uint64_t bytes)'),
      fill: c.func('void engine_copy(void *to, uint8_t *from, uint64_t bytes)'),
      release: list('void engine_release(void *bitmap)'),
      markList: list('void engine_mark_list(void *handle, uint32_t *pages, uint64_t count)'),
      record: list('void engine_record(void *handle, double *iovas, uint64_t count)'),
      recordShared: list('void engine_record_shared(void *handle, double *iovas, uint64_t count)'),
      list: list('void engine_list(void *handle, double *pages, uint64_t count)'),
      listShared: list('void engine_list_shared(void *handle, double *pages, uint64_t count)'),
      report: list('void engine_report(void *handle, void *target)'),
      reportExchange: list('void engine_report_exchange(void *handle, void *target)'),
      shrink: list('void engine_report_shrink16(void *handle, void *target)'),
      expand: list('void engine_report_expand16(void *handle, void *target)'),
      threads: list('double engine_threads(void *handle, double *iovas, uint64_t count, int threads, double seconds)'),
      runs: list('double engine_runs(void *bits, uint64_t words)'),
    };
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

/** Times each job in turn; a job is `{ before?, run }`, only `run` is timed. Returns medians in nanoseconds. */
function inTurn(jobs, times = rounds) {
  const taken = jobs.map(() => []);
  for (let round = 0; round < WARM_UP + times; round++) {
    for (const [index, { before, run }] of jobs.entries()) {
      before?.();
      const startedAt = process.hrtime.bigint();
      run();
      const nanoseconds = Number(process.hrtime.bigint() - startedAt);
      if (round >= WARM_UP) taken[index].push(nanoseconds);
    }
  }
  return taken.map(median);
}

/** Adds a row; times in `unit` nanoseconds. */
function row(group, job, unit, ours, { c, copy, reach, twin = c }) {
  const scale = { ns: 1, µs: 1e3, ms: 1e6 }[unit];
  const shown = value => (value === undefined ? undefined : Number((value / scale).toPrecision(3)));
  const ratio = (a, b) => (b === undefined ? undefined : Number((a / b).toFixed(2)));
  const entry = {
    group,
    job,
    unit,
    figure: shown(ours),
    c: shown(c),
    toC: ratio(ours, twin),
    toMemcpy: ratio(ours, copy),
    reach,
  };
  rows.push(entry);
  if (!values.json) print(entry);
}

function print({ job, unit, figure, c, toC, toMemcpy, reach }) {
  const cell = (value, width) => String(value ?? '-').padStart(width);
  console.log(
    `${job.padEnd(66)}${cell(figure, 8)} ${unit}${cell(c, 8)} ${unit}${cell(toC, 7)}${cell(toMemcpy, 8)}  ${reach}`,
  );
}

function section(name, measure) {
  if (values.only !== '' && !name.includes(values.only)) return;
  if (!values.json)
    console.log(`\n${name}${''.padEnd(Math.max(0, 66 - name.length))}    here          C   to C  memcpy  to reach`);
  return measure(name);
}

/** The numbers of `pages` pages that are dirty, ascending. */
function randomPages(pages, part) {
  const dirty = new Uint32Array(Math.ceil(pages * part * 1.02) + 100);
  let count = 0;
  for (let page = 0; page < pages && count < dirty.length; page++) {
    if (part < 0.2) page += Math.floor(Math.log(1 - Math.random()) / Math.log(1 - part));
    else if (Math.random() >= part) continue;
    if (page < pages) dirty[count++] = page;
  }
  return dirty.subarray(0, count);
}

/** Dirt in clusters of 512 to 8192 pages. */
function clusteredPages(pages, part) {
  const dirty = [];
  while (dirty.length < pages * part) {
    const length = 512 + Math.floor(Math.random() * 7680);
    const first = Math.floor(Math.random() * (pages - length));
    for (let page = first; page < first + length; page++) dirty.push(page);
  }
  return Uint32Array.from(new Set(dirty)).sort();
}

/** A log of ours and one in C with the same dirt, reported in turn. `report`: the C function. */
function reportJob(
  group,
  job,
  { bytes, pageSize = PAGE, reportSize = PAGE, dirty, keeping, report, reach, unit = 'ms', into = 'log' },
) {
  const pages = bytes / pageSize;
  const log = new DmaLog({ pageSizes: [BigInt(pageSize)], keeping, reportBytes: bytes / reportSize / 8 + 64 });
  log.start(BigInt(pageSize), [{ iova: 0n, length: BigInt(bytes) }]);
  const bits = bytes / reportSize;
  const bitmap = into === 'log' ? log.createReportBitmap(bits) : new Uint32Array(bits / 32);
  const ours = {
    before: () => {
      log.recordPages(dirty);
      if (dirty.length > 0) bitmap.fill(0);
    },
    run: () => log.report(0n, BigInt(bytes), BigInt(reportSize), bitmap),
  };
  if (engine === undefined) {
    row(group, job, unit, inTurn([ours])[0], { reach });
    return;
  }
  const twin = engine.create(pages);
  const target = engine.bitmap(bits / 8);
  const from = engine.bitmap(pages / 8);
  const to = engine.bitmap(pages / 8);
  const inC = {
    before: () => {
      engine.markList(twin, dirty, dirty.length);
      if (dirty.length > 0) engine.clear(target, bits / 8);
    },
    run: () => engine[report](twin, target),
  };
  const [here, c] = inTurn([ours, inC]);
  const [copy] = inTurn([{ run: () => engine.copy(to, from, pages / 8) }]);
  row(group, job, unit, here, { c, copy, reach });
  engine.free(twin);
  for (const each of [target, from, to]) engine.release(each);
}

function reports() {
  section('report, nothing dirty', group => {
    const none = new Uint32Array(0);
    for (const keeping of ['one-writer', 'generations', 'exchange']) {
      const report = keeping === 'exchange' ? 'reportExchange' : 'report';
      const job = `1 TiB at 4 KiB, ${keeping}`;
      reportJob(group, job, { bytes: 1024 * GIB, dirty: none, keeping, report, unit: 'µs', reach: 'below 50 µs' });
    }
  });
  section('report, 256 GiB at 4 KiB, random', group => {
    for (const percent of [0.1, 1, 10, 50]) {
      const dirty = randomPages((256 * GIB) / PAGE, percent / 100);
      const common = { bytes: 256 * GIB, dirty };
      const say = `${percent} % dirty`;
      reportJob(group, `${say}, one writer`, { ...common, keeping: 'one-writer', report: 'report', reach: '1.2 x C' });
      reportJob(group, `${say}, one writer, into an ordinary array`, {
        ...common,
        keeping: 'one-writer',
        report: 'report',
        into: 'array',
        reach: '(more than asked)',
      });
      reportJob(group, `${say}, concurrent, exchange (C: exchange)`, {
        ...common,
        keeping: 'exchange',
        report: 'reportExchange',
        reach: '1.2 x C',
      });
      reportJob(group, `${say}, concurrent, generations (C: one writer)`, {
        ...common,
        keeping: 'generations',
        report: 'report',
        reach: percent >= 1 ? '2.5 x the one-writer row' : '',
      });
    }
  });
  section('report, 256 GiB at 4 KiB, 1 % dirty in clusters', group => {
    const dirty = clusteredPages((256 * GIB) / PAGE, 0.01);
    for (const keeping of ['one-writer', 'generations', 'exchange']) {
      const report = keeping === 'exchange' ? 'reportExchange' : 'report';
      reportJob(group, keeping, { bytes: 256 * GIB, dirty, keeping, report, reach: '1.3 x C' });
    }
  });
  section('report between page sizes, 256 GiB, 1 % dirty', group => {
    const fine = randomPages((256 * GIB) / PAGE, 0.01);
    reportJob(group, '4 KiB log at 64 KiB', {
      bytes: 256 * GIB,
      dirty: fine,
      reportSize: 65536,
      keeping: 'one-writer',
      report: 'shrink',
      reach: '1.3 x C',
    });
    const coarse = randomPages((256 * GIB) / 65536, 0.01);
    reportJob(group, '64 KiB log at 4 KiB', {
      bytes: 256 * GIB,
      dirty: coarse,
      pageSize: 65536,
      keeping: 'one-writer',
      report: 'expand',
      reach: '1.3 x C',
    });
  });
}

const RECORDS = 2 ** 14;

let loops = 0;

/**
 * A loop of its own for each log, so that the optimiser treats each call as a program that has one log would. Its text must be
 * one of its own, too: functions made of the same text share what the engine has learnt.
 */
const loopOver = body =>
  new Function('log', 'iovas', 'from', 'to', `/* ${loops++} */ for (let i = 0; i < iovas.length; i++) { ${body} }`);

function records() {
  section('record, random 4 KiB pages in 16 GiB', group => {
    const iovas = Float64Array.from({ length: RECORDS }, () => Math.floor(Math.random() * 2 ** 22) * PAGE);
    const numbers = Array.from({ length: (RECORDS / 1000) | 0 }, (_, index) =>
      iovas.slice(index * 1000, index * 1000 + 1000).map(iova => iova / PAGE),
    );
    const listed = Float64Array.from(numbers.flatMap(list => [...list]));
    for (const keeping of ['one-writer', 'generations', 'exchange']) {
      const log = new DmaLog({ keeping });
      log.start(4096n, [{ iova: 0n, length: BigInt(16 * GIB) }]);
      const loop = loopOver('log.record(iovas[i], 4096);');
      const shared = keeping === 'one-writer' ? '' : 'Shared';
      const twin = engine?.create(2 ** 22);
      const bitmap = log.createReportBitmap(2 ** 22);
      const target = engine?.bitmap(2 ** 19);
      const recordLists = () => {
        for (const list of numbers) log.recordPages(list);
      };
      // Twice over: the first time wakes the caches, and marks what the second time finds marked. Or a report comes between,
      // behind which nothing is marked.
      const again = run => ({ before: run, run });
      const jobs = [
        again(() => loop(log, iovas)),
        again(recordLists),
        {
          before: () => {
            for (let swap = 0; swap < 2; swap++) {
              recordLists();
              log.report(0n, BigInt(16 * GIB), 4096n, bitmap);
            }
          },
          run: recordLists,
        },
      ];
      if (engine !== undefined) {
        const listInC = () => engine[`list${shared}`](twin, listed, listed.length);
        const reportInC = () => {
          listInC();
          engine.report(twin, target);
        };
        jobs.push(again(() => engine[`record${shared}`](twin, iovas, RECORDS)));
        jobs.push(again(listInC), { before: reportInC, run: listInC });
      }
      const [one, list, cleanList, oneInC, listInC, cleanListInC] = inTurn(jobs, 20 * rounds);
      const each = (time, count) => (time === undefined ? undefined : time / count);
      const limits = keeping === 'one-writer' ? ['below 6 ns', 'below 3 ns'] : ['below 15 ns', 'below 9 ns'];
      row(group, `one, ${keeping}`, 'ns', one / RECORDS, { c: each(oneInC, RECORDS), reach: limits[0] });
      row(group, `a list of 1,000, each, ${keeping}`, 'ns', list / listed.length, {
        c: each(listInC, listed.length),
        reach: limits[1],
      });
      row(group, `the same behind a report, ${keeping}`, 'ns', cleanList / listed.length, {
        c: each(cleanListInC, listed.length),
        reach: '(more than asked)',
      });
      if (engine !== undefined) engine.free(twin);
      if (engine !== undefined) engine.release(target);
    }
  });
  section('logging off', group => {
    const iovas = Float64Array.from({ length: 4096 }, () => Math.floor(Math.random() * 2 ** 20) * PAGE);
    const log = new DmaLog();
    const nothing = { record() {} };
    const [off, empty] = inTurn(
      [log, nothing].map(target => {
        const loop = loopOver('log.record(iovas[i], 4096);');
        return { run: () => loop(target, iovas) };
      }),
      20 * rounds,
    );
    row(group, 'record while off (beside an empty function)', 'ns', off / 4096, { c: empty / 4096, reach: 'nothing' });
    const memory = new Uint8Array(64 * 2 ** 20);
    const bytes = new Uint8Array(PAGE);
    const write = 'to.set(from, iovas[i] & 0x3fff000);';
    const [logged, bare] = inTurn(
      [`${write} log.record(iovas[i], 4096);`, write].map(body => {
        const loop = loopOver(body);
        return { run: () => loop(log, iovas, bytes, memory) };
      }),
      4 * rounds,
    );
    row(group, 'a write of 4 KiB that records while off (beside one that does not)', 'ns', logged / 4096, {
      c: bare / 4096,
      reach: 'nothing',
    });
  });
}

function walks() {
  section('runs of set bits in 32 MiB of bitmap', group => {
    const bits = 2 ** 28;
    const log = new DmaLog({ reportBytes: bits / 8 + 64 });
    log.start(4096n, [{ iova: 0n, length: 4096n }]);
    const places = { 'the log': log.createReportBitmap(bits), 'an array': new Uint32Array(bits / 32) };
    for (const percent of [0, 0.1, 1, 10]) {
      const dirty = percent === 0 ? [] : randomPages(bits, percent / 100);
      for (const bitmap of Object.values(places)) {
        bitmap.fill(0);
        for (const page of dirty) bitmap[page >>> 5] |= 1 << (page & 31);
      }
      const twin = engine?.bitmap(bits / 8);
      if (engine !== undefined) engine.fill(twin, new Uint8Array(places['an array'].buffer), bits / 8);
      const copy = engine?.bitmap(bits / 8);
      const jobs = [
        ...Object.values(places).map(inBatches),
        oneByOne(places['the log']),
        pageByPage(places['the log']),
      ];
      if (engine !== undefined) {
        jobs.push({ run: () => engine.runs(twin, bits / 64) }, { run: () => engine.copy(copy, twin, bits / 8) });
      }
      const [inLog, inArray, single, pages, c, copied] = inTurn(jobs, Math.ceil(rounds / 2));
      const more = { c, copy: copied, reach: '(more than asked)' };
      row(group, `${percent} %, in the log's memory`, 'ms', inLog, { c, copy: copied, reach: '1.3 x C' });
      row(group, `${percent} %, in an ordinary array`, 'ms', inArray, more);
      row(group, `${percent} %, run by run, in the log's memory`, 'ms', single, more);
      row(group, `${percent} %, page by page, in the log's memory`, 'ms', pages, more);
      if (engine !== undefined) for (const each of [twin, copy]) engine.release(each);
    }
  });
}

function inBatches(bitmap) {
  const run = () => {
    const batches = new RunBatches(bitmap, 0, bitmap.length * 32);
    let total = 0;
    while (batches.next()) {
      const { edges, count } = batches;
      for (let at = 0; at < count; at += 2) total += edges[at + 1] - edges[at] + 1;
    }
    return total;
  };
  return { run };
}

function oneByOne(bitmap) {
  const run = () => {
    const runs = new RunCursor(bitmap, 0, bitmap.length * 32);
    let total = 0;
    while (runs.next()) total += runs.end - runs.start + 1;
    return total;
  };
  return { run };
}

function pageByPage(bitmap) {
  const run = () => {
    const batches = new PageBatches(bitmap, 0, bitmap.length * 32);
    let total = 0;
    while (batches.next()) {
      const { pages, count } = batches;
      for (let at = 0; at < count; at++) total += pages[at];
    }
    return total;
  };
  return { run };
}

const writerProgram = `
  import { workerData } from 'node:worker_threads';
  const { SharedRecorder } = await import(workerData.module);
  const { shared, signals, seconds } = workerData;
  const recorder = SharedRecorder.attach(shared);
  const iovas = Float64Array.from({ length: 65536 }, () => (Math.floor(Math.random() * 2 ** 21) + workerData.number * 2 ** 21) * 4096);
  const loop = count => { for (let i = 0; i < count; i++) recorder.record(iovas[i & 65535], 4096); };
  for (let i = 0; i < 20; i++) loop(65536);
  Atomics.add(signals, 0, 1);
  Atomics.notify(signals, 0);
  Atomics.wait(signals, 1, 0);
  const startedAt = process.hrtime.bigint();
  let records = 0;
  do { loop(65536); records += 65536; } while (Number(process.hrtime.bigint() - startedAt) < seconds * 1e9);
  Atomics.store(signals, 2 + workerData.number, records / (Number(process.hrtime.bigint() - startedAt) / 1e9) | 0);
`;

/** Records a second of `threads` threads together. */
async function recordRate(keeping, threads) {
  const log = new DmaLog({ keeping });
  log.start(4096n, [{ iova: 0n, length: BigInt(16 * GIB) }]);
  const signals = new Int32Array(new SharedArrayBuffer(4 * (2 + threads)));
  const module = new URL('../dist/log/index.js', import.meta.url).href;
  const workers = Array.from(
    { length: threads },
    (_, number) =>
      new Worker(new URL(`data:text/javascript,${encodeURIComponent(writerProgram)}`), {
        workerData: { shared: log.share(), signals, number, module, seconds: 0.3 },
      }),
  );
  const ended = Promise.all(
    workers.map(worker => new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject))),
  );
  while (Atomics.load(signals, 0) < threads)
    await Promise.race([new Promise(resolve => setTimeout(resolve, 5)), ended]);
  Atomics.store(signals, 1, 1);
  Atomics.notify(signals, 1);
  await ended;
  return signals.subarray(2).reduce((total, rate) => total + rate, 0);
}

async function threads() {
  await section('record from worker threads, each in its half of 16 GiB, million a second', async group => {
    const half = index => (index >> 16) * 2 ** 21;
    const iovas = Float64Array.from(
      { length: 2 ** 17 },
      (_, index) => (Math.floor(Math.random() * 2 ** 21) + half(index)) * PAGE,
    );
    const kinds = ['generations', 'exchange', ...(engine === undefined ? [] : ['C'])];
    for (const kind of kinds) {
      const twin = engine?.create(2 ** 22);
      const rates = [[], []];
      for (let round = 0; round < 5; round++) {
        for (const count of [1, 2]) {
          const rate = kind === 'C' ? engine.threads(twin, iovas, 2 ** 16, count, 0.3) : await recordRate(kind, count);
          rates[count - 1].push(rate);
        }
      }
      const [one, two] = rates.map(median).map(rate => Number((rate / 1e6).toPrecision(3)));
      const job = `2 threads, ${kind} (in the column of C: 1 thread)`;
      const reach = kind === 'C' ? 'what the machine gives' : 'at least 1.6 x';
      const entry = { group, job, unit: 'M/s', figure: two, c: one, toC: Number((two / one).toFixed(2)), reach };
      rows.push(entry);
      if (!values.json) print(entry);
    }
  });
}

function memory() {
  section('memory, 8 TiB at 4 KiB, all dirty', group => {
    const bytes = 8192 * GIB;
    // Kept, so that none is given back while the next one is measured.
    const logs = [];
    for (const keeping of ['one-writer', 'exchange', 'generations']) {
      const log = new DmaLog({ keeping, maxBytes: 2 ** 31 });
      logs.push(log);
      const before = residentBytes();
      log.start(4096n, [{ iova: 0n, length: BigInt(bytes) }]);
      log.record(0, bytes);
      if (keeping === 'generations') {
        // Both generations touched: one report swaps, and all is marked once more.
        log.report(0n, BigInt(bytes), 2n ** 23n, new Uint32Array(bytes / 2 ** 23 / 32));
        log.record(0, bytes);
      }
      const perPage = (residentBytes() - before) / (bytes / PAGE / 8);
      const reach = keeping === 'generations' ? '2.02' : '1.01';
      const entry = { group, job: `${keeping}, bits a page`, unit: '', figure: Number(perPage.toFixed(3)), reach };
      rows.push(entry);
      if (!values.json) print(entry);
    }
  });
}

/** Bytes of shared memory that are resident: WebAssembly's shared memories are not in V8's heap. */
function residentBytes() {
  globalThis.gc?.();
  const status = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(/VmRSS:\s+(\d+)/.exec(status)[1]);
}

const machine = {
  cpu: cpus()[0].model,
  model: cpuLine(),
  cores: cpus().length,
  kernel: release(),
  node: process.version,
  gcc: gccVersion(),
  date: new Date().toISOString().slice(0, 10),
};

function cpuLine() {
  const info = readFileSync('/proc/cpuinfo', 'utf8');
  const field = name => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(info)?.[1];
  return `${field('vendor_id')} family ${field('cpu family')} model ${field('model')}, ${field('cache size')} cache`;
}

function gccVersion() {
  return engine === undefined
    ? 'none: no columns for C and memcpy'
    : execFileSync('gcc', ['-dumpfullversion'], { encoding: 'utf8' }).trim();
}

if (!values.json)
  console.log(
    Object.entries(machine)
      .map(([name, value]) => `${name}: ${value}`)
      .join('\n'),
  );
memory();
reports();
records();
walks();
await threads();
if (values.json) console.log(JSON.stringify({ machine, rows }, null, 2));
