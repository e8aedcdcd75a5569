// What a call to the kernel's VFIO costs, in the guest where bench/kernel.mjs starts this: the same calls on the same device by
//   c        a C program (bench/kernel.c)
//   bare     koffi alone, with nothing around the call: no JavaScript can be quicker
//   awaited  the same in an async function that is awaited, as every call of the client's is
//   client   dmalog
// Each opens the device in turn, round for round, so that what slows the machine down slows down all of them.
//
//   node bench/kernel-guest.mjs DEVICE PROGRAM ROUNDS CALLS REPORTS WARM-UP
//
// prints { job: { c: [nanoseconds of one call, a figure for each round], bare: [...], ... } } as JSON.
import { execFileSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { KernelDevice, locateDevice } from '../dist/kernel/index.js';
import { linux } from '../dist/uapi/index.js';

const [target, program, rounds, calls, reports, warmUpCalls] = process.argv
  .slice(2)
  .map((word, index) => (index < 2 ? word : Number(word)));
const site = locateDevice(target, { sys: '/sys', dev: '/dev', proc: '/proc' });

/** By name: how often it is called, and by how much its report's length is shifted. */
const jobs = {
  probe: { count: calls },
  'region-read': { count: calls },
  'report-1MiB': { count: reports, shift: 20 },
  'report-1GiB': { count: Math.floor(reports / 10), shift: 30 },
  'report-64GiB': { count: Math.floor(reports / 100), shift: 36 },
};

const PROBE_START = (1 << 18) | (1 << 17) | linux.start;
const GET_REPORT = (1 << 16) | linux.report;
const LARGEST_BITMAP = 2 ** 21;
/** A round counts the quickest of so many parts: what else the machine does interrupts the others. */
const PARTS = 10;

/** The calls of dmalog; `start` makes the device log. */
async function openClient() {
  const device = await KernelDevice.open(target, { by: 'container' });
  const message = new Uint8Array(Uint32Array.of(8, PROBE_START).buffer);
  const bitmap = new Uint32Array(LARGEST_BITMAP / 4);
  return {
    start: () => device.features.startLogging(4096n, [{ iova: 0n, length: 1n << 36n }]),
    call(job) {
      if (job === 'probe') return () => device.door.request(message);
      if (job === 'region-read') return () => device.regionRead(0, 0, 24);
      const length = 1n << BigInt(jobs[job].shift);
      const bits = bitmap.subarray(0, 2 ** (jobs[job].shift - 12 - 5));
      const asked = { iova: 0n, length, pageSize: 4096n };
      return () => device.features.report(asked, bits);
    },
    close: () => device.close(),
  };
}

const library = koffi.load(null);
const ioctl = library.func('int ioctl(int fd, uint64_t request, uintptr_t argument)');
const pread = library.func('int64_t pread64(int fd, uintptr_t into, size_t count, int64_t offset)');

function checked(result) {
  if (result === -1) throw new Error(`errno ${koffi.errno()}`);
  return result;
}

/** Bytes with a fixed place, and that place. */
function block(words) {
  const bytes = new Uint8Array(Math.max(words.length * 8, 4096));
  new BigUint64Array(bytes.buffer).set(words.map(BigInt));
  return { bytes, address: Number(koffi.address(bytes)) };
}

/** The same calls by koffi alone. */
async function openBare() {
  const [container, group] = ['/dev/vfio/vfio', `/dev/vfio/${site.group}`].map(path => openSync(path, 'r+'));
  const containerFd = block([container]);
  checked(ioctl(group, 0x3b68, containerFd.address));
  checked(ioctl(container, 0x3b66, 3));
  const name = block([]);
  name.bytes.set(Buffer.from(site.name));
  const device = checked(ioctl(group, 0x3b6a, name.address));
  const header = (argsz, flags) => (BigInt(flags) << 32n) | BigInt(argsz);
  const held = [containerFd, name];
  return {
    start() {
      const ranges = block([0, 1n << 36n]);
      const request = block([header(32, (1 << 17) | linux.start), 4096, 1, ranges.address]);
      held.push(ranges);
      checked(ioctl(device, 0x3b75, request.address));
    },
    call(job) {
      const bitmap = block(new Array(LARGEST_BITMAP / 8).fill(0));
      const probe = block([header(8, PROBE_START)]);
      const length = 2 ** (jobs[job].shift ?? 0);
      const report = block([header(40, GET_REPORT), 0, length, 4096, bitmap.address]);
      held.push(bitmap, probe, report);
      if (job === 'probe') return () => checked(ioctl(device, 0x3b75, probe.address));
      if (job === 'region-read') return () => checked(pread(device, bitmap.address, 24, 0));
      return () => checked(ioctl(device, 0x3b75, report.address));
    },
    close() {
      for (const fd of [device, group, container]) closeSync(fd);
    },
  };
}

async function openAwaited() {
  const bare = await openBare();
  return {
    ...bare,
    call(job) {
      const call = bare.call(job);
      return async () => call();
    },
  };
}

// A loop for each: what one kind of call teaches the engine must not slow the others down.
const loopOf = wait =>
  new Function('call', 'count', `return (async () => { for (let n = 0; n < count; n++) ${wait} call(); })()`);

/**
 * Nanoseconds of one call of each job, the mean of the quickest part.
 * @param program how to open the device, and a loop over its calls
 * @param warmUp calls before those that count, by the calls that count
 */
async function measure({ open, loop }, warmUp) {
  const device = await open();
  const taken = {};
  let started = false;
  for (const [job, { count, shift }] of Object.entries(jobs)) {
    if (shift !== undefined && !started) {
      // Not before: the module counts its dirty pages for whoever reads its region.
      started = true;
      await device.start();
    }
    const call = device.call(job);
    await loop(call, warmUp(count));
    const calls = Math.max(Math.floor(count / PARTS), 1);
    taken[job] = Number.POSITIVE_INFINITY;
    for (let part = 0; part < PARTS; part++) {
      const start = process.hrtime.bigint();
      await loop(call, calls);
      taken[job] = Math.min(taken[job], Number(process.hrtime.bigint() - start) / calls);
    }
  }
  await device.close();
  return taken;
}

function measureC() {
  const words = [`${site.group}`, site.name, `${calls}`, `${reports}`];
  const lines = execFileSync(program, words, { encoding: 'utf8' }).trim().split('\n');
  return Object.fromEntries(lines.map(line => line.split(' ')).map(([job, nanoseconds]) => [job, Number(nanoseconds)]));
}

const programs = {
  bare: { open: openBare, loop: loopOf('') },
  awaited: { open: openAwaited, loop: loopOf('await') },
  client: { open: openClient, loop: loopOf('await') },
};
const found = Object.fromEntries(Object.keys(jobs).map(job => [job, { c: [], bare: [], awaited: [], client: [] }]));
// In a guest whose CPU is emulated the engine takes some 8,000 calls until all of a call is compiled; before, one takes twenty times as long.
const first = count => (count >= reports ? warmUpCalls : count);
const again = count => count / 4 + 1;
for (const program of Object.values(programs)) await measure(program, first);
for (let round = 0; round < rounds; round++) {
  const taken = { c: measureC() };
  for (const [name, program] of Object.entries(programs)) taken[name] = await measure(program, again);
  for (const [name, times] of Object.entries(taken)) {
    for (const [job, nanoseconds] of Object.entries(times)) found[job][name].push(nanoseconds);
  }
}
process.stdout.write(`${JSON.stringify(found)}\n`);
