import { Command } from 'commander';
import { dmaEngineCommand } from './dma-engine-command.js';
import { nvmeCommand } from './nvme-command.js';

/** `dmalog device`: serves a device that ships with dmalog. */
export function deviceCommand(): Command {
  return new Command('device')
    .description('serve a device over vfio-user')
    .addCommand(dmaEngineCommand())
    .addCommand(nvmeCommand());
}
