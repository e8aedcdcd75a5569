// What migration costs, beside others that do the same on this machine, in turns within one run:
//
// - bulk: a pass over all memory of a machine that is filled with random data and does not run, from one process to another over the loopback
//   interface, beside a C program that only writes and reads it (bench/bulk.c, gcc -O3 -march=native, compiled now), and beside QEMU's own
//   migrate (from test/machines, fetched once into its cache), with one connection and with several. Only ratios within one round mean anything.
// - memory: what either process of ours had beside guest memory at most, in those runs.
// - downtime: demos with a machine that writes 20,000 pages a second (its engine 15,000, its CPUs 5,000), at a limit of 300 ms: what was expected, and what came.
//
//   npm run bench:migration [-- --only bulk] [-- --memory 4G] [-- --rounds 5] [-- --demos 20] [-- --json]
import { execFile, execFileSync, fork } from 'node:child_process';
import { createCipheriv } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { GuestMemory } from '../dist/memory/index.js';
import { qemuMigrate } from './qemu-migrate.mjs';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    memory: { type: 'string', default: '4G' },
    rounds: { type: 'string', default: '5' },
    demos: { type: 'string', default: '20' },
    json: { type: 'boolean', default: false },
  },
});
const MIB = 2 ** 20;
const DOWNTIME_LIMIT_MS = 300;
const NAMES = { 1: '1 connection', 2: '2 connections' };
const here = path => fileURLToPath(new URL(path, import.meta.url));
const run = promisify(execFile);

function sizeOf(text) {
  const [, count, unit] = /^(\d+)([MG])$/.exec(text) ?? [];
  if (count === undefined) throw new Error(`--memory ${text}: such as 512M or 4G`);
  return Number(count) * { M: MIB, G: 1024 * MIB }[unit];
}

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

/** No page is like another, and none can be compressed. */
function fill(memory) {
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 7), Buffer.alloc(16));
  const zeros = Buffer.alloc(MIB);
  for (let offset = 0; offset < memory.size; offset += MIB) memory.write(offset, cipher.update(zeros));
}

/**
 * Leaves so much memory free that can be had at once. A virtual machine's host takes free memory back after some seconds, and whoever comes next
 * waits for it: the same C program was 1.0 to 1.7 times as slow ten seconds after another as right behind it.
 */
function takeFromHost(bytes) {
  const memory = GuestMemory.create(bytes, 'bench-taken');
  const zeros = Buffer.alloc(MIB);
  for (let offset = 0; offset < bytes; offset += MIB) memory.writeInBulk(offset, zeros);
  memory.close();
}

/** One migration of ours between two new processes; GB/s of the pass, and memory of both. */
async function ours(bytes, path, connections) {
  const start = (...parameters) => fork(here('bulk-end.mjs'), [...parameters, `${connections}`]);
  const receiver = start('receive', `${bytes}`);
  const sender = start('send', path);
  const [[to]] = await Promise.all([once(receiver, 'message'), once(sender, 'message')]);
  const ended = Promise.all([
    once(sender, 'message'),
    once(receiver, 'message'),
    once(sender, 'exit'),
    once(receiver, 'exit'),
  ]);
  sender.send(to);
  const [[sent], [received]] = await ended;
  return {
    gigabytesPerSecond: sent.bytes / 1e6 / sent.milliseconds,
    ownMemory: Math.max(sent.ownMemory, received.ownMemory),
  };
}

function c(program, bytes, fd, connections) {
  const output = execFileSync(program, [`${connections}`], {
    stdio: ['ignore', 'pipe', 'inherit', fd],
    encoding: 'utf8',
  });
  return { gigabytesPerSecond: bytes / Number(output) };
}

