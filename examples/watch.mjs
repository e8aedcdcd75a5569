// Prints which pages a device writes, from a connection of its own beside the VMM's:
//   node examples/watch.mjs /run/greeter.sock
import { LoggingSession, VfioUserClient } from 'dmalog';

const device = await VfioUserClient.connect(process.argv[2] ?? '/run/greeter.sock', { role: 'tracker' });
const session = new LoggingSession(device.features);
// The lowest 4 GiB: reports cost what is dirty, not what is logged.
await session.start([{ iova: 0n, length: 1n << 32n }]);
process.once('SIGINT', async () => {
  await session.stop();
  await device.close();
  process.exit();
});
for await (const { dirty, lost } of session.reports({ intervalMs: 1000 })) {
  if (lost.length > 0) console.log('the log was lost: everything counts as dirty');
  for (const { iova, length } of dirty.runs()) console.log(`0x${iova.toString(16)}: ${length} bytes`);
}
