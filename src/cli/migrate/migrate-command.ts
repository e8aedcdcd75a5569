import { Command, Option } from 'commander';
import { oneOf, parseAddress, parseDuration, parsePositiveSize, wholeNumber } from '../arguments.js';
import { addMachineOptions, MEMORY_HELP, wrongMachine } from '../machine/machine-options.js';
import { endWith } from '../machine/signals.js';
import { type MigrateFlags, wrongMigrate } from './migrate-flags.js';
import { runMigrate } from './run-migrate.js';

/** `dmalog migrate` */
export function migrateCommand(): Command {
  const command = new Command('migrate')
    .description('move a machine, its memory and its devices, to a host where `dmalog receive` waits')
    .addOption(new Option('--to <host:port>', 'where the destination listens').argParser(parseAddress(1)))
    .option('--beside', 'another process is the host of the devices: connect beside it, and give them no memory')
    .addOption(
      new Option('--downtime-limit <time>', 'longest downtime wanted').argParser(parseDuration).default(300, '300ms'),
    )
    .addOption(new Option('--bandwidth <size>', 'most bytes a second to send, such as 1G').argParser(parsePositiveSize))
    .addOption(
      new Option(
        '--on-stall <what>',
        'when passes do not get nearer to the limit: abort, stop (the machine, and move it), wait',
      )
        .argParser(oneOf(['abort', 'stop', 'wait'] as const))
        .default('abort'),
    )
    .option(
      '--max-passes <count>',
      'most passes while the machine runs (default: 30; without limit for --on-stall wait)',
      wholeNumber(1, 1_000_000),
    )
    .addOption(new Option('--max-time <time>', 'longest that passes may take together').argParser(parseDuration))
    .addOption(new Option('--max-bytes <size>', 'most that passes may send together').argParser(parsePositiveSize))
    .addOption(
      new Option('--compression <kind>', 'auto (where it helps), off, lz4')
        .argParser(oneOf(['auto', 'off', 'lz4'] as const))
        .default('auto'),
    )
    .addOption(
      new Option(
        '--verify <what>',
        'compare all memory while the machine is stopped: off, abort (stay when it differs), report',
      )
        .argParser(oneOf(['off', 'abort', 'report'] as const))
        .default('off'),
    )
    .option('--dry-run', 'track what is written and say what a migration would be like; send and stop nothing');
  addMachineOptions(command, { meaning: 'parallel connections for memory', preset: 1 })
    .option('--tls-name <name>', "the name in the destination's certificate, if it is not the host of --to")
    .addHelpText('after', HELP)
    .action(async (targets: string[], flags: MigrateFlags) => {
      const wrong = wrongMigrate(flags) ?? wrongMachine(flags);
      if (wrong !== undefined) command.error(`error: ${wrong}`);
      const code = await runMigrate(targets, flags);
      endWith(code);
    });
  return command;
}

const HELP = `
Examples:
  $ dmalog migrate vfio-user:/run/engine.sock --memory /dev/shm/vm7 --to 127.0.0.1:7007
  $ dmalog migrate vfio-user:/run/engine.sock --memory /dev/shm/vm7 --to host-b:7007 \\
      --tls-ca ca.pem --tls-cert host-a.pem --tls-key host-a.key \\
      --owner-store https://etcd-1:2379 --machine vm7 --self host-a
  $ dmalog migrate vfio-user:/run/engine.sock --memory /dev/shm/vm7 --to host-b:7007 --dry-run
  $ dmalog migrate vfio-user:/run/engine.sock --memory /dev/shm/vm7 --to host-b:7007 --json | tail -1

${MEMORY_HELP}

This command is the machine's host for as long as it runs: it gives the memory to the devices, and with --owner-store it records itself as the
machine's owner before that. With --beside another process is the host already (a VMM, or dmalog receive) and goes on being it.

It moves what the devices write: each device's DMA log says which pages. It does not see what CPUs write that another process runs: that process
pauses them first, or migrates by the library, with a tracker of its own.

Without TLS both ends must be on one host. A link that is lost is made again, and the stream goes on where it was. More than one connection takes the
ports that follow the one in --to.

Exit codes: 0 moved (--dry-run: it would), 3 it did not converge and the machine is at the source (--dry-run: it would not), 4 moved, but --verify
report found memory that differs, 5 it failed and the machine is at the source, 130 interrupted and the machine is at the source, 1 anything else:
read where the machine is, 2 usage.`;
