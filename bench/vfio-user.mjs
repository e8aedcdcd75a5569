// What vfio-user costs: round trips, pipelined writes and reports with the server, or both ends, in TypeScript, beside a client and a
// server in plain C (bench/vfio-user.c, gcc -O3 -march=native, compiled now). All processes are pinned to one core: with two, the machine's
// way of waking a sleeping core is what one measures. All pairs live through the whole run and take turns, A B C A B C, and medians are
// compared: on a shared machine only ratios within one run mean anything.
//
//   npm run bench:vfio-user [-- --json] [-- --only read] [-- --rounds 15] [-- --core 1]
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    rounds: { type: 'string', default: '15' },
    core: { type: 'string', default: lastCore() },
  },
});
const rounds = Number(values.rounds);
const WARM_UP = 4;
const rows = [];
const running = [];
const folder = mkdtempSync(join(tmpdir(), 'dmalog-bench-'));
const peer = fileURLToPath(new URL('vfio-user-peer.mjs', import.meta.url));
let plainC;

function lastCore() {
  const allowed = /Cpus_allowed_list:\s*(\S+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1];
  return /\d+$/.exec(allowed)[0];
}

function compile() {
  const program = join(folder, 'vfio-user');
  const source = fileURLToPath(new URL('vfio-user.c', import.meta.url));
  execFileSync('gcc', ['-O3', '-march=native', '-o', program, source]);
  return program;
}

