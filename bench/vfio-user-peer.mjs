// One end of a vfio-user connection in TypeScript, for vfio-user.mjs; the same ends in C are in vfio-user.c.
//
//   node vfio-user-peer.mjs server main|worker shared|dedicated PATH
//   node vfio-user-peer.mjs client shared|dedicated PATH
//   node vfio-user-peer.mjs log
//
// A client and the log alone take jobs on standard input, one a line, and answer each with one line of JSON, times in nanoseconds:
// read:COUNT, write:COUNT:DEPTH, report:COUNT[:DIRTY], shared:COUNT[:DIRTY].
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { PciDevice } from '../dist/device/index.js';
import { DmaLog } from '../dist/log/index.js';
import { createMemoryFile } from '../dist/native/index.js';
import { VfioUserClient, VfioUserServer } from '../dist/vfio-user/index.js';

const BAR_SIZE = 4096;
const WRITE_OFFSET = 8;
const MARK_OFFSET = 16;
const PAGE = 4096;
const LENGTH = 256 * 2 ** 30;
const BITMAP_BYTES = LENGTH / PAGE / 8;
const logOptions = { reportBytes: BITMAP_BYTES + 64 };

/** One of a hundred pages of 256 GiB, at random. */
function dirtyPages() {
  const pages = new Uint32Array(LENGTH / PAGE / 100);
  for (let index = 0; index < pages.length; index++) pages[index] = Math.floor(Math.random() * (LENGTH / PAGE));
  return pages;
}

/** Registers that only hold bytes, moved by a loop, which takes less than `set` for so few; a write to MARK_OFFSET has one page in a hundred written by DMA. */
class BenchDevice extends PciDevice {
  #registers = new Uint8Array(BAR_SIZE);
  #dirty;

  constructor() {
    super({
      name: 'bench',
      vendorId: 0x1b36,
      deviceId: 0x00f1,
      classCode: 0xff0000,
      bars: [{ index: 0, size: BAR_SIZE }],
      log: logOptions,
    });
  }

  readRegister(_bar, offset, into) {
    for (let index = 0; index < into.length; index++) into[index] = this.#registers[offset + index];
  }

  writeRegister(_bar, offset, data) {
    for (let index = 0; index < data.length; index++) this.#registers[offset + index] = data[index];
    if (offset !== MARK_OFFSET) return;
    this.#dirty ??= dirtyPages();
    this.dma.log.recordPages(this.#dirty);
  }
}

async function serve(thread, loop, path) {
  if (thread === 'worker') {
    const worker = new Worker(new URL(import.meta.url), { workerData: { loop, path } });
    await once(worker, 'message');
  } else await VfioUserServer.listen(new BenchDevice(), { path, loop });
  console.log('ready');
}

const nanoseconds = () => performance.now() * 1e6;

function answer(job, times) {
  const sorted = Float64Array.from(times).sort();
  const mean = times.reduce((sum, time) => sum + time, 0) / times.length;
  console.log(JSON.stringify({ job, count: times.length, mean, median: sorted[sorted.length >> 1] }));
}

/** Takes jobs until standard input ends. */
async function takeJobs(jobs) {
  console.log('ready');
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, count, more] = line.split(':');
    await jobs[name](Number(count), Number(more ?? 0));
  }
}

async function timed(name, count, before, run) {
  const times = new Float64Array(count);
  for (let index = 0; index < count; index++) {
    await before?.();
    const startedAt = nanoseconds();
    await run();
    times[index] = nanoseconds() - startedAt;
  }
  answer(name, times);
}

async function runClient(loop, path) {
  const client = await VfioUserClient.connect(path, { loop });
  const word = new Uint8Array(8);
  const bitmap = new Uint32Array(BITMAP_BYTES / 4);
  const asked = { iova: 0n, length: BigInt(LENGTH), pageSize: BigInt(PAGE) };
  const shared = client.attachBitmap && (await attach(client));
  let started = false;
  const mark = () => client.regionWrite(0, MARK_OFFSET, word);
  const start = async () => {
    if (!started) await client.features.startLogging(asked.pageSize, [asked]);
    started = true;
  };
  await takeJobs({
    read: count => timed('read', count, undefined, () => client.regionRead(0, 0, 8)),
    write: async (count, depth) => {
      let left = count;
      const lane = async () => {
        while (left-- > 0) await client.regionWrite(0, WRITE_OFFSET, word);
      };
      const startedAt = nanoseconds();
      await Promise.all(Array.from({ length: depth }, lane));
      answer('write', [(nanoseconds() - startedAt) / count]);
    },
    report: async (count, dirty) => {
      await start();
      await timed('report', count, dirty ? mark : undefined, () => client.features.report(asked, bitmap));
    },
    shared: async (count, dirty) => {
      if (shared === undefined) return console.log(JSON.stringify({ job: 'shared', missing: true }));
      await start();
      await timed('shared', count, dirty ? mark : undefined, () => client.reportShared(shared, asked));
    },
  });
  await client.close();
}

/** A bitmap in a memory file that the server maps. */
async function attach(client) {
  const file = createMemoryFile('bench-bitmap', BITMAP_BYTES);
  try {
    return await client.attachBitmap(file.fd, { offset: 0n, size: BigInt(BITMAP_BYTES) });
  } finally {
    file.close();
  }
}

/** What the log itself takes, with no wire. */
async function runLog() {
  const log = new DmaLog(logOptions);
  log.start(BigInt(PAGE), [{ iova: 0n, length: BigInt(LENGTH) }]);
  const bitmap = new Uint32Array(BITMAP_BYTES / 4);
  const dirty = dirtyPages();
  const report = async count =>
    timed('report', count, undefined, () => log.report(0n, BigInt(LENGTH), BigInt(PAGE), bitmap));
  const reportDirty = count =>
    timed(
      'report',
      count,
      () => log.recordPages(dirty),
      () => log.report(0n, BigInt(LENGTH), BigInt(PAGE), bitmap),
    );
  await takeJobs({ report: (count, isDirty) => (isDirty ? reportDirty(count) : report(count)) });
}

if (!isMainThread) {
  await VfioUserServer.listen(new BenchDevice(), workerData);
  parentPort.postMessage('listening');
} else {
  const [role, ...rest] = process.argv.slice(2);
  await { server: serve, client: runClient, log: runLog }[role](...rest);
}
