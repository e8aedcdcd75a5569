import { createEventFd, createMemoryFile } from '../../src/native/index.js';
import { VfioUserClient, VfioUserServer } from '../../src/vfio-user/index.js';
import { StampDevice } from './stamp-device.js';

/** Serves a stamp device, or uses one with three maps and three eventfds; says so, and goes on until it is killed. */
const [role, path] = process.argv.slice(2) as [string, string];
if (role === 'serve') {
  await VfioUserServer.listen(new StampDevice(), { path });
} else {
  const client = await VfioUserClient.connect(path);
  const memory = createMemoryFile('child-guest', 1 << 20);
  for (let index = 0; index < 3; index++) {
    const iova = BigInt(index) << 20n;
    await client.dmaMap({ iova, length: 1n << 20n, readable: true, writable: true }, { fd: memory.fd });
  }
  await client.setIrqTriggers(2, 0, [createEventFd().fd, createEventFd().fd, createEventFd().fd]);
}
process.stdout.write('ready\n');
