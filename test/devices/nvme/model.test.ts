import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { type Disk, FileDisk, MemoryDisk } from '../../../src/devices/nvme/index.js';
import { addressOf, anyBuffer, describeBuffer, fillBuffer, type HostBuffer } from './host-buffer.js';
import { FREE_AREA, MEMORY_SIZE, NvmeHost, requireSuccess } from './nvme-host.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-nvme-'));
afterAll(() => rmSync(folder, { recursive: true }));

const DISK_SIZE = 2 ** 20;
const QUEUES = 3;

/** What one queue is given, in its own part of the disk and of host memory. */
type Job =
  | { kind: 'write' | 'read' | 'compare'; first: number; blocks: number; buffer: HostBuffer; seed: number }
  | { kind: 'zero'; first: number; blocks: number }
  | { kind: 'flush' };

interface Plan {
  blockSize: number;
  pageExponent: number;
  jobs: Job[][];
}

const anyPlan: fc.Arbitrary<Plan> = fc
  .record({ blockSize: fc.constantFrom(512, 4096), pageExponent: fc.nat(1) })
  .chain(({ blockSize, pageExponent }) => {
    const pageSize = 4096 << pageExponent;
    const blocks = Math.floor(DISK_SIZE / blockSize / QUEUES);
    const jobsOf = (queue: number) => fc.array(anyJob(queue, blocks, blockSize, pageSize), { maxLength: 6 });
    return fc.tuple(jobsOf(0), jobsOf(1), jobsOf(2)).map(jobs => ({ blockSize, pageExponent, jobs }));
  });

function anyJob(queue: number, blocks: number, blockSize: number, pageSize: number): fc.Arbitrary<Job> {
  const most = Math.floor((56 * 1024) / blockSize);
  const place = fc
    .tuple(fc.nat(blocks - 1), fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: most })))
    .map(([first, count]) => ({ first: queue * blocks + first, blocks: Math.min(count, blocks - first) }));
  const moving = fc
    .tuple(fc.constantFrom('write', 'write', 'read', 'read', 'compare'), place, fc.nat(255))
    .chain(([kind, { first, blocks: count }, seed]) =>
      anyBuffer(count * blockSize, pageSize, queue, QUEUES).map(
        buffer => ({ kind, first, blocks: count, buffer, seed }) as Job,
      ),
    );
  return fc.oneof(
    { weight: 8, arbitrary: moving },
    {
      weight: 1,
      arbitrary: place.map(({ first, blocks: count }) => ({ kind: 'zero' as const, first, blocks: count })),
    },
    { weight: 1, arbitrary: fc.constant({ kind: 'flush' as const }) },
  );
}

/** A disk and host memory in which everything happens byte by byte. */
class NaiveHost {
  readonly disk: Uint8Array;
  readonly memory: Uint8Array;
  readonly #pageSize: number;
  readonly #blockSize: number;

  constructor(disk: Uint8Array, memory: Uint8Array, pageSize: number, blockSize: number) {
    this.disk = disk;
    this.memory = memory;
    this.#pageSize = pageSize;
    this.#blockSize = blockSize;
  }

