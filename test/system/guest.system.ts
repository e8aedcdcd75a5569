import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { expect, inject, test } from 'vitest';
import { Guest } from '../machines/guest.js';
import { boot } from './guests.js';

const runGuestPath = fileURLToPath(new URL('../machines/run-guest', import.meta.url));

function runGuest(script: string): { status: number | null; stdout: string } {
  const args = ['--accelerator', inject('machine').accelerator, script];
  return spawnSync(runGuestPath, args, { encoding: 'utf8' });
}

const guestFolders = () => readdirSync(tmpdir()).filter(name => name.startsWith('dmalog-guest-'));

test('a script gives what it prints, one that fails says so, and the guest takes another one after it', async () => {
  const guest = await boot({ memoryMiB: 128 });
  expect(await guest.run('echo one; echo two >&2; printf three')).toBe('one\ntwo\nthree');
  await expect(guest.run('echo lost; exit 7')).rejects.toThrow('ended with 7:\necho lost; exit 7\nlost\n');
  expect(await guest.run('uname -s')).toBe('Linux\n');
  expect(await guest.run('seq 20000 | wc -c; seq 20000')).toMatch(/^108894\n1\n2\n[\s\S]*\n20000\n$/);
});

test('memory is read as the guest sees it, while its CPU stands', async () => {
  const guest = await boot({ memoryMiB: 128, kernelArguments: 'memmap=1M$0x6000000' });
  await guest.run('devmem 0x6000ff8 64 0x1122334455667788');
  await guest.stopCpu();
  const memory = await guest.readMemory();
  expect(memory.length).toBe(128 * 2 ** 20);
  expect(Buffer.from(memory.buffer).readBigUInt64LE(0x600_0ff8)).toBe(0x1122334455667788n);
  await guest.continueCpu();
  expect(await guest.run('echo on')).toBe('on\n');
});

test('a guest that goes away fails the script that it was running, and leaves nothing behind', async () => {
  const before = guestFolders();
  const guest = await Guest.boot(inject('machine'), { memoryMiB: 128 });
  await expect(guest.run('poweroff -f; sleep 100')).rejects.toThrow('the guest is gone');
  await expect(guest.run('true')).rejects.toThrow('the guest is gone');
  await guest.close();
  await guest.close();
  expect(guestFolders()).toEqual(before);
});

test('a guest that cannot be booted says what QEMU said, and leaves nothing behind', async () => {
  const before = guestFolders();
  const devices = ['/nowhere/device.sock'];
  await expect(Guest.boot(inject('machine'), { devices })).rejects.toThrow(
    /did not boot[\s\S]*nowhere[\s\S]*No such file/,
  );
  expect(guestFolders()).toEqual(before);
});

test('run-guest prints what a script prints, exits as it does, and with 125 when the guest does not get to its end', () => {
  expect(runGuest('echo one; printf two; exit 3')).toMatchObject({ status: 3, stdout: 'one\ntwo' });
  expect(runGuest('echo one; poweroff -f; sleep 100')).toMatchObject({ status: 125 });
});
