import { Command, Option } from 'commander';
import { DmaEngine, type WorkloadKindName } from '../../devices/dma-engine/index.js';
import { oneOf, WORKLOAD_KINDS, wholeNumber } from '../arguments.js';
import { qemuExample, SERVED_UNTIL } from './help.js';
import { SelfDrivingEngine } from './own-workload.js';
import { serve } from './serve.js';

interface DmaEngineArguments {
  socket: string;
  workload?: WorkloadKindName;
  rate: number;
  seed: number;
}

/** `dmalog device dma-engine`. */
export function dmaEngineCommand(): Command {
  return new Command('dma-engine')
    .description('a DMA engine that copies, fills and scatters, and writes pages by itself')
    .requiredOption('--socket <path>', 'UNIX socket to serve vfio-user on')
    .addOption(
      new Option(
        '--workload <kind>',
        `write pages without a driver, as soon as a host has mapped memory: ${WORKLOAD_KINDS.join(', ')}`,
      ).argParser(oneOf(WORKLOAD_KINDS)),
    )
    .option('--rate <pages>', 'pages a second that the workload writes', wholeNumber(0, 10_000_000), 20_000)
    .option('--seed <number>', 'seed of the workload', wholeNumber(0, 2 ** 32 - 1), 1)
    .addHelpText(
      'after',
      `
Examples:
  $ dmalog device dma-engine --socket /run/engine.sock
  $ dmalog device dma-engine --socket /run/engine.sock --workload hot-set --rate 5000
${qemuExample('/run/engine.sock')}

A workload writes over whatever is in the first memory that is mapped. It begins once: an engine whose machine has moved away does not begin anew.

${SERVED_UNTIL}`,
    )
    .action(async ({ socket, workload: kind, rate, seed }: DmaEngineArguments) => {
      const engine = new DmaEngine();
      if (kind !== undefined) SelfDrivingEngine.begin(engine, { kind, rate, seed });
      process.exit(await serve(engine, socket));
    });
}
