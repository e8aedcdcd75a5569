import { expect, test } from 'vitest';
import { temporaryFolder } from '../native/helpers.js';
import { without } from './dma-witness.js';
import { bootOnNvme, e2fsprogs, makeImage, type NvmeMachine, sha256 } from './nvme-machine.js';

const path = temporaryFolder();

/** Makes a file system, and prints the sums of the files that it leaves there. */
const WORK = `
  set -e
  mkfs.ext4 -q /dev/nvme0n1
  mount -t ext4 /dev/nvme0n1 /mnt
  cd /mnt
  for n in $(seq 24); do head -c $((n * n * 7777)) /dev/urandom > file$n; done
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
`;
const FILES_LEFT = 16;

/** Has the guest do its work while the tracker reports, looks at what came of it from all sides, and gives the pages that were reported. */
async function workAndCheck(
  image: string,
  { guest, controller, witness, tracker }: NvmeMachine,
): Promise<ReadonlySet<number>> {
  const work = guest.run(WORK);
  const union = await tracker.during(work, 50);
  const sums = await work;

  expect(tracker.reports).toBeGreaterThan(2);
  expect(witness.failures).toBe(0);
  expect(controller.statistics.mediaErrors).toBe(0);
  expect(without(witness.pages(), union)).toEqual([]);
  expect(without(union, witness.pages())).toEqual([]);
  expect(witness.writes).toBeGreaterThan(1000);

  await guest.close();
  e2fsprogs('sbin/e2fsck', '-fn', image);
  const files = sums.trim().split('\n');
  expect(files.length).toBe(FILES_LEFT);
  for (const line of files) {
    const [sum, name] = line.split(/ +/) as [string, string];
    const copy = `${image}.${name}`;
    e2fsprogs('sbin/debugfs', '-R', `dump /${name} ${copy}`, image);
    expect(await sha256(copy), name).toBe(sum);
  }
  return union;
}

test('a guest keeps a file system on the disk, and the reports of a tracker are exactly the pages that the controller wrote', async () => {
  const image = path('plain.img');
  makeImage(image);
  // Two CPUs, so that two I/O queues and their interrupts are used.
  await workAndCheck(image, await bootOnNvme(image, { cpus: 2 }));
});

test('the same holds behind a virtual IOMMU, where memory is mapped and unmapped page by page, and with INTx', async () => {
  const image = path('iommu.img');
  makeImage(image);
  const machine = await bootOnNvme(image, {
    addresses: 2 ** 32,
    qemuArguments: ['-device', 'intel-iommu,caching-mode=on'],
    kernelArguments: 'intel_iommu=on iommu.passthrough=0 iommu.strict=1 pci=nomsi',
  });
  expect(await machine.guest.run('cat /proc/interrupts')).toMatch(/IO-APIC.*nvme/);
  const pages = await workAndCheck(image, machine);
  // The guest's driver hands out addresses from 4 GiB downwards, where the guest has no memory.
  expect(Math.max(...pages)).toBeGreaterThan(2 ** 20 - 2 ** 16);
});
