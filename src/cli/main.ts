#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { asVfioError } from '../uapi/index.js';
import { colorsFor } from './colors.js';
import { conformCommand } from './conform/conform-command.js';
import { demoCommand } from './demo/demo-command.js';
import { deviceCommand } from './device/device-command.js';
import { ExitCode } from './exit-code.js';
import { migrateCommand } from './migrate/migrate-command.js';
import { receiveCommand } from './receive/receive-command.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const program = new Command('dmalog')
  .description('VFIO device DMA logging and the live migration that needs it')
  .version(version)
  .showHelpAfterError('(--help shows what there is)')
  .addHelpText(
    'after',
    `
Examples:
  $ dmalog demo                                          a live migration on this machine, proven
  $ dmalog demo --no-log                                 the same without DMA logging: what gets lost
  $ dmalog demo --no-cpu-log                             or without the CPUs' own writes
  $ dmalog receive vfio-user:/run/b.sock --memory /dev/shm/vm7-b --listen 127.0.0.1:7007
  $ dmalog migrate vfio-user:/run/a.sock --memory /dev/shm/vm7 --to 127.0.0.1:7007
  $ dmalog device dma-engine --socket /run/engine.sock   a device for a VMM or a test
  $ dmalog device nvme --file disk.img --socket /run/disk.sock
  $ dmalog conform vfio-user:/run/disk.sock              does a device keep the contract?

Exit codes: 0 done, 1 failure, 2 usage, 3 did not converge, 4 a check failed,
5 migration failed and the source runs on, 130 interrupted.`,
  )
  .exitOverride()
  .addCommand(demoCommand())
  .addCommand(migrateCommand())
  .addCommand(receiveCommand())
  .addCommand(deviceCommand())
  .addCommand(conformCommand());
for (const command of program.commands) {
  command.exitOverride();
  for (const sub of command.commands) sub.exitOverride();
}

// Whoever reads the output may leave early (`dmalog demo | head`): what is still said then is lost, and nothing else. A full disk is an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') process.exitCode = report(asVfioError(error, 'standard output'));
});
process.stderr.on('error', () => {});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

/** Says what went wrong in one line; the exit code. */
function report(error: unknown): number {
  if (error instanceof CommanderError) {
    // Commander has said it already. Help and version are no errors.
    return error.exitCode === 0 ? ExitCode.DONE : ExitCode.USAGE;
  }
  console.error(`${colorsFor(process.stderr).red('dmalog:')} ${asVfioError(error, 'failed').message}`);
  return ExitCode.FAILURE;
}
