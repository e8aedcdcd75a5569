// The NVMe controller beside QEMU's own: the same guest, the same backing file, the same fio job, in turns. QEMU and the guest come from
// test/machines (fetched once into its cache). Without KVM the guest's CPU is emulated, and takes most of the time in either case: then the
// ratio says what a guest there notices, not what the controllers are capable of.
//
//   npm run bench:nvme [-- --json] [-- --rounds 3] [-- --seconds 8] [-- --size 1024]
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '8' },
    /** MiB of the backing file. */
    size: { type: 'string', default: '1024' },
  },
});
const MIB = 2 ** 20;
const here = path => fileURLToPath(new URL(path, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'dmalog-bench-'));
const file = join(folder, 'disk.img');
const socket = join(folder, 'disk.sock');
const accelerator = execFileSync(here('../test/machines/accelerator'), { encoding: 'utf8' }).trim();

/** The file's bytes are written, so that no read is of a hole; they are then in the page cache for both. */
function fillDisk() {
  const fd = openSync(file, 'w');
  const bytes = randomFillSync(new Uint8Array(MIB));
  for (let written = 0; written < Number(values.size); written++) writeSync(fd, bytes);
  closeSync(fd);
}

/** Only while its guest runs: either controller locks the file. */
async function withOurs(use) {
  const device = await serveDisk();
  try {
    return use();
  } finally {
    device.kill();
    await new Promise(resolve => device.once('exit', resolve));
  }
}

async function serveDisk() {
  const main = here('../dist/cli/main.js');
  const device = spawn(process.execPath, [main, 'device', 'nvme', '--file', file, '--socket', socket], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise(resolve => device.stdout.once('data', resolve));
  return device;
}

function fio({ rw, blockSize, depth }) {
  return [
    'fio --name=job --filename=/dev/nvme0n1 --direct=1 --ioengine=io_uring --time_based --output-format=json',
    `--rw=${rw} --bs=${blockSize} --iodepth=${depth} --runtime=${values.seconds}`,
  ].join(' ');
}

/** Input and output operations a second. */
function run(job, disk) {
  const common = ['--part', 'guest-fio', '--accelerator', accelerator, fio(job)];
  const { status, stdout, stderr } = spawnSync(here('../test/machines/run-guest'), [...common, ...disk], {
    encoding: 'utf8',
    maxBuffer: 64 * MIB,
  });
  if (status !== 0) throw new Error(`the guest ended with ${status}: ${stderr.slice(-500)}`);
  const { read, write } = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs[0];
  return read.iops + write.iops;
}

const disks = {
  qemu: ['-drive', `file=${file},if=none,id=disk,format=raw,cache=writeback`, '-device', 'nvme,serial=qemu,drive=disk'],
  ours: ['-device', JSON.stringify({ driver: 'vfio-user-pci', socket: { path: socket, type: 'unix' } })],
};
const jobs = [
  { name: '4 KiB random read, queue depth 32', rw: 'randread', blockSize: '4k', depth: 32, reach: 0.5 },
  { name: '4 KiB random read, queue depth 1', rw: 'randread', blockSize: '4k', depth: 1 },
  { name: '4 KiB random write, queue depth 32', rw: 'randwrite', blockSize: '4k', depth: 32 },
  { name: '128 KiB sequential read, queue depth 8', rw: 'read', blockSize: '128k', depth: 8 },
];

const median = numbers => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

async function measure(job) {
  const seen = { qemu: [], ours: [] };
  for (let round = 0; round < Number(values.rounds); round++) {
    seen.qemu.push(run(job, disks.qemu));
    seen.ours.push(await withOurs(() => run(job, disks.ours)));
  }
  const [qemu, ours] = [median(seen.qemu), median(seen.ours)].map(Math.round);
  return { job: job.name, oursPerSecond: ours, qemuPerSecond: qemu, ratio: ours / qemu, reach: job.reach };
}

try {
  fillDisk();
  const machine = {
    cpu: `${cpus().length} x ${cpus()[0].model}`,
    linux: release(),
    node: process.version,
    accelerator,
  };
  if (!values.json) console.log(`${machine.cpu}, Linux ${machine.linux}, Node ${machine.node}, ${accelerator}\n`);
  const rows = [];
  for (const job of jobs) {
    const row = await measure(job);
    rows.push(row);
    if (values.json) continue;
    const aim = row.reach === undefined ? '' : `, aim ${row.reach} x`;
    const figures = `${row.oursPerSecond}/s, QEMU's own ${row.qemuPerSecond}/s: ${row.ratio.toFixed(2)} x${aim}`;
    console.log(`${row.job.padEnd(40)} ${figures}`);
  }
  if (values.json) console.log(JSON.stringify({ machine, rows }, null, 2));
} finally {
  rmSync(folder, { recursive: true });
}
