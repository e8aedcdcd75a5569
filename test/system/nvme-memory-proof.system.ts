import { createHash, randomFillSync } from 'node:crypto';
import { expect, test } from 'vitest';
import type { Guest } from '../machines/guest.js';
import { temporaryFolder } from '../native/helpers.js';
import { differingPages, PAGE_SIZE, without } from './dma-witness.js';
import { bootOnNvme, makeImage, type NvmeMachine } from './nvme-machine.js';

const path = temporaryFolder();

/** Reads that a guest asks for, each of another part of the disk. */
const READS = 16;
const READ_BYTES = 64 * 1024;

/**
 * What happens in guest memory between two moments in which only the controller works: the guest has queued its reads and none is done, its CPU
 * stands, its memory is copied, the controller works the reads off, and memory is copied again.
 */
async function workOffAlone({ guest, controller, witness, tracker }: NvmeMachine, beforeWork: () => void = () => {}) {
  controller.holdQueues();
  await guest.run(`
    for n in $(seq 0 ${READS - 1}); do
      (dd if=/dev/nvme0n1 bs=${READ_BYTES} skip=$n count=1 iflag=direct 2> /dev/null | sha256sum > /tmp/sum$n) > /dev/null 2>&1 &
    done
    until [ "$(awk '{ print $1 }' /sys/block/nvme0n1/inflight)" = ${READS} ]; do sleep 0.1; done
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

/** A disk of random data, so that every page that is read into differs from what it was. */
function makeRandomImage(image: string): Uint8Array {
  const content = randomFillSync(new Uint8Array(READS * READ_BYTES));
  makeImage(image, content);
  return content;
}

test('every page that changes while only the controller works is in the report, and the report is what it wrote', async () => {
  const content = makeRandomImage(path('proof.img'));
  const machine = await bootOnNvme(path('proof.img'));
  const { differing, reported, witnessed } = await workOffAlone(machine);

  expect(differing.size).toBeGreaterThanOrEqual((READS * READ_BYTES) / PAGE_SIZE);
  expect(without(differing, reported)).toEqual([]);
  expect(without(reported, witnessed)).toEqual([]);
  expect(without(witnessed, reported)).toEqual([]);

  const parts = Array.from({ length: READS }, (_, n) => content.subarray(n * READ_BYTES, (n + 1) * READ_BYTES));
  const sums = parts.map(part => createHash('sha256').update(part).digest('hex'));
  expect(await sumsOfReads(machine.guest)).toEqual(sums);
});

test('a log that misses one write is found out, by memory and by the witness', async () => {
  makeRandomImage(path('sabotage.img'));
  const machine = await bootOnNvme(path('sabotage.img'));
  const { log } = machine.controller.dma;
  const record = log.record.bind(log);
  let missed: number | undefined;
  const { differing, reported, witnessed } = await workOffAlone(machine, () => {
    log.record = (iova, length) => {
      if (missed === undefined && length >= PAGE_SIZE) missed = Math.floor(Number(iova) / PAGE_SIZE);
      else record(iova, length);
    };
  });
  expect(missed).toBeDefined();
  expect(without(differing, reported)).toContain(missed);
  expect(without(witnessed, reported)).toContain(missed);
});
