import { MessageChannel } from 'node:worker_threads';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ReportMemory } from '../../src/kernel/report-memory.js';
import { libc } from '../../src/native/libc.js';
import { errnoOf, expectNoFdLeak } from '../native/helpers.js';
import { lockedBytes, withMemoryLockLimit } from '../native/memory-lock-limit.js';

expectNoFdLeak();

/** Writes bytes to an address as the kernel does: by a system call, not through a view. */
function kernelWrites(address: number, bytes: Uint8Array): void {
  const file = libc.memfdCreate('kernel', 1);
  libc.pwrite(file, bytes, bytes.length, 0);
  expect(libc.preadAt(file, address, bytes.length, 0)).toBe(bytes.length);
  libc.close(file);
}

test('bits are ORed into a bitmap of any size at any place, and into nothing beside it', () => {
  const memory = new ReportMemory();
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc.nat(9),
      fc.array(fc.nat(255), { minLength: 320, maxLength: 320 }),
      (bits, offset, before) => {
        const bytes = Uint8Array.from(before);
        const bitmap = bytes.subarray(offset, offset + bits.length);
        memory.report(bitmap, address => kernelWrites(address, bits));
        const expected = before.map((byte, index) => byte | (bits[index - offset] ?? 0));
        expect([...bytes]).toEqual(expected);
      },
    ),
    { numRuns: 200 },
  );
  memory.close();
});

test('each report finds zeros, after one that failed in the middle as well, whose bits are kept', () => {
  const memory = new ReportMemory();
  const bitmap = new Uint8Array(64);
  const fail = () =>
    memory.report(bitmap, address => {
      kernelWrites(address, new Uint8Array(64).fill(0xff));
      throw new Error('in the middle');
    });
  expect(fail).toThrow('in the middle');
  expect(bitmap.every(byte => byte === 0xff)).toBe(true);
  const next = new Uint8Array(64);
  memory.report(next, () => {});
  expect(next.every(byte => byte === 0)).toBe(true);
  memory.close();
});

test('bits behind the end of a report, where a log page reaches beyond it, are in no later report', () => {
  const memory = new ReportMemory();
  memory.report(new Uint8Array(8), address => kernelWrites(address, new Uint8Array(4096).fill(0xff)));
  const next = new Uint8Array(8192);
  memory.report(next, () => {});
  expect(next.every(byte => byte === 0)).toBe(true);
  memory.close();
});

test('a bitmap that goes to another thread during a report is an error, and the memory is clean again', async () => {
  const memory = new ReportMemory();
  const bitmap = new Uint8Array(4096);
  const { port1, port2 } = new MessageChannel();
  const report = memory.reportOffThread(bitmap, async address => {
    kernelWrites(address, new Uint8Array(4096).fill(1));
    port1.postMessage(bitmap, [bitmap.buffer]);
  });
  await expect(report).rejects.toThrow(/bitmap: it was taken away meanwhile \(EFAULT\)/);
  const next = new Uint8Array(4096);
  memory.report(next, () => {});
  expect(next.every(byte => byte === 0)).toBe(true);
  port1.close();
  port2.close();
  memory.close();
});

test('closing during a report leaves the kernel its memory until the report is done', async () => {
  const memory = new ReportMemory();
  const bitmap = new Uint8Array(4096);
  let mayWrite = () => {};
  const closed = new Promise<void>(resolve => {
    mayWrite = resolve;
  });
  const report = memory.reportOffThread(bitmap, async address => {
    await closed;
    kernelWrites(address, Uint8Array.of(0x80));
  });
  memory.close();
  memory.close();
  mayWrite();
  await report;
  expect(bitmap[0]).toBe(0x80);
  expect(errnoOf(() => memory.report(bitmap, () => {}))).toBe('EBADF');
});

test('two reports at once are refused: each would read the bits of the other', async () => {
  const memory = new ReportMemory();
  const first = memory.reportOffThread(new Uint8Array(8), async () => {
    expect(errnoOf(() => memory.report(new Uint8Array(8), () => {}))).toBe('EBUSY');
  });
  await first;
  memory.close();
});

test('a bitmap larger than what is kept has memory of its own', () => {
  const memory = new ReportMemory();
  const bitmap = new Uint8Array(2 ** 22);
  memory.report(bitmap, address => kernelWrites(address + 2 ** 22 - 1, Uint8Array.of(1)));
  expect(bitmap.at(-1)).toBe(1);
  memory.report(bitmap, () => {});
  memory.close();
});

test('where little may be locked the pieces are small, where nothing may there are no reports', () => {
  const small = new ReportMemory();
  withMemoryLockLimit(lockedBytes() + 2 ** 17, () => {
    expect(small.size).toBe(2 ** 17);
    expect(errnoOf(() => small.report(new Uint8Array(2 ** 18), () => {}))).toMatch(/ENOMEM|EAGAIN/);
  });
  small.close();
  const none = new ReportMemory();
  let asked = false;
  withMemoryLockLimit(lockedBytes(), () => {
    expect(
      errnoOf(() =>
        none.report(new Uint8Array(8), () => {
          asked = true;
        }),
      ),
    ).toMatch(/ENOMEM|EPERM/);
  });
  expect(asked).toBe(false);
  none.close();
});
