import { Command } from 'commander';
import { DmaEngine } from '../../devices/dma-engine/index.js';
import { qemuExample, SERVED_UNTIL } from './help.js';
import { serve } from './serve.js';

/** `dmalog device dma-engine`. */
export function dmaEngineCommand(): Command {
  return new Command('dma-engine')
    .description('a DMA engine that copies, fills and scatters, and writes pages by itself')
    .requiredOption('--socket <path>', 'UNIX socket to serve vfio-user on')
    .addHelpText(
      'after',
      `
Examples:
  $ dmalog device dma-engine --socket /run/engine.sock
${qemuExample('/run/engine.sock')}

${SERVED_UNTIL}`,
    )
    .action(async ({ socket }: { socket: string }) => {
      process.exit(await serve(new DmaEngine(), socket));
    });
}
