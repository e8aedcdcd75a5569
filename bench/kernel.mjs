// What a call to the kernel's VFIO costs through the client, beside the same call of a C program (bench/kernel.c). It wants a device behind a
// VFIO driver that logs DMA and whose region 0 gives 24 bytes at once: the test module of test/kernel. Both open the device in turn, C, client,
// C, client, and medians over the rounds are compared: on a shared machine only ratios within one run mean anything.
//
//   gcc -O2 -static -o kernel bench/kernel.c
//   node bench/kernel.mjs DEVICE PROGRAM [--json] [--rounds 7] [--calls 20000] [--reports 2000]
import { execFileSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { KernelDevice, locateDevice } from '../dist/kernel/index.js';
import { linux } from '../dist/uapi/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '7' },
    calls: { type: 'string', default: '20000' },
    reports: { type: 'string', default: '2000' },
  },
});
const [target = 'vdlog.0', program = './kernel'] = positionals;
const rounds = Number(values.rounds);
const calls = Number(values.calls);
const reports = Number(values.reports);
const site = locateDevice(target, { sys: '/sys', dev: '/dev', proc: '/proc' });

/** The request alone, as one would make it in a loop of one's own: no decoding. */
const probeMessage = Uint8Array.of(8, 0, 0, 0, linux.start, 0, 6, 0);

const jobs = {
  probe: { count: calls, call: device => device.door.request(probeMessage) },
  'region-read': { count: calls, call: device => device.regionRead(0, 0, 24) },
  'report-1MiB': reportJob(20, 1),
  'report-1GiB': reportJob(30, 10),
  'report-64GiB': reportJob(36, 100),
};

function reportJob(shift, divisor) {
  const length = 1n << BigInt(shift);
  const bitmap = new Uint32Array(2 ** (shift - 12 - 5));
  const asked = { iova: 0n, length, pageSize: 4096n };
  return {
    logging: true,
    count: Math.floor(reports / divisor) + 1,
    call: device => device.features.report(asked, bitmap),
  };
}

/** Mean of one call of each job, nanoseconds. */
async function client() {
  const device = await KernelDevice.open(target, { by: 'container' });
  const taken = {};
  let started = false;
  for (const [name, { count, call, logging = false }] of Object.entries(jobs)) {
    if (logging && !started) {
      // Not before: the module counts its dirty pages for whoever reads its region.
      started = true;
      await device.features.startLogging(4096n, [{ iova: 0n, length: 1n << 36n }]);
    }
    for (let done = 0; done < count / 4 + 1; done++) await call(device);
    const start = process.hrtime.bigint();
    for (let done = 0; done < count; done++) await call(device);
    taken[name] = Number(process.hrtime.bigint() - start) / count;
  }
  await device.close();
  return taken;
}

function plainC() {
  const words = [`${site.group}`, site.name, `${calls}`, `${reports}`];
  const lines = execFileSync(program, words, { encoding: 'utf8' }).trim().split('\n');
  return Object.fromEntries(
    lines.map(line => line.split(' ')).map(([name, nanoseconds]) => [name, Number(nanoseconds)]),
  );
}

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const taken = { c: [], client: [] };
await client();
for (let round = 0; round < rounds; round++) {
  taken.c.push(plainC());
  taken.client.push(await client());
}
const rows = Object.keys(jobs).map(job => {
  const c = median(taken.c.map(round => round[job]));
  const client = median(taken.client.map(round => round[job]));
  return { job, cNs: Math.round(c), clientNs: Math.round(client), ratio: Number((client / c).toFixed(2)) };
});
if (values.json) process.stdout.write(`${JSON.stringify({ rounds, rows })}\n`);
else console.table(rows);
