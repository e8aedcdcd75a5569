// What it costs to track the CPU's own writes: arming, and scans of a guest with so many pages written, beside a C program that makes the same
// ioctl on the same memory file (bench/cpu-tracker.c, gcc -O3 -march=native, compiled now). Ours also sets the bits of a DirtySet. Both arm the
// memory once, write the same pages, rest a moment (on a busy machine a thread that has just worked is interrupted sooner than one that has not)
// and scan in turn, A B A B. Medians and best times are compared: only ratios within one run mean anything.
//
//   npm run bench:cpu-tracker [-- --json] [-- --memory 8G] [-- --rounds 15]
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { GuestMemory } from '../dist/memory/index.js';
import { Mapping } from '../dist/native/index.js';
import { CpuTracker, DirtySet, probeCpuTracking } from '../dist/tracker/index.js';

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    memory: { type: 'string', default: '8G' },
    rounds: { type: 'string', default: '15' },
  },
});
const PAGE = 4096;
const WARM_UP = 3;
const REST_MS = 5;
const rounds = Number(values.rounds);
const bytes = sizeOf(values.memory);

function sizeOf(text) {
  const [, count, unit] = /^(\d+)([MG])$/.exec(text) ?? [];
  if (count === undefined) throw new Error(`--memory ${text}: such as 512M or 8G`);
  return Number(count) * { M: 2 ** 20, G: 2 ** 30 }[unit];
}

/** The C program on the same memory file; `ask` has it write and scan. */
async function startC(folder, fd) {
  const program = join(folder, 'cpu-tracker');
  const source = fileURLToPath(new URL('cpu-tracker.c', import.meta.url));
  execFileSync('gcc', ['-O3', '-march=native', '-o', program, source]);
  const child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit', fd] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error('the C program has ended');
    const [nanoseconds, pages] = value.split(' ').map(Number);
    return { milliseconds: nanoseconds / 1e6, pages };
  };
  return {
    armed: await next(),
    ask: perThousand => {
      child.stdin.write(`${perThousand}\n`);
      return next();
    },
    end: () => child.stdin.end(),
  };
}

/** Takes all pages from the system, through a mapping that nobody scans: page tables between them slow a scan down, by 15 % here. */
function fillFile(memory) {
  const mapping = Mapping.map(memory.fd, 0, bytes, { read: true, write: true });
  mapping.fill(0, bytes, 1);
  mapping.close();
}

/** Ours in this process. */
async function startOurs(memory) {
  const range = { iova: 0n, length: memory.size };
  const windows = memory.mapping.windows;
  // Page tables one behind the other, as C's are.
  for (const window of windows) for (let at = 0; at < window.length; at += PAGE) window[at] = 1;
  const tracker = new CpuTracker([{ ...range, memory }]);
  const startedAt = performance.now();
  await tracker.start([range]);
  const armed = { milliseconds: performance.now() - startedAt };
  const dirty = new DirtySet([range]);
  let seed = 1;
  const write = perThousand => {
    for (const window of windows) {
      for (let at = 0; at < window.length; at += PAGE) {
        seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
        if ((seed >>> 16) % 1000 < perThousand) window[at] = 1;
      }
    }
  };
  return {
    armed,
    ask: async perThousand => {
      write(perThousand);
      dirty.clear();
      await setTimeout(REST_MS);
      const startedAt = performance.now();
      await tracker.collect(dirty);
      const milliseconds = performance.now() - startedAt;
      return { milliseconds, pages: dirty.count() };
    },
    end: () => tracker.stop(),
  };
}

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const shown = value => Number(value.toPrecision(3));

/** Both in turn, with the same pages; milliseconds. */
async function compare(ours, c, perThousand) {
  const taken = { ours: [], c: [] };
  let pages = 0;
  for (let round = 0; round < WARM_UP + rounds; round++) {
    const [mine, theirs] = [await ours.ask(perThousand), await c.ask(perThousand)];
    if (mine.pages !== theirs.pages) throw new Error(`${mine.pages} pages here, ${theirs.pages} in C`);
    pages = mine.pages;
    if (round < WARM_UP) continue;
    taken.ours.push(mine.milliseconds);
    taken.c.push(theirs.milliseconds);
  }
  return { pages, ...taken };
}

/** Adds a row of what was measured here and in C, milliseconds. */
function row(rows, job, ours, c, reach) {
  const entry = {
    job,
    unit: 'ms',
    figure: shown(median(ours)),
    beside: shown(median(c)),
    ratio: Number((median(ours) / median(c)).toFixed(2)),
    best: shown(Math.min(...ours)),
    bestBeside: shown(Math.min(...c)),
    ratioOfBest: Number((Math.min(...ours) / Math.min(...c)).toFixed(2)),
    reach,
  };
  rows.push(entry);
  if (values.json) return;
  const { figure, beside, ratio, best, bestBeside, ratioOfBest } = entry;
  const cells = [figure, beside, ratio, best, bestBeside, ratioOfBest].map(value => String(value).padStart(8));
  console.log(`${job.padEnd(40)}${cells.join('')}  ${reach}`);
}

async function measure() {
  const rows = [];
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-bench-'));
  const memory = GuestMemory.create(bytes, 'bench');
  const ends = [];
  try {
    fillFile(memory);
    const c = await startC(folder, memory.fd);
    ends.push(c.end);
    const ours = await startOurs(memory);
    ends.push(ours.end);
    if (!values.json) console.log(`${''.padEnd(40)}    here       C   ratio    best       C   ratio  to reach`);
    row(rows, `arm ${values.memory}`, [ours.armed.milliseconds], [c.armed.milliseconds], '');
    for (const [perThousand, reach] of [
      [0, ''],
      [1, ''],
      [10, '1.2 x C'],
      [100, ''],
      [1000, ''],
    ]) {
      const found = await compare(ours, c, perThousand);
      row(rows, `scan ${values.memory}, ${perThousand / 10} % (${found.pages} pages)`, found.ours, found.c, reach);
    }
    return rows;
  } finally {
    for (const end of ends.reverse()) await end();
    memory.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

const machine = {
  cpu: cpus()[0].model,
  cores: cpus().length,
  kernel: release(),
  node: process.version,
  date: new Date().toISOString().slice(0, 10),
};
const refused = probeCpuTracking();
if (refused !== undefined) {
  console.error(refused.message);
  process.exitCode = 1;
} else {
  if (!values.json) for (const [name, value] of Object.entries(machine)) console.log(`${name}: ${value}`);
  const rows = await measure();
  if (values.json) console.log(JSON.stringify({ machine, rows }, null, 2));
}