  /** Returns the status. */
  do(job: Job): string {
    if (job.kind === 'flush') return 'SUCCESS';
    const start = job.first * this.#blockSize;
    const length = job.blocks * this.#blockSize;
    if (job.kind === 'zero') {
      this.disk.fill(0, start, start + length);
      return 'SUCCESS';
    }
    let isEqual = true;
    for (let index = 0; index < length; index++) {
      const address = addressOf(job.buffer, index, this.#pageSize);
      if (job.kind === 'read') this.memory[address] = this.disk[start + index]!;
      else if (job.kind === 'write') this.disk[start + index] = this.memory[address]!;
      else if (this.memory[address] !== this.disk[start + index]) isEqual = false;
    }
    return isEqual ? 'SUCCESS' : 'COMPARE_FAILURE';
  }
}

const OPCODES = { write: 1, read: 2, compare: 5, zero: 8, flush: 0 };

async function runPlan(plan: Plan, disk: Disk, content: () => Promise<Uint8Array>, late: boolean): Promise<void> {
  const pageSize = 4096 << plan.pageExponent;
  const host = new NvmeHost({ disk, blockSize: plan.blockSize, late });
  try {
    host.enable(plan.pageExponent);
    // Four entries: the rings wrap again and again.
    for (let id = 1; id <= QUEUES; id++) await host.createQueues(id, 4);
    const naive = new NaiveHost(await content(), host.memory.read(0, MEMORY_SIZE), pageSize, plan.blockSize);
    await Promise.all(plan.jobs.map((jobs, index) => runJobs(host, naive, index + 1, jobs, pageSize)));
    expect(Buffer.compare(await content(), naive.disk)).toBe(0);
    const memory = host.memory.read(FREE_AREA, MEMORY_SIZE - FREE_AREA);
    expect(Buffer.compare(memory, naive.memory.subarray(FREE_AREA))).toBe(0);
    expect(host.outstanding).toBe(0);
  } finally {
    await host.close();
  }
}

/** One after the other, against the twin. */
async function runJobs(host: NvmeHost, naive: NaiveHost, queue: number, jobs: Job[], pageSize: number): Promise<void> {
  for (const job of jobs) {
    const { first, blocks } = job.kind === 'flush' ? { first: 0, blocks: 1 } : job;
    let prps = {};
    if ('buffer' in job) {
      const { buffer, seed } = job;
      const bytes = Uint8Array.from({ length: buffer.length }, (_, index) => (index * 7 + (index >>> 8) + seed) & 0xff);
      if (job.kind !== 'read') fillBuffer(buffer, bytes, host.memory, pageSize);
      prps = describeBuffer(buffer, host.memory, pageSize);
      mirror(host, naive, job.buffer, pageSize);
    }
    const command = { opcode: OPCODES[job.kind], namespaceId: 1, ...prps, dwords: [first, 0, blocks - 1] };
    const { status } = await host.submit(queue, command);
    expect(status).toBe(naive.do(job));
  }
}

/** What the test itself wrote into host memory. */
function mirror(host: NvmeHost, naive: NaiveHost, { pages, listPages }: HostBuffer, pageSize: number): void {
  for (const page of [...pages, ...listPages]) naive.memory.set(host.memory.read(page, pageSize), page);
}

function patterned(): Uint8Array {
  return Uint8Array.from({ length: DISK_SIZE }, (_, index) => (index ^ (index >>> 9) ^ 0x5a) & 0xff);
}

describe('reads, writes, compares, zeroes and flushes from several queues against a naive twin', () => {
  test('on a disk in memory', async () => {
    await fc.assert(
      fc.asyncProperty(anyPlan, async plan => {
        const disk = new MemoryDisk(DISK_SIZE);
        disk.content.set(patterned());
        await runPlan(plan, disk, async () => disk.content.slice(), false);
      }),
      { numRuns: 50 },
    );
  });

  test('on a disk in a file', async () => {
    const path = join(folder, 'disk.img');
    await fc.assert(
      fc.asyncProperty(anyPlan, async plan => {
        writeFileSync(path, patterned());
        const disk = await FileDisk.open(path);
        const content = async () => {
          const bytes = new Uint8Array(DISK_SIZE);
          await disk.read(0, bytes);
          return bytes;
        };
        await runPlan(plan, disk, content, false);
      }),
      { numRuns: 25 },
    );
  });

  test('with host memory that is reached by messages', async () => {
    await fc.assert(
      fc.asyncProperty(anyPlan, async plan => {
        const disk = new MemoryDisk(DISK_SIZE);
        disk.content.set(patterned());
        await runPlan(plan, disk, async () => disk.content.slice(), true);
      }),
      { numRuns: 25 },
    );
  });

  test('of the largest transfer, over lists that lead on', async () => {
    const disk = new MemoryDisk(DISK_SIZE);
    disk.content.set(patterned());
    await fc.assert(
      fc.asyncProperty(anyBuffer(512 * 1024, 4096, 0, 1), async buffer => {
        const host = new NvmeHost({ disk });
        await host.start();
        const prps = describeBuffer(buffer, host.memory, 4096);
        requireSuccess(await host.submit(1, { opcode: 2, namespaceId: 1, ...prps, dwords: [1024, 0, 1023] }));
        for (const index of [0, 1, 4095, 4096, 262_143, 262_144, 524_287]) {
          expect(host.memory.read(addressOf(buffer, index, 4096), 1)[0]).toBe(disk.content[1024 * 512 + index]);
        }
        await host.close();
      }),
      { numRuns: 30 },
    );
  });
});
