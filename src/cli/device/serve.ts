import type { Device } from '../../device/index.js';
import { VfioUserServer } from '../../vfio-user/index.js';
import { ExitCode } from '../exit-code.js';

/** Serves a device on a socket until a signal asks for the end; the exit code. */
export async function serve(device: Device, socket: string): Promise<number> {
  const server = await VfioUserServer.listen(device, {
    path: socket,
    onError: error => console.error(`dmalog: ${device.name}: ${error}`),
  });
  // Listened for before anybody reads that it serves, and may end it at once.
  const stopped = untilToldToStop();
  console.log(`${device.name} serves ${socket}`);
  const why = await stopped;
  await server.close();
  return why === 'SIGINT' ? ExitCode.INTERRUPTED : ExitCode.DONE;
}

/** Until a signal asks for the end, or the process that started this one and keeps a channel to it is gone. */
function untilToldToStop(): Promise<string> {
  return new Promise(resolve => {
    for (const event of ['SIGINT', 'SIGTERM', 'SIGHUP', 'disconnect'] as const)
      process.once(event, () => resolve(event));
    process.send?.('ready');
  });
}