/** A process on the core, that has said it is ready; `ask` gives it a job and gives its answer. */
async function start(command) {
  const child = spawn('taskset', ['-c', values.core, ...command], { stdio: ['pipe', 'pipe', 'inherit'] });
  running.push(child);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${command.join(' ')} has ended`);
    return value;
  };
  if ((await next()) !== 'ready') throw new Error(`${command.join(' ')} is not ready`);
  return {
    ask: async job => {
      child.stdin.write(`${job}\n`);
      return JSON.parse(await next());
    },
  };
}

const node = (...words) => [process.execPath, peer, ...words];
let sockets = 0;

/** A client that is connected to a server of its own. */
async function pair(client, server) {
  const path = join(folder, `${++sockets}.sock`);
  await start(server(path));
  return start(client(path));
}

const cServer = path => [plainC, 'serve', path];
const cClient = path => [plainC, 'client', path];
const tsServer = (thread, loop) => path => node('server', thread, loop, path);
const tsClient = loop => path => node('client', loop, path);

let pairs;
let log;

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

/** Gives each its job in turn; medians over the rounds, in nanoseconds. @param jobs name to [process, job] */
async function inTurn(jobs) {
  const taken = Object.fromEntries(Object.keys(jobs).map(name => [name, []]));
  for (let round = 0; round < WARM_UP + rounds; round++) {
    for (const [name, [process, job]] of Object.entries(jobs)) {
      const answer = await process.ask(job);
      if (round >= WARM_UP) taken[name].push(answer);
    }
  }
  return Object.fromEntries(
    Object.entries(taken).map(([name, answers]) => [
      name,
      answers[0].missing
        ? undefined
        : { median: median(answers.map(answer => answer.median)), mean: median(answers.map(answer => answer.mean)) },
    ]),
  );
}

/** Adds a row: `time` beside `measure`, both `{ median, mean }` in nanoseconds. */
function row(group, job, unit, time, measure, reach) {
  if (time === undefined) return;
  const scale = { µs: 1e3, ms: 1e6 }[unit];
  const shown = value => Number((value / scale).toPrecision(3));
  const entry = {
    group,
    job,
    unit,
    figure: shown(time.median),
    mean: shown(time.mean),
    beside: measure && shown(measure.median),
    ratio: measure && Number((time.median / measure.median).toFixed(2)),
    ratioOfMeans: measure && Number((time.mean / measure.mean).toFixed(2)),
    reach,
  };
  rows.push(entry);
  if (!values.json) print(entry);
}

function print({ job, unit, figure, mean, beside, ratio, ratioOfMeans, reach }) {
  const cell = (value, width) => String(value ?? '-').padStart(width);
  const times = `${cell(figure, 8)}${cell(mean, 8)}${cell(beside, 8)} ${unit}`;
  console.log(`${job.padEnd(62)}${times}${cell(ratio, 7)}${cell(ratioOfMeans, 8)}  ${reach}`);
}

async function section(name, measure) {
  if (values.only !== '' && !name.includes(values.only)) return;
  if (!values.json) console.log(`\n${name.padEnd(62)}  median    mean  beside     ratio of means  to reach`);
  await measure(name);
}

const machine = {
  cpu: cpus()[0].model,
  cores: cpus().length,
  pinnedTo: Number(values.core),
  kernel: release(),
  node: process.version,
  gcc: gccVersion(),
  date: new Date().toISOString().slice(0, 10),
};

function gccVersion() {
  try {
    return execFileSync('gcc', ['-dumpfullversion'], { encoding: 'utf8' }).trim();
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

async function startAll() {
  plainC = compile();
  pairs = {
    c: await pair(cClient, cServer),
    worker: await pair(cClient, tsServer('worker', 'dedicated')),
    main: await pair(cClient, tsServer('main', 'shared')),
    both: await pair(tsClient('dedicated'), tsServer('worker', 'dedicated')),
    bothShared: await pair(tsClient('shared'), tsServer('main', 'shared')),
  };
  log = await start(node('log'));
}

async function measureAll() {
  await section('8-byte REGION_READ, a round trip', async group => {
    const job = 'read:4000';
    const times = await inTurn(Object.fromEntries(Object.entries(pairs).map(([name, each]) => [name, [each, job]])));
    row(group, 'C client and server', 'µs', times.c, undefined, '');
    row(group, 'C client, TypeScript server in a worker, dedicated', 'µs', times.worker, times.c, '1.3 x C');
    row(group, 'C client, TypeScript server in the main thread, shared', 'µs', times.main, times.c, '');
    row(group, 'TypeScript client and server, dedicated', 'µs', times.both, times.c, '2.5 x C');
    row(group, 'TypeScript client and server, shared', 'µs', times.bothShared, times.c, '');
  });
  await section('8-byte REGION_WRITE, 32 in flight, each', async group => {
    const job = 'write:8000:32';
    const times = await inTurn(Object.fromEntries(Object.entries(pairs).map(([name, each]) => [name, [each, job]])));
    row(group, 'C client and server', 'µs', times.c, undefined, '');
    row(group, 'C client, TypeScript server in a worker, dedicated', 'µs', times.worker, times.c, '');
    row(group, 'C client, TypeScript server in the main thread, shared', 'µs', times.main, times.c, '');
    row(group, 'TypeScript client and server, dedicated', 'µs', times.both, times.c, 'half the speed: 2 x C');
    row(group, 'TypeScript client and server, shared', 'µs', times.bothShared, times.c, '');
  });
  for (const [say, job] of [
    ['nothing dirty', 'report:4'],
    ['1 % dirty', 'report:4:1'],
  ]) {
    await section(`REPORT of 256 GiB at 4 KiB, ${say}, beside 8 MiB moved and the log's own`, async group => {
      const each = ['worker', 'main', 'both', 'bothShared'].map(name => [name, [pairs[name], job]]);
      const times = await inTurn({ c: [pairs.c, 'report:4'], log: [log, job], ...Object.fromEntries(each) });
      const least = { median: times.c.median + times.log.median, mean: times.c.mean + times.log.mean };
      row(group, '8 MiB from the C server to the C client', 'ms', times.c, undefined, '');
      row(group, "the log's own", 'ms', times.log, undefined, '');
      row(group, 'C client, TypeScript server in a worker, dedicated', 'ms', times.worker, least, '1 x');
      row(group, 'C client, TypeScript server in the main thread, shared', 'ms', times.main, least, '1 x');
      row(group, 'TypeScript client and server, dedicated', 'ms', times.both, least, '1 x');
      row(group, 'TypeScript client and server, shared', 'ms', times.bothShared, least, '1 x');
    });
  }
  await section('REPORT of 256 GiB into a shared bitmap', async group => {
    const clean = await inTurn({ both: [pairs.both, 'shared:20'], bothShared: [pairs.bothShared, 'shared:20'] });
    row(group, 'nothing dirty, dedicated', 'ms', clean.both, undefined, 'below 0.2 ms');
    row(group, 'nothing dirty, shared', 'ms', clean.bothShared, undefined, 'below 0.2 ms');
    const dirty = await inTurn({ both: [pairs.both, 'shared:4:1'], log: [log, 'report:4:1'] });
    row(group, "1 % dirty, dedicated, beside the log's own", 'ms', dirty.both, dirty.log, '');
  });
}

try {
  if (!values.json) for (const [name, value] of Object.entries(machine)) console.log(`${name}: ${value}`);
  if (machine.gcc === undefined) console.error('vfio-user: without gcc there is nothing to measure beside');
  else {
    await startAll();
    await measureAll();
  }
  if (values.json) console.log(JSON.stringify({ machine, rows }, null, 2));
} finally {
  for (const child of running) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
}
