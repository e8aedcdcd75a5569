import { type Command, InvalidArgumentError, Option } from 'commander';
import { parseTarget, TARGET_FORMS } from '../../connect/index.js';
import { MOST_LANES } from '../../migration/index.js';
import { asVfioError } from '../../uapi/index.js';
import { parseDuration, wholeNumber } from '../arguments.js';
import { MEMORY_FORM, type MemoryArgument, parseMemory } from './memory-argument.js';
import { addOwnerOptions, type OwnerFlags, wrongOwner } from './owner-arguments.js';
import { addTlsOptions, type TlsFlags, wrongTls } from './tls-arguments.js';

/** What both ends of a migration are told. */
export interface MachineFlags extends TlsFlags, OwnerFlags {
  memory: MemoryArgument[];
  timeout: number;
  connections: number;
  json: boolean;
}

/** Adds the machine (its devices and memory), and who may talk to whom. @param connections what a number of them means at this end */
export function addMachineOptions(command: Command, connections: { meaning: string; preset: number }): Command {
  command
    .argument(
      '<device...>',
      `the machine's devices, in the same order at both ends: ${TARGET_FORMS.join(', ')}`,
      addTarget,
    )
    .addOption(
      new Option(`--memory <${MEMORY_FORM}>`, "the machine's memory, all of it: may be given again")
        .argParser(parseMemory)
        .makeOptionMandatory(),
    )
    .addOption(
      new Option('--timeout <time>', 'how long the other end, or a device, may be silent')
        .argParser(parseDuration)
        .default(60_000, '60s'),
    )
    .option('--connections <count>', connections.meaning, wholeNumber(1, MOST_LANES), connections.preset);
  addTlsOptions(command);
  addOwnerOptions(command);
  return command.option('--json', 'print events as lines of JSON, the result last', false);
}

/** What is wrong with the options together, if something is. */
export function wrongMachine(flags: MachineFlags): string | undefined {
  return wrongTls(flags) ?? wrongOwner(flags);
}

function addTarget(text: string, before: readonly string[] = []): string[] {
  try {
    parseTarget(text);
  } catch (error) {
    throw new InvalidArgumentError(asVfioError(error, 'device').message);
  }
  if (before.includes(text)) throw new InvalidArgumentError(`${text} is named twice.`);
  return [...before, text];
}

/** For help: what the memory must be. */
export const MEMORY_HELP = `Memory is a file of tmpfs or hugetlbfs that is yours alone (mode 600), or a sealed memory file of another process, by
/proc/PID/fd/N. Without @IOVA the machine sees it at 0; +LENGTH and +OFFSET name a part of it:
  --memory /dev/shm/vm7@0+2G --memory /dev/shm/vm7@4G+4G+2G     6 GiB with a hole from 2 to 4 GiB`;
