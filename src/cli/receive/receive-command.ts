import { Command, Option } from 'commander';
import { parseAddress } from '../arguments.js';
import { addMachineOptions, MEMORY_HELP, wrongMachine } from '../machine/machine-options.js';
import { endWith } from '../machine/signals.js';
import type { ReceiveFlags } from './receive-flags.js';
import { runReceive } from './run-receive.js';

/** `dmalog receive` */
export function receiveCommand(): Command {
  const command = new Command('receive')
    .description('wait for one machine that `dmalog migrate` moves here, run it, and stay its host')
    .addOption(
      new Option('--listen <host:port>', 'where to wait; port 0 is any that is free')
        .argParser(parseAddress(0))
        .makeOptionMandatory(),
    )
    .option('--exit', 'leave when the machine runs: another process becomes its host');
  addMachineOptions(command, { meaning: 'most connections that a source may use', preset: 8 })
    .addHelpText('after', HELP)
    .action(async (targets: string[], flags: ReceiveFlags) => {
      const wrong = wrongMachine(flags);
      if (wrong !== undefined) command.error(`error: ${wrong}`);
      const code = await runReceive(targets, flags);
      endWith(code);
    });
  return command;
}

const HELP = `
Examples:
  $ truncate --size 1G /dev/shm/vm7 && chmod 600 /dev/shm/vm7
  $ dmalog receive vfio-user:/run/engine.sock --memory /dev/shm/vm7 --listen 127.0.0.1:7007
  $ dmalog receive vfio-user:/run/engine.sock --memory /dev/shm/vm7 --listen 0.0.0.0:7007 \\
      --tls-ca ca.pem --tls-cert host-b.pem --tls-key host-b.key \\
      --owner-store https://etcd-1:2379 --machine vm7 --self host-b

Devices and memory are as many and as large as at the source, in the same order and at the same addresses; what is in the memory is overwritten. The
devices must be idle. Of the sources that connect, the first that fits is taken; a rehearsal (migrate --dry-run) takes no place.

${MEMORY_HELP}

When the machine runs, this command stays its host (it holds memory and devices) until SIGINT or SIGTERM, and then lets go of it: the devices keep
their state. \`dmalog migrate --beside\` moves the machine on from beside it.

Exit codes: 0 the machine came and was let go of, 1 it did not come, or a device was lost, 2 usage, 130 interrupted before it came.`;
