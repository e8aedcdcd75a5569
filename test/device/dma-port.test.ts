import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DmaPort } from '../../src/device/index.js';
import { DmaLog } from '../../src/log/index.js';
import { DmaMap } from '../../src/memory/index.js';
import { VfioError } from '../../src/uapi/index.js';
import { ArrayBacking, gate } from './test-device.js';

const SIZE = 0x10000;

/** A port over an array at IOVA 0, all of it logged. */
function createPort(): { port: DmaPort; backing: ArrayBacking; dirty: () => number } {
  const port = new DmaPort(new DmaMap(), new DmaLog());
  const backing = new ArrayBacking(SIZE);
  port.map.map({ iova: 0n, length: BigInt(SIZE), readable: true, writable: true }, backing);
  port.log.start(4096n, [{ iova: 0n, length: 1n << 20n }]);
  return { port, backing, dirty: () => reportOf(port) };
}

/** Read-and-clear of the array's 16 pages, as a number. */
function reportOf(port: DmaPort): number {
  const bitmap = new Uint32Array(2);
  port.log.report(0n, BigInt(SIZE), 4096n, bitmap);
  return bitmap[0]!;
}

async function errnoOf(run: () => unknown): Promise<string | undefined> {
  try {
    await run();
    return undefined;
  } catch (error) {
    return (error as VfioError).errno;
  }
}

describe('what is logged', () => {
  test('any sequence of writes and reads: exactly the pages written', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.boolean(), fc.nat(SIZE - 1), fc.nat(9000), fc.boolean(), fc.boolean()), { maxLength: 12 }),
        async operations => {
          const { port, backing, dirty } = createPort();
          const expected = new Uint8Array(SIZE);
          let pages = 0;
          for (const [writes, iova, size, asBigint, late] of operations) {
            backing.beforeWrite = late ? () => Promise.resolve() : () => undefined;
            const length = Math.min(size, SIZE - iova);
            const address = asBigint ? BigInt(iova) : iova;
            const bytes = new Uint8Array(length).fill(pages + 1);
            if (writes) {
              await port.write(address, bytes);
              expected.set(bytes, iova);
              for (let page = iova >> 12; length > 0 && page <= (iova + length - 1) >> 12; page++) pages |= 1 << page;
            } else {
              await port.read(address, bytes);
              expect(Buffer.compare(bytes, expected.subarray(iova, iova + length))).toBe(0);
            }
          }
          expect(dirty()).toBe(pages);
          expect(Buffer.compare(backing.bytes, expected)).toBe(0);
        },
      ),
      { numRuns: 1500 },
    );
  });

  test('bytes first, then the mark: a report while the bytes move does not have the page, the next one has it', () => {
    const { port, backing, dirty } = createPort();
    const during: number[] = [];
    backing.beforeWrite = () => {
      during.push(dirty());
      return undefined;
    };
    backing.afterWrite = () => during.push(dirty());
    port.write(0x1000, new Uint8Array(1));
    expect(during).toEqual([0, 0]);
    expect(dirty()).toBe(2);
  });

  test('the same where memory answers late', async () => {
    const { port, backing, dirty } = createPort();
    const held = gate();
    backing.beforeWrite = () => held.promise;
    backing.afterWrite = () => expect(dirty()).toBe(0);
    const written = port.write(0x1000, new Uint8Array(1));
    expect(dirty()).toBe(0);
    held.open();
    await written;
    expect(backing.bytes[0x1000]).toBe(0);
    expect(dirty()).toBe(2);
  });

  test('a write that is refused moved nothing, and is not logged', async () => {
    const { port, dirty } = createPort();
    expect(await errnoOf(() => port.write(SIZE - 1, new Uint8Array(2)))).toBe('EFAULT');
    expect(await errnoOf(() => port.write(1n << 60n, new Uint8Array(2)))).toBe('EFAULT');
    port.stop('a test');
    expect(await errnoOf(() => port.write(0, new Uint8Array(2)))).toBe('EPERM');
    expect(dirty()).toBe(0);
  });

  test('a write that breaks off may have moved a part: all of it is logged, at once or late', async () => {
    for (const errno of ['EIO', 'EFAULT', 'ECONNRESET'] as const) {
      const { port, backing, dirty } = createPort();
      backing.afterWrite = () => {
        throw new VfioError(errno, { operation: 'write' });
      };
      expect(await errnoOf(() => port.write(0xfff, new Uint8Array(2)))).not.toBe('EFAULT');
      expect(dirty()).toBe(0b11);
      backing.beforeWrite = () => Promise.resolve();
      expect(await errnoOf(() => port.write(0x2fff, new Uint8Array(2)))).not.toBe('EFAULT');
      expect(dirty()).toBe(0b1100);
    }
  });
});

describe('the gate', () => {
  test('a stopped port refuses reads and writes, and says why', () => {
    const { port } = createPort();
    port.stop('because of a test');
    expect(port.allowed).toBe(false);
    expect(() => port.read(0, new Uint8Array(1))).toThrow(/because of a test.*EPERM/);
    expect(() => port.write(0, new Uint8Array(1))).toThrow(/because of a test.*EPERM/);
    port.start();
    port.write(0, new Uint8Array(1));
  });

  test('without bus mastering there is no DMA; it takes both to be allowed', () => {
    const { port } = createPort();
    for (const [stopped, busMaster] of [
      [false, false],
      [true, false],
      [true, true],
    ] as const) {
      if (stopped) port.stop('a test');
      else port.start();
      port.busMaster = busMaster;
      expect(port.allowed).toBe(false);
      expect(() => port.write(0, new Uint8Array(1))).toThrow('EPERM');
    }
    port.start();
    expect(port.allowed).toBe(true);
  });

  test('what was in flight when it was stopped still arrives, and is logged', async () => {
    const { port, backing, dirty } = createPort();
    const held = gate();
    backing.beforeWrite = () => held.promise;
    const written = port.write(0, Uint8Array.of(7));
    port.stop('a test');
    held.open();
    await written;
    expect(backing.bytes[0]).toBe(7);
    expect(dirty()).toBe(1);
  });
});

describe('waiting until nothing is in flight', () => {
  test('is over at once when nothing is', () => {
    const { port } = createPort();
    port.write(0, new Uint8Array(1));
    expect(port.idle()).toBeUndefined();
  });

  test('a report right after it has every write that was in flight', async () => {
    const { port, backing, dirty } = createPort();
    const held = gate();
    backing.beforeWrite = () => held.promise;
    const written = [0, 1, 2].map(page => port.write(page * 4096, new Uint8Array(1)));
    const pages = (port.idle() as Promise<void>).then(dirty);
    held.open();
    expect(await pages).toBe(0b111);
    await Promise.all(written);
  });

  test('it takes reads and those that fail into account, and anybody may wait', async () => {
    const { port, backing } = createPort();
    const [reading, writing] = [gate(), gate()];
    backing.beforeRead = () => reading.promise;
    backing.beforeWrite = () => writing.promise;
    backing.afterWrite = () => {
      throw new VfioError('EIO', { operation: 'write' });
    };
    const read = port.read(0, new Uint8Array(1));
    const write = errnoOf(() => port.write(0, new Uint8Array(1)));
    let over = 0;
    const waits = [port.idle(), port.idle()].map(idle => idle!.then(() => over++));
    reading.open();
    await read;
    await new Promise(resolve => setImmediate(resolve));
    expect(over).toBe(0);
    writing.open();
    expect(await write).toBe('EIO');
    await Promise.all(waits);
    expect(over).toBe(2);
    expect(port.idle()).toBeUndefined();
  });
});
