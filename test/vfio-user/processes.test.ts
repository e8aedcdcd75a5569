import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { openFdCount } from '../../src/native/index.js';
import type { VfioError } from '../../src/uapi/index.js';
import { VfioUserClient } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { childProcesses, killed } from './child.js';
import { until, words } from './peer.js';
import { mappedFiles, memoryFile, rejection, serve } from './served.js';
import { Stamp } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();
const runChild = childProcesses();

test('a server that is killed while requests wait rejects them all, and leaves the client nothing', async () => {
  const child = await runChild('serve', path('a'));
  const fds = openFdCount();
  const client = await VfioUserClient.connect(path('a'));
  const memory = memoryFile(4096);
  await client.dmaMap({ iova: 0n, length: 4096n, readable: true, writable: true }, { fd: memory.fd });
  const reasons: (VfioError | undefined)[] = [];
  client.onClose(reason => reasons.push(reason));
  const waiting = [client.regionWrite(0, Stamp.SLOW, words(1)), client.info(), client.features.migrationState()];
  const rejected = Promise.all(waiting.map(rejection));
  await killed(child);
  expect(await rejected).toEqual(Array(3).fill('ECONNRESET'));
  expect(client.closed).toBe(true);
  expect(reasons).toMatchObject([{ errno: 'ECONNRESET' }]);
  expect(openFdCount()).toBe(fds + 1); // the memory file, which is this test's
});

test('a client that is killed leaves the server no descriptor, no mapping and no interrupt', async () => {
  const left: (VfioError | undefined)[] = [];
  const { device } = await serve(path('b'), { onDisconnect: reason => left.push(reason) });
  const fds = openFdCount();
  const maps = mappedFiles();
  for (let round = 1; round <= 3; round++) {
    const child = await runChild('use', path('b'));
    expect(mappedFiles()).toBe(maps + 3);
    expect(device.dma.map.statistics.regions).toBe(3);
    expect(device.interrupts.isEnabled(2)).toBe(true);
    await killed(child);
    await until(() => left.length === round);
    expect(mappedFiles()).toBe(maps);
    expect(device.dma.map.statistics.regions).toBe(0);
    expect(device.interrupts.isEnabled(2)).toBe(false);
    await until(() => openFdCount() === fds, `${readdirSync('/proc/self/fd').length} descriptors are ${fds}`);
  }
  expect(left).toEqual([undefined, undefined, undefined]);
});

test('a device in another process is driven as one in this', async () => {
  await runChild('serve', path('c'));
  const client = await VfioUserClient.connect(path('c'));
  expect(await client.info()).toEqual({ flags: 3, regions: 9, irqs: 5 });
  await client.regionWrite(0, 0x100, words(1, 2, 3));
  expect(await client.regionRead(0, 0x100, 12)).toEqual(words(1, 2, 3));
  await client.close();
});
