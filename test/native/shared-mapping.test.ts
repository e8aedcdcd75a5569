import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { createMemoryFile, Mapping, viewShared, WINDOW_SIZE } from '../../src/native/index.js';
import { addressSpace, errnoOf, expectNoFdLeak, loopUntil } from './helpers.js';

expectNoFdLeak();

const PAGE = 4096;
const rights = { read: true, write: true };

function mapNew(name: string, length: number, given = rights): Mapping {
  using file = createMemoryFile(name, length);
  return Mapping.map(file.fd, 0, length, given);
}

function residentPages(name: string): boolean {
  return readFileSync('/proc/self/maps', 'utf8').includes(`memfd:${name} `);
}

/** A thread that writes 9 to byte 4096 of a shared mapping whenever it is told to, and says what it found there. */
function startThread(shared: unknown): { worker: Worker; signal: Int32Array } {
  const native = new URL('../../dist/native/index.js', import.meta.url).href;
  const signal = new Int32Array(new SharedArrayBuffer(8));
  const program = `
    import { workerData } from 'node:worker_threads';
    import { viewShared } from ${JSON.stringify(native)};
    const { shared, signal } = workerData;
    const view = viewShared(shared, 4096, 8192);
    for (let turn = 0; turn < 2; turn++) {
      Atomics.store(signal, 1, view[0] + 1);
      view[0] = 9;
      Atomics.store(signal, 0, turn + 1);
      if (turn === 0) Atomics.wait(signal, 0, 1);
    }`;
  const url = new URL(`data:text/javascript,${encodeURIComponent(program)}`);
  return { worker: new Worker(url, { workerData: { shared, signal } }), signal };
}

describe('a shared mapping', () => {
  test('is the same memory in another thread, and leads nowhere there once it is closed', async () => {
    const mapping = mapNew('shared-thread', 3 * PAGE);
    mapping.write(PAGE, Uint8Array.of(5));
    const { worker, signal } = startThread(mapping.share());
    expect(await loopUntil(() => Atomics.load(signal, 0) === 1)).toBe(true);
    expect(Atomics.load(signal, 1)).toBe(6);
    const byte = new Uint8Array(1);
    mapping.read(PAGE, byte);
    expect(byte[0]).toBe(9);
    mapping.close();
    expect(residentPages('shared-thread')).toBe(false);
    // The thread goes on as if nothing had happened: zeros, and its own pages under them.
    Atomics.store(signal, 0, 3);
    Atomics.notify(signal, 0);
    await new Promise(resolve => worker.once('exit', resolve));
    expect(Atomics.load(signal, 1)).toBe(1);
  });

  test('keeps its addresses when it is closed, which nobody can know the end of', () => {
    const before = addressSpace();
    const mapping = mapNew('shared-addresses', WINDOW_SIZE);
    mapping.share();
    mapping.close();
    expect(addressSpace() - before).toBeGreaterThanOrEqual(WINDOW_SIZE);
  });

  test('gives its addresses back when all threads that had it have ended, before or after it is closed', () => {
    for (const order of ['ended first', 'closed first']) {
      const before = addressSpace();
      const mapping = mapNew('shared-ended', WINDOW_SIZE);
      mapping.share();
      mapping.share();
      mapping.endShare();
      if (order === 'closed first') mapping.close();
      if (order === 'closed first') expect(addressSpace() - before).toBeGreaterThanOrEqual(WINDOW_SIZE);
      mapping.endShare();
      mapping.close();
      expect(addressSpace() - before).toBeLessThan(WINDOW_SIZE);
    }
  });

  test('can be attached, and the one that is attached ends nothing', () => {
    using mapping = mapNew('shared-attached', 2 * PAGE);
    const attached = Mapping.attach(mapping.share());
    attached.write(PAGE - 2, Uint8Array.of(1, 2, 3, 4));
    const bytes = new Uint8Array(4);
    mapping.read(PAGE - 2, bytes);
    expect([...bytes]).toEqual([1, 2, 3, 4]);
    attached.close();
    expect(errnoOf(() => attached.read(0, bytes))).toBe('EBADF');
    mapping.read(PAGE - 2, bytes);
    expect([...bytes]).toEqual([1, 2, 3, 4]);
  });

  test('is looked at in range, and not more than a window at a time', () => {
    using mapping = mapNew('shared-bounds', WINDOW_SIZE + 8192);
    const shared = mapping.share();
    expect(viewShared(shared, WINDOW_SIZE - 5, 10)).toHaveLength(10);
    expect(viewShared(shared, WINDOW_SIZE + 8192, 0)).toHaveLength(0);
    for (const [offset, length] of [
      [WINDOW_SIZE, 8193],
      [-1, 1],
      [0.5, 1],
      [0, -1],
      [0, Number.NaN],
    ] as const) {
      expect(
        errnoOf(() => viewShared(shared, offset, length)),
        `${offset} ${length}`,
      ).toBe('EFAULT');
    }
    expect(errnoOf(() => viewShared(shared, 0, WINDOW_SIZE + 1))).toBe('EINVAL');
  });

  test('is given only by a mapping that is open, and may be read and written', () => {
    using readOnly = mapNew('shared-rights', PAGE, { read: true, write: false });
    expect(errnoOf(() => readOnly.share())).toBe('EACCES');
    const closed = mapNew('shared-closed', PAGE);
    closed.close();
    expect(errnoOf(() => closed.share())).toBe('EBADF');
  });
});
