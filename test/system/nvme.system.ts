import { spawnSync } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import { createReadStream, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { expect, inject, onTestFinished, test } from 'vitest';
import { FileDisk, NvmeController } from '../../src/devices/nvme/index.js';
import type { Guest } from '../machines/guest.js';
import { temporaryFolder } from '../native/helpers.js';
import { DmaWitness, differingPages, PAGE_SIZE, without } from './dma-witness.js';
import { boot, serve } from './guests.js';
import { DeviceTracker } from './tracker.js';

const path = temporaryFolder();

const MEMORY_MIB = 256;
const MEMORY_BYTES = MEMORY_MIB * 2 ** 20;
const DISK_BYTES = 256 * 2 ** 20;

/** A guest on a controller on a file, a witness at its port, and a tracker on a connection of its own that was there first. */
async function machine(name: string, image: string) {
  const disk = await FileDisk.open(image);
  onTestFinished(() => disk.close());
  const controller = new NvmeController({ disk });
  const witness = new DmaWitness(controller.dma);
  await serve(controller, path(name));
  const tracker = await DeviceTracker.start(path(name), MEMORY_BYTES);
  // Two CPUs, so that two I/O queues and their interrupts are used.
  const guest = await boot({ devices: [path(name)], memoryMiB: MEMORY_MIB, cpus: 2 });
  return { controller, witness, tracker, guest };
}

/** Runs a program of e2fsprogs on this machine; returns what it printed. */
function tool(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(inject('machine').tool, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${args.join(' ')}: ${status}\n${stdout}${stderr}`);
  return stdout;
}

async function sha256(file: string, from = 0, length = Number.POSITIVE_INFINITY): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file, { start: from, end: from + length - 1 }), hash);
  return hash.digest('hex');
}

test('a guest keeps a file system on the disk, and the reports of a tracker are exactly the pages that the controller wrote', async () => {
  const image = path('filesystem.img');
  writeFileSync(image, '');
  truncateSync(image, DISK_BYTES);
  const { guest, controller, witness, tracker } = await machine('filesystem', image);

  const work = guest.run(`
    set -e
    mkfs.ext4 -q /dev/nvme0n1
    mount -t ext4 /dev/nvme0n1 /mnt
    cd /mnt
    for n in $(seq 24); do head -c $((n * n * 11111)) /dev/urandom > file$n; done
    sha256sum file* > /tmp/sums
    sync
    echo 3 > /proc/sys/vm/drop_caches
    sha256sum -c /tmp/sums > /dev/null
    rm file[1-9]
    cp file20 copy20
    fstrim /mnt
    cd /
    umount /mnt
    mount -t ext4 /dev/nvme0n1 /mnt
    cd /mnt
    cmp file20 copy20
    sha256sum *[0-9]
    cd /
    umount /mnt
  `);
  const union = await tracker.during(work, 50);
  const sums = await work;

  expect(tracker.reports).toBeGreaterThan(2);
  expect(witness.failures).toBe(0);
  expect(controller.statistics).toMatchObject({ mediaErrors: 0 });
  expect(without(witness.pages(), union)).toEqual([]);
  expect(without(union, witness.pages())).toEqual([]);
  expect(union.size).toBeGreaterThan(1000);

  await guest.close();
  tool('sbin/e2fsck', '-fn', image);
  const files = sums.trim().split('\n');
  expect(files.length).toBe(16);
  for (const line of files) {
    const [sum, name] = line.split(/ +/) as [string, string];
    tool('sbin/debugfs', '-R', `dump /${name} ${path(name)}`, image);
    expect(await sha256(path(name)), name).toBe(sum);
  }
});

/** Reads that a guest has asked for, each of a part of the disk of its own, and none done. */
const READS = 16;
const READ_BYTES = 64 * 1024;

/**
 * What happens in guest memory between two moments in which only the controller works: the guest has queued reads of random data, its CPU stands,
 * its memory is copied, the controller works the reads off, and memory is copied again.
 */
async function workOffAlone(
  { guest, controller, witness, tracker }: Awaited<ReturnType<typeof machine>>,
  beforeWork: () => void = () => {},
) {
  controller.holdQueues();
  await guest.run(`
    for n in $(seq 0 ${READS - 1}); do
      (dd if=/dev/nvme0n1 bs=${READ_BYTES} skip=$n count=1 iflag=direct 2> /dev/null | sha256sum > /tmp/sum$n) > /dev/null 2>&1 &
    done
    until [ "$(cat /sys/block/nvme0n1/inflight | awk '{ print $1 }')" = ${READS} ]; do sleep 0.1; done
  `);
  await guest.stopCpu();
  await tracker.report();
  const writes = witness.writes;
  const before = await guest.readMemory();
  beforeWork();
  controller.releaseQueues();
  await controller.whenIdle();
  const after = await guest.readMemory();
  return {
    differing: differingPages(before, after),
    reported: await tracker.report(),
    witnessed: witness.pages(writes),
  };
}

/** Lets the guest go on; gives the sums of what it has read. */
async function sumsOfReads(guest: Guest): Promise<string[]> {
  await guest.continueCpu();
  const answer = await guest.run(`
    until [ "$(cat /tmp/sum* | wc -l)" = ${READS} ]; do sleep 0.1; done
    for n in $(seq 0 ${READS - 1}); do cut -d' ' -f1 /tmp/sum$n; done
  `);
  return answer.trim().split('\n');
}

/** An image of random data, all of it different. */
function randomImage(file: string): void {
  writeFileSync(file, randomFillSync(new Uint8Array(READS * READ_BYTES)));
  truncateSync(file, DISK_BYTES);
}

test('every page that changes while only the controller works is in the report, and no other than it wrote', async () => {
  randomImage(path('alone.img'));
  const here = await machine('alone', path('alone.img'));
  const { differing, reported, witnessed } = await workOffAlone(here);

  expect(differing.size).toBeGreaterThanOrEqual((READS * READ_BYTES) / PAGE_SIZE);
  expect(without(differing, reported)).toEqual([]);
  expect(without(reported, witnessed)).toEqual([]);
  expect(without(witnessed, reported)).toEqual([]);

  const content = readFileSync(path('alone.img'));
  const parts = Array.from({ length: READS }, (_, n) => content.subarray(n * READ_BYTES, (n + 1) * READ_BYTES));
  expect(await sumsOfReads(here.guest)).toEqual(parts.map(part => createHash('sha256').update(part).digest('hex')));
});

test('a log that misses one write is found out by memory itself', async () => {
  randomImage(path('sabotage.img'));
  const here = await machine('sabotage', path('sabotage.img'));
  const { log } = here.controller.dma;
  const record = log.record.bind(log);
  let missed: number | undefined;
  const { differing, reported, witnessed } = await workOffAlone(here, () => {
    log.record = (iova, length) => {
      if (missed === undefined && length >= PAGE_SIZE) missed = Number(iova) / PAGE_SIZE;
      else record(iova, length);
    };
  });
  expect(missed).toBeDefined();
  expect(without(differing, reported)).toContain(missed);
  expect(without(witnessed, reported)).toContain(missed);
});
