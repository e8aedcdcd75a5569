import { Command, Option } from 'commander';
import { MOST_CPUS } from '../../devices/guest-cpus/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { oneOf, parseSize, WORKLOAD_KINDS, wholeNumber } from '../arguments.js';
import { ExitCode } from '../exit-code.js';
import { type DemoOptions, type DemoResult, runDemo } from './demo.js';
import type { DemoOutput } from './demo-output.js';
import { JsonOutput } from './json-output.js';
import { PeopleOutput } from './people-output.js';

interface DemoFlags {
  memory: number;
  workload: DemoOptions['workload'];
  rate: number;
  seed: number;
  cpus: number;
  cpuRate: number;
  log: boolean;
  cpuLog: Exclude<DemoOptions['cpuLog'], 'none'> | false;
  downtimeLimit: number;
  maxPasses: number;
  settle: number;
  json: boolean;
}

/** `dmalog demo` */
export function demoCommand(): Command {
  return new Command('demo')
    .description('migrate a running machine between two hosts on this machine, and prove that nothing was lost')
    .addOption(new Option('--memory <size>', 'guest memory').argParser(parseMemory).default(2 ** 30, '1G'))
    .addOption(
      new Option('--workload <kind>', `how the engine chooses pages: ${WORKLOAD_KINDS.join(', ')}`)
        .argParser(oneOf(WORKLOAD_KINDS))
        .default('hot-set'),
    )
    .option('--rate <pages>', 'pages the engine writes per second', wholeNumber(0, 10_000_000), 20_000)
    .option('--cpus <count>', 'threads that write guest memory as its CPUs', wholeNumber(1, MOST_CPUS), 2)
    .option('--cpu-rate <pages>', 'pages the CPUs write per second, together', wholeNumber(0, 10_000_000), 5000)
    .option('--seed <number>', 'seed of memory and workload', wholeNumber(0, 2 ** 32 - 1), 1)
    .option('--downtime-limit <ms>', 'longest downtime wanted', wholeNumber(1), 300)
    .option('--max-passes <count>', 'most passes while the machine runs', wholeNumber(1), 30)
    .option('--settle <ms>', 'how long the machine runs before and after', wholeNumber(0, 600_000), 1500)
    .option('--no-log', 'leave DMA logging out, to see what gets lost')
    .addOption(
      new Option('--cpu-log <how>', "who logs the CPUs' writes: kernel, marks (the CPUs themselves), auto")
        .argParser(oneOf(['auto', 'kernel', 'marks']))
        .default('auto'),
    )
    .option('--no-cpu-log', "leave the CPUs' writes out, to see what gets lost")
    .option('--json', 'print events as lines of JSON, the result last', false)
    .addHelpText(
      'after',
      `
Examples:
  $ dmalog demo                            1 GiB; an engine writes 20,000 pages a second,
                                           two CPUs write 5,000
  $ dmalog demo --no-log                   the same without DMA logging: exits with 4
  $ dmalog demo --no-cpu-log               without the CPUs' writes: exits with 4
  $ dmalog demo --rate 200000 --workload uniform --max-passes 5
                                           more than the link takes: exits with 3
  $ dmalog demo --json | tail -1           the result for a program

It starts two host and two device processes, and needs no root, no KVM and no VFIO.`,
    )
    .action(async (flags: DemoFlags) => {
      const code = await demo(flags);
      // Output that could not be written has set its own.
      process.exitCode ??= code;
    });
}

async function demo(flags: DemoFlags): Promise<number> {
  const options: DemoOptions = {
    memoryBytes: flags.memory,
    workload: flags.workload,
    rate: flags.rate,
    seed: flags.seed,
    exponent: 1,
    cpus: flags.cpus,
    cpuRate: flags.cpuRate,
    log: flags.log,
    cpuLog: flags.cpuLog || 'none',
    downtimeLimitMs: flags.downtimeLimit,
    maxPasses: flags.maxPasses,
    settleMs: flags.settle,
  };
  const output: DemoOutput = flags.json ? new JsonOutput() : new PeopleOutput();
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort(new VfioError('EINTR', { operation: 'demo', message: 'interrupted' }));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  // Nobody looks on any more.
  process.stdout.once('error', onSignal);
  try {
    const result = await runDemo(options, event => output.tell(event), interrupt.signal);
    output.finish(result, options);
    return exitCodeOf(result);
  } catch (error) {
    output.fail(asVfioError(error, 'demo'));
    if (interrupt.signal.aborted) return ExitCode.INTERRUPTED;
    throw error;
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    process.stdout.off('error', onSignal);
  }
}

function exitCodeOf({ migration, verified }: DemoResult): number {
  if (migration.outcome === 'not-converged') return ExitCode.NOT_CONVERGED;
  if (migration.outcome === 'failed') {
    return migration.runningAt === 'source' ? ExitCode.RUNS_AT_SOURCE : ExitCode.FAILURE;
  }
  return verified ? ExitCode.DONE : ExitCode.CHECK_FAILED;
}

function parseMemory(text: string): number {
  const bytes = parseSize(text);
  return wholeNumber(2 ** 20, 2 ** 40)(String(bytes - (bytes % 4096)));
}
