// What a call to the kernel's VFIO costs: in a guest with the real kernel and the tests' module vdlog, dmalog's calls beside those of a C program
// (bench/kernel.c, gcc -O2, compiled now), and beside koffi's alone, which are the floor for any JavaScript. See bench/kernel-guest.mjs.
//
//   npm run bench:kernel [-- --kernel 6.1|6.12] [-- --json] [-- --rounds 9] [-- --calls 2000] [-- --reports 500] [-- --warm-up 12000]
//                        [-- --accelerator kvm|tcg]
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    kernel: { type: 'string', default: '6.1' },
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '9' },
    calls: { type: 'string', default: '2000' },
    reports: { type: 'string', default: '500' },
    'warm-up': { type: 'string', default: '12000' },
    accelerator: { type: 'string' },
  },
});

const project = fileURLToPath(new URL('..', import.meta.url));
/** In a folder that the guest has, too. */
const program = '.cache/kernel/bench';

/** Runs a program in the project's folder, and gives what it printed. */
function run(command, words) {
  const { error, status, stdout } = spawnSync(command, words, {
    cwd: project,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (error !== undefined) throw new Error(`${command}: ${error.message}`);
  if (status !== 0) throw new Error(`${command} has failed (${status})\n${stdout}`);
  return stdout;
}

function compile() {
  mkdirSync(`${project}/.cache/kernel`, { recursive: true });
  run('gcc', ['-O2', '-static', '-o', program, 'bench/kernel.c']);
}

/** Nanoseconds by job and by who called, a figure for each round. */
function measure() {
  const accelerator = values.accelerator === undefined ? [] : ['--accelerator', values.accelerator];
  const counts = [values.rounds, values.calls, values.reports, values['warm-up']];
  const command = `node bench/kernel-guest.mjs vdlog.0 ${program} ${counts.join(' ')}`;
  const printed = run('test/machines/run-kernel-guest', [...accelerator, values.kernel, command]);
  const line = printed.split('\n').find(line => line.startsWith('{'));
  if (line === undefined) throw new Error(`the guest gave no figures:\n${printed}`);
  return JSON.parse(line);
}

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const microseconds = nanoseconds => Number((nanoseconds / 1000).toPrecision(3));
const ratio = (times, beside) => Number((median(times) / median(beside)).toFixed(2));

function rowOf([job, { c, bare, awaited, client }]) {
  return {
    job,
    cUs: microseconds(median(c)),
    bareUs: microseconds(median(bare)),
    awaitedUs: microseconds(median(awaited)),
    clientUs: microseconds(median(client)),
    toC: ratio(client, c),
    toBare: ratio(client, bare),
    toAwaited: ratio(client, awaited),
  };
}

compile();
const machine = {
  cpu: cpus()[0].model,
  cores: cpus().length,
  load: loadavg()[0],
  kernel: values.kernel,
  node: process.version,
  date: new Date().toISOString().slice(0, 10),
};
const rows = Object.entries(measure()).map(rowOf);
if (values.json) console.log(JSON.stringify({ machine, rounds: Number(values.rounds), rows }, null, 2));
else {
  for (const [name, value] of Object.entries(machine)) console.log(`${name}: ${value}`);
  console.table(rows);
}
