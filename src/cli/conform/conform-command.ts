import { writeFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import {
  type ConformanceReport,
  checkGroups,
  checks,
  conform,
  junitXml,
  selectChecks,
} from '../../conformance/index.js';
import { parseTarget, TARGET_FORMS } from '../../connect/index.js';
import { asVfioError, type ProfileName, VfioError } from '../../uapi/index.js';
import { oneOf, wholeNumber } from '../arguments.js';
import { ExitCode } from '../exit-code.js';
import { parseAlignment } from './alignment.js';
import { checkList } from './check-list.js';
import { chooseStimulus, STIMULI, type StimulusFlags, wrongStimulus } from './choose-stimulus.js';
import { JsonOutput } from './json-output.js';
import { beginningWith, openTarget } from './open-target.js';
import type { ConformOutput } from './output.js';
import { PeopleOutput } from './people-output.js';
import { TapOutput } from './tap-output.js';
import { parseWindow } from './window.js';

interface ConformFlags extends StimulusFlags {
  only?: string[];
  list?: boolean;
  json?: boolean;
  tap?: boolean;
  junit?: string;
  verbose?: boolean;
  profile: ProfileName;
  seed: number;
  timeLimit: number;
}

/** `dmalog conform` */
export function conformCommand(): Command {
  return new Command('conform')
    .description('check whether a device keeps the contract of DMA logging and migration')
    .argument('[target]', `the device: ${TARGET_FORMS.join(', ')}`, checkTarget)
    .addOption(
      new Option('--stimulus <name>', `what makes the device write memory: ${STIMULI.join(', ')}`)
        .argParser(oneOf(STIMULI))
        .default('auto'),
    )
    .option('--command <line>', 'a command that makes the device write {length} bytes at {iova}')
    .option('--read-command <line>', 'a command that makes it read them')
    .addOption(
      new Option(
        '--window <iova+size>',
        'where --command can make it write: 0x10000000+16M; may be given twice',
      ).argParser(parseWindow),
    )
    .addOption(
      new Option('--alignment <bytes>', 'what --command can make it write: multiples of this').argParser(
        parseAlignment,
      ),
    )
    .option('--only <name>', `one check or group (${checkGroups.join(', ')}); may be given again`, collectNames)
    .option('--list', 'print the checks, and run none')
    .addOption(
      new Option('--profile <name>', 'the dialect to speak with a local: device')
        .argParser(oneOf(['linux', 'vfio-user', 'rfc'] as const))
        .default('linux'),
    )
    .option('--seed <number>', 'seed of what is random', wholeNumber(0, 2 ** 32 - 1), 1)
    .option('--time-limit <ms>', 'how long the device may take for one answer', wholeNumber(1), 10_000)
    .option('--verbose', 'tell also what passed and what was not run')
    .addOption(new Option('--json', 'print lines of JSON, the whole report last').conflicts('tap'))
    .option('--tap', 'print TAP 14')
    .option('--junit <file>', 'write JUnit XML to a file, too')
    .addHelpText(
      'after',
      `
Examples:
  $ dmalog conform local:dma-engine
  $ dmalog conform vfio-user:/run/dev.sock --junit report.xml
  $ dmalog conform vfio:0000:3b:00.2 --command './poke --at {iova} --bytes {length}' --alignment 64
  $ dmalog conform vfio-user:/run/dev.sock --only report --only bitmap/at-any-address
  $ dmalog conform --list

Devices of dmalog are recognised, and made to write by themselves; of others, what needs DMA is not run without --stimulus or --command.
The device must be nobody else's meanwhile; in the end it is neither logging nor stopped.

Exit codes: 0 all checks that were run have passed, 4 one has failed, 1 the device could not be reached or a check could not tell,
2 usage, 130 interrupted.`,
    )
    .action(async (target: string | undefined, flags: ConformFlags, command: Command) => {
      if (flags.list) {
        console.log(checkList(selectChecks(checks, flags.only), flags.json ?? false));
        return;
      }
      if (target === undefined) command.error("error: missing required argument 'target'");
      const wrong = wrongStimulus(flags);
      if (wrong !== undefined) command.error(`error: ${wrong}`);
      const code = await run(target!, flags);
      // Output that could not be written has set its own.
      process.exitCode ??= code;
    });
}

async function run(target: string, flags: ConformFlags): Promise<number> {
  const output = outputFor(flags);
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort(new VfioError('EINTR', { operation: 'conform', message: 'interrupted' }));
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, onSignal);
  // Nobody looks on any more.
  process.stdout.once('error', onSignal);
  try {
    const open = await openTarget(target, flags.profile, flags.timeLimit);
    const device = await open();
    const stimulus = await chooseStimulus(target, flags, device);
    output.begin(target, selectChecks(checks, flags.only));
    const report = await conform(beginningWith(device, open), {
      stimulus,
      only: flags.only,
      seed: flags.seed,
      timeLimitMs: flags.timeLimit,
      signal: interrupt.signal,
      onStart: check => output.start(check),
      onResult: result => output.result(result),
    });
    output.finish(report);
    if (flags.junit !== undefined) writeReport(flags.junit, report);
    return exitCodeOf(report);
  } catch (error) {
    output.fail();
    if (interrupt.signal.aborted) return ExitCode.INTERRUPTED;
    throw error;
  } finally {
    for (const signal of signals) process.off(signal, onSignal);
    process.stdout.off('error', onSignal);
  }
}

function outputFor({ json, tap, verbose }: ConformFlags): ConformOutput {
  if (json) return new JsonOutput();
  return tap ? new TapOutput() : new PeopleOutput(verbose ?? false);
}

/** @throws VfioError as the file system answers */
function writeReport(file: string, report: ConformanceReport): void {
  try {
    writeFileSync(file, junitXml(report));
  } catch (error) {
    throw asVfioError(error, '--junit');
  }
}

function exitCodeOf({ counts, interrupted, leftBehind }: ConformanceReport): number {
  if (interrupted) return ExitCode.INTERRUPTED;
  if (counts.failed > 0) return ExitCode.CHECK_FAILED;
  return counts.error > 0 || leftBehind !== undefined ? ExitCode.FAILURE : ExitCode.DONE;
}

function checkTarget(text: string): string {
  try {
    parseTarget(text);
    return text;
  } catch (error) {
    throw new InvalidArgumentError(asVfioError(error, 'target').message);
  }
}

function collectNames(name: string, names: string[] = []): string[] {
  try {
    selectChecks(checks, [name]);
    return [...names, name];
  } catch (error) {
    throw new InvalidArgumentError(asVfioError(error, '--only').message);
  }
}
