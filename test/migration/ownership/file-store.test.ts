import { fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { encodeRecord, FileOwnershipStore, firstRecord, successor } from '../../../src/migration/index.js';
import { lockFile, openFdCount } from '../../../src/native/index.js';
import { expectNoFdLeak, temporaryFolder } from '../../native/helpers.js';
import { randomFrom, seedOfRun } from './seed.js';
import { describeStore, newMachine } from './store-rules.js';

const claimer = fileURLToPath(new URL('claimer.mjs', import.meta.url));

describe('a folder of ownership records', () => {
  const path = temporaryFolder();
  expectNoFdLeak();
  describeStore(() => new FileOwnershipStore(path('records')));

  it('ignores what a writer has left that died before its record was there', async () => {
    const store = new FileOwnershipStore(path('leftovers'));
    const record = firstRecord(newMachine(), 'a');
    await store.compareAndSet(undefined, record);
    const next = successor(record, 'b');
    const text = encodeRecord(next);
    for (const length of [0, 1, text.length - 1, text.length]) {
      writeFileSync(path(`leftovers/${record.machine}.new`), text.slice(0, length));
      expect(await store.read(record.machine)).toEqual(record);
    }
    expect(await store.compareAndSet(record, next)).toEqual({ outcome: 'set' });
    expect(await store.read(record.machine)).toEqual(next);
  });

  it('neither believes nor replaces a file that is no record', async () => {
    const store = new FileOwnershipStore(path('broken'));
    const record = firstRecord(newMachine(), 'a');
    await store.compareAndSet(undefined, record);
    const file = path(`broken/${record.machine}.json`);
    const text = encodeRecord(record);
    const other = encodeRecord(firstRecord('another', 'a'));
    for (const broken of [
      '',
      text.slice(0, -1),
      `${text}\n`,
      text.replace(':1,', ':1.5,'),
      other,
      'x'.repeat(1 << 20),
    ]) {
      writeFileSync(file, broken);
      await expect(store.read(record.machine)).rejects.toMatchObject({ errno: 'EBADMSG' });
      const result = await store.compareAndSet(record, successor(record, 'b'));
      expect(result).toMatchObject({ outcome: 'not-set', error: { errno: 'EBADMSG' } });
      expect(readFileSync(file, 'utf8')).toBe(broken);
    }
  });

  it('waits for another that is at the record', async () => {
    const store = new FileOwnershipStore(path('locked'));
    const record = firstRecord(newMachine(), 'a');
    await store.compareAndSet(undefined, record);
    const fd = openSync(path(`locked/${record.machine}.lock`), 'a');
    lockFile(fd, 'exclusive');
    let isDone = false;
    const change = store.compareAndSet(record, successor(record, 'b')).then(result => {
      isDone = true;
      return result;
    });
    await delay(50);
    expect(isDone).toBe(false);
    closeSync(fd);
    expect(await change).toEqual({ outcome: 'set' });
  });

  it('says that nothing was set where it cannot write', async () => {
    writeFileSync(path('file'), '');
    const record = firstRecord(newMachine(), 'a');
    const fds = openFdCount();
    const result = await new FileOwnershipStore(path('file')).compareAndSet(undefined, record);
    expect(result).toMatchObject({ outcome: 'not-set', error: { errno: 'EEXIST' } });
    expect(openFdCount()).toBe(fds);
  });

  it('has every change of several processes once, and none twice', async () => {
    const folder = path('processes');
    const machine = newMachine();
    const claimers = Array.from({ length: 3 }, () => startClaimer(folder, machine, 20));
    const epochs = (await Promise.all(claimers.map(each => each.ended))).flat();
    expect(epochs.sort((a, b) => a - b)).toEqual(Array.from({ length: 60 }, (_, index) => index + 1));
  });

  it('is whole, and keeps what it has confirmed, whenever a writer is killed', async () => {
    const random = randomFrom(seedOfRun('a writer is killed'));
    const folder = path('killed');
    const machine = newMachine();
    const store = new FileOwnershipStore(folder);
    for (let round = 0; round < 12; round++) {
      const writer = startClaimer(folder, machine, 1_000_000);
      await writer.started;
      await delay(random() * 30);
      writer.child.kill('SIGKILL');
      const confirmed = (await writer.ended).at(-1)!;
      const epoch = (await store.read(machine))!.epoch;
      // At most one more: done, and not confirmed any more.
      expect([confirmed, confirmed + 1]).toContain(epoch);
    }
  });
});

/** A process that claims a machine again and again. `ended`: the epochs that it got confirmed. */
function startClaimer(folder: string, machine: string, times: number) {
  const child = fork(claimer, [folder, machine, `${times}`]);
  const epochs: number[] = [];
  child.on('message', epoch => epochs.push(epoch as number));
  return { child, started: once(child, 'message'), ended: once(child, 'close').then(() => epochs) };
}