async function bulk() {
  const bytes = sizeOf(values.memory);
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-bench-'));
  const memory = GuestMemory.create(bytes, 'bench-bulk');
  try {
    const program = join(folder, 'bulk');
    execFileSync('gcc', ['-O3', '-march=native', '-pthread', '-o', program, here('bulk.c')]);
    const { stdout } = await run(here('../test/machines/fetch'), ['qemu']);
    const memoryPath = `/proc/${process.pid}/fd/${memory.fd}`;
    fill(memory);
    const qemu = (channels, backing) => async () => {
      const options = { qemu: join(stdout.trim(), 'qemu'), memoryPath, mebibytes: bytes / MIB, channels, backing };
      const result = await qemuMigrate(options);
      return { gigabytesPerSecond: result.bytes / 1e6 / result.milliseconds };
    };
    const ways = {
      'C, 1 connection': async () => c(program, bytes, memory.fd, 1),
      'dmalog, 1 connection': () => ours(bytes, memoryPath, 1),
      'QEMU, default, into a memory file': qemu(0, 'memfd'),
      'C, 2 connections': async () => c(program, bytes, memory.fd, 2),
      'dmalog, 2 connections': () => ours(bytes, memoryPath, 2),
      'QEMU, multifd with 2 channels, into a memory file': qemu(2, 'memfd'),
      'QEMU, default, into anonymous memory': qemu(0, 'ram'),
      'QEMU, multifd with 2 channels, into anonymous memory': qemu(2, 'ram'),
    };
    const rounds = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      const results = {};
      for (const [name, way] of Object.entries(ways)) {
        takeFromHost(bytes);
        results[name] = await way();
      }
      rounds.push(results);
      if (!values.json) console.error(`round ${round + 1} of ${values.rounds}`);
    }
    const speeds = Object.keys(ways).map(name => [
      name,
      median(rounds.map(results => results[name].gigabytesPerSecond)),
    ]);
    const ratio = (one, other) =>
      median(rounds.map(results => results[one].gigabytesPerSecond / results[other].gigabytesPerSecond));
    const byConnections = measure => Object.fromEntries([1, 2].map(count => [NAMES[count], measure(NAMES[count])]));
    const mostMemory = name => Math.max(...rounds.map(results => results[`dmalog, ${name}`].ownMemory)) / MIB;
    return {
      gigabytesPerSecond: Object.fromEntries(speeds),
      toC: byConnections(name => ratio(`dmalog, ${name}`, `C, ${name}`)),
      toQemu: Object.fromEntries(
        Object.keys(ways)
          .filter(name => name.startsWith('QEMU'))
          .map(qemuName => [qemuName, byConnections(name => ratio(`dmalog, ${name}`, qemuName))]),
      ),
      mostMemoryBesideGuestMiB: byConnections(mostMemory),
    };
  } finally {
    memory.close();
    rmSync(folder, { recursive: true });
  }
}

async function demo() {
  const { stdout } = await run(
    process.execPath,
    [here('../dist/cli/main.js'), 'demo', '--json', '--rate', '15000', '--cpu-rate', '5000'],
    {
      maxBuffer: 64 * MIB,
    },
  );
  const { verified, downtimeMs, estimatedDowntimeMs } = JSON.parse(stdout.trim().split('\n').at(-1));
  return { verified, downtimeMs, estimatedDowntimeMs, error: downtimeMs / estimatedDowntimeMs - 1 };
}

async function downtime() {
  const runs = [];
  for (let index = 0; index < Number(values.demos); index++) {
    runs.push(await demo());
    if (!values.json) console.error(`demo ${index + 1} of ${values.demos}`);
  }
  const count = so => `${runs.filter(so).length} of ${runs.length}`;
  return {
    limitMs: DOWNTIME_LIMIT_MS,
    verified: count(({ verified }) => verified),
    withinLimit: count(({ downtimeMs }) => downtimeMs <= DOWNTIME_LIMIT_MS),
    estimateWithin20Percent: count(({ error }) => Math.abs(error) <= 0.2),
    medianDowntimeMs: median(runs.map(each => each.downtimeMs)),
    longestDowntimeMs: Math.max(...runs.map(each => each.downtimeMs)),
    medianError: median(runs.map(each => Math.abs(each.error))),
    runs,
  };
}

const sections = { bulk, downtime };
const results = { machine: `${cpus()[0].model}, ${cpus().length} cores, Linux ${release()}, Node ${process.version}` };
for (const [name, measure] of Object.entries(sections)) {
  if (values.only === undefined || values.only === name) results[name] = await measure();
}
if (values.json) console.log(JSON.stringify(results));
else console.log(tableOf(results));

function tableOf(item, indent = '') {
  return Object.entries(item)
    .filter(([name]) => name !== 'runs')
    .map(([name, value]) => {
      if (typeof value === 'object') return `${indent}${name}\n${tableOf(value, `${indent}  `)}`;
      return `${`${indent}${name}`.padEnd(60)}${typeof value === 'number' ? Number(value.toPrecision(3)) : value}`;
    })
    .join('\n');
}
