import { expect, onTestFinished, test } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, pattern, temporaryFolder } from '../native/helpers.js';
import { childProcesses, killed } from './child.js';
import { turn, words } from './peer.js';
import { memoryFile, rejection, serve } from './served.js';
import { Stamp, StampDevice } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();
const runChild = childProcesses();

/** A client that waits in the kernel, and a device in a process of its own. */
async function dedicated(name: string, options = {}) {
  const child = await runChild('serve', path(name));
  const client = await VfioUserClient.connect(path(name), { loop: 'dedicated', ...options });
  onTestFinished(() => client.close());
  return { child, client };
}

test('a client that waits in the kernel gets every reply, one by one and many at once', async () => {
  const { client } = await dedicated('a');
  for (let index = 0; index < 1000; index++) {
    await client.regionWrite(0, 0x100, words(index));
    expect(await client.regionRead(0, 0x100, 4)).toEqual(words(index));
  }
  let next = 0;
  const lane = async (offset: number) => {
    while (next < 5000) {
      const value = next++;
      await client.regionWrite(0, offset, words(value));
      expect(await client.regionRead(0, offset, 4)).toEqual(words(value));
    }
  };
  await Promise.all(Array.from({ length: 32 }, (_, index) => lane(0x100 + 8 * index)));
  const large = pattern(3000);
  await client.regionWrite(0, 0x400, large);
  expect(await client.regionRead(0, 0x400, 3000)).toEqual(large);
});

test('it leaves timers and everything else their turn, however many requests follow each other', async () => {
  const { client } = await dedicated('b');
  const happened: string[] = [];
  setTimeout(() => happened.push('timer'), 20);
  setImmediate(() => happened.push('immediate'));
  let requests = 0;
  while (happened.length < 2 && requests++ < 1_000_000) await client.regionRead(0, 0, 4);
  expect(happened).toEqual(['immediate', 'timer']);
});

test('a request that takes long holds up neither timers nor the end of the connection', async () => {
  const { client } = await dedicated('c');
  const slow = rejection(client.regionWrite(0, Stamp.SLOW, words(1)));
  const after = Array.from({ length: 100 }, (_, index) => rejection(client.regionWrite(0, 0x100, words(index))));
  await new Promise(resolve => setTimeout(resolve, 20));
  await client.close();
  expect(await slow).toBe('ECONNABORTED');
  expect(await Promise.all(after)).toEqual(Array(100).fill('ECONNABORTED'));
});

test('requests that wait for others to be answered leave when no answer comes', async () => {
  const { device } = await serve(path('d'));
  const client = await VfioUserClient.connect(path('d'), { loop: 'dedicated' });
  onTestFinished(() => client.close());
  const slow = client.regionWrite(0, Stamp.SLOW, words(1));
  const others = Array.from({ length: 9 }, (_, index) => client.regionWrite(0, 0x100 + 8 * index, words(index)));
  await turn();
  const late = client.regionWrite(0, 0x200, words(77));
  while (device.held === 0) await turn();
  device.release();
  await Promise.all([slow, late, ...others]);
  expect(device.registers.subarray(0x200, 0x204)).toEqual(words(77));
});

test('a server that is killed meanwhile is noticed', async () => {
  const { child, client } = await dedicated('e');
  const slow = rejection(client.regionWrite(0, Stamp.SLOW, words(1)));
  await killed(child);
  expect(await slow).toBe('ECONNRESET');
});

test('requests that wait too long are ETIMEDOUT here, too', async () => {
  const { client } = await dedicated('f', { timeoutMs: 40 });
  expect(await rejection(client.regionWrite(0, Stamp.SLOW, words(1)))).toBe('ETIMEDOUT');
});

test.each([true, false])('memory that is lent by messages is served meanwhile; a twin socket: %s', async twinSocket => {
  const device = new StampDevice({ busMaster: 'ignored' });
  await serve(path(`g${twinSocket}`), {}, device);
  const memory = GuestMemory.create(4096);
  const client = await VfioUserClient.connect(path(`g${twinSocket}`), { loop: 'dedicated', twinSocket });
  onTestFinished(async () => {
    await client.close();
    memory.close();
  });
  const region = { iova: 0n, length: 4096n, readable: true, writable: true };
  await client.dmaMap(region, undefined, { bytes: memory });
  const stamp = new Uint8Array(20);
  stamp.set(words(0x80n, 16, 0x5a), 0);
  await client.regionWrite(0, 0, stamp.subarray(0, 16));
  await client.regionWrite(0, Stamp.DOORBELL, words(1));
  const bytes = new Uint8Array(16);
  memory.read(0x80, bytes);
  expect(bytes).toEqual(new Uint8Array(16).fill(0x5a));
});

test('descriptors go along as ever', async () => {
  const { client } = await dedicated('h');
  const file = memoryFile(4096);
  const calls = [
    client.regionWrite(0, 0x100, words(1)),
    client.dmaMap({ iova: 0n, length: 4096n, readable: true, writable: true }, { fd: file.fd }),
    client.regionRead(0, 0x100, 4),
  ] as const;
  expect((await Promise.all(calls))[2]).toEqual(words(1));
  await client.dmaUnmapAll();
});
