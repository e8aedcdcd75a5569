import { Command } from 'commander';
import { DmaEngine } from '../devices/dma-engine/index.js';
import { VfioUserServer } from '../vfio-user/index.js';
import { ExitCode } from './exit-code.js';

/** `dmalog device`: serves a device that ships with dmalog. */
export function deviceCommand(): Command {
  const dmaEngine = new Command('dma-engine')
    .description('a DMA engine that copies, fills and scatters, and writes pages by itself')
    .requiredOption('--socket <path>', 'UNIX socket to serve vfio-user on')
    .addHelpText(
      'after',
      `
Examples:
  $ dmalog device dma-engine --socket /run/engine.sock
  $ qemu-system-x86_64 … -object memory-backend-memfd,id=ram,size=1G,share=on -machine memory-backend=ram \\
      -device '{"driver":"vfio-user-pci","socket":{"path":"/run/engine.sock","type":"unix"}}'

It serves until it is interrupted. One client at a time; the device keeps its state between clients.`,
    )
    .action(async ({ socket }: { socket: string }) => {
      const server = await VfioUserServer.listen(new DmaEngine(), {
        path: socket,
        onError: error => console.error(`dmalog: dma-engine: ${error}`),
      });
      console.log(`dma-engine serves ${socket}`);
      const why = await untilToldToStop();
      await server.close();
      process.exit(why === 'SIGINT' ? ExitCode.INTERRUPTED : ExitCode.DONE);
    });
  return new Command('device').description('serve a device over vfio-user').addCommand(dmaEngine);
}

/** Until a signal asks for the end, or the process that started this one and keeps a channel to it is gone. */
function untilToldToStop(): Promise<string> {
  return new Promise(resolve => {
    for (const event of ['SIGINT', 'SIGTERM', 'SIGHUP', 'disconnect'] as const)
      process.once(event, () => resolve(event));
    process.send?.('ready');
  });
}
