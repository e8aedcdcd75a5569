import { claimOwnership, type MigrationEvent, migrate, type Ownership, rehearse } from '../../migration/index.js';
import { asVfioError } from '../../uapi/index.js';
import { ExitCode } from '../exit-code.js';
import { AttachedMachine } from '../machine/attached-machine.js';
import { readOwnership } from '../machine/owner-arguments.js';
import { EndWish } from '../machine/signals.js';
import { readTls } from '../machine/tls-arguments.js';
import { JsonOutput } from './json-output.js';
import type { MigrateFlags } from './migrate-flags.js';
import type { MigrateOutput, MigrationPlan } from './migrate-output.js';
import { PeopleOutput } from './people-output.js';
import { exitCodeOf } from './verdict.js';

/** Passes of a rehearsal that is not told how many: one that waits until it fits might never say a word. */
const MOST_REHEARSED = 30;

/** `dmalog migrate`, from its arguments to its exit code. @throws VfioError when nothing could be begun */
export async function runMigrate(targets: readonly string[], flags: MigrateFlags): Promise<number> {
  const output: MigrateOutput = flags.json ? new JsonOutput() : new PeopleOutput();
  using wish = new EndWish();
  try {
    const machine = await wish.unlessCame(attach(targets, flags));
    try {
      return await (flags.dryRun ? rehearseMachine : moveMachine)({ machine, targets, flags, output, wish });
    } finally {
      await machine.close();
    }
  } catch (error) {
    const code = wish.signal.aborted ? ExitCode.INTERRUPTED : ExitCode.FAILURE;
    output.fail(asVfioError(error, 'migrate'), code);
    if (wish.signal.aborted) return code;
    throw error;
  }
}

function attach(devices: readonly string[], { memory, beside, timeout }: MigrateFlags): Promise<AttachedMachine> {
  return AttachedMachine.attach({ devices, memory, host: beside ? 'another' : 'this', timeoutMs: timeout });
}

interface Job {
  machine: AttachedMachine;
  targets: readonly string[];
  flags: MigrateFlags;
  output: MigrateOutput;
  wish: EndWish;
}

async function moveMachine(job: Job): Promise<number> {
  const { flags, output } = job;
  const { plan, common } = await begin(job);
  const report = await migrate({
    ...common,
    to: flags.to!,
    compression: flags.compression,
    connections: flags.connections,
    verify: flags.verify,
  });
  const exitCode = exitCodeOf(report);
  output.finish(report, plan, exitCode);
  return exitCode;
}

async function rehearseMachine(job: Job): Promise<number> {
  const { flags, output } = job;
  const { plan, common } = await begin(job);
  const report = await rehearse({ maxPasses: MOST_REHEARSED, ...common, ...(flags.to && { to: flags.to }) });
  const exitCode = report.wouldMove ? ExitCode.DONE : ExitCode.NOT_CONVERGED;
  output.finishRehearsal(report, plan, exitCode);
  return exitCode;
}

/** Gets the machine ready, and says so. @returns also what a migration and a rehearsal are both asked for */
async function begin({ machine, targets, flags, output, wish }: Job) {
  const tls = tlsOf(flags);
  const ownership = readOwnership(flags);
  const plan = planOf(machine, targets, flags);
  await wish.unlessCame(becomeHost(machine, flags, ownership));
  output.begin(plan);
  const common = {
    memory: machine.memory,
    devices: machine.devices,
    downtimeLimitMs: flags.downtimeLimit,
    onStall: flags.onStall,
    timeoutMs: flags.timeout,
    ...limitsOf(flags),
    ...(tls && { tls }),
    ...(ownership && { ownership }),
    signal: wish.signal,
    onEvent: (event: MigrationEvent) => output.tell(event),
  };
  return { plan, common };
}

/** Whoever gives a machine its memory starts it, rehearsal or not, and must be its owner first: docs/ownership.md. */
async function becomeHost(machine: AttachedMachine, { beside }: MigrateFlags, ownership?: Ownership): Promise<void> {
  if (beside) return;
  if (ownership !== undefined) await claimOwnership(ownership);
  await machine.endAbandonedMigration();
  await machine.giveMemory();
}

function planOf(machine: AttachedMachine, devices: readonly string[], flags: MigrateFlags): MigrationPlan {
  const { to, dryRun, downtimeLimit, beside } = flags;
  return {
    purpose: dryRun ? 'rehearsal' : 'migration',
    to: to && `${to.host.includes(':') ? `[${to.host}]` : to.host}:${to.port}`,
    devices,
    memoryBytes: machine.memory.pages * 4096,
    downtimeLimitMs: downtimeLimit,
    host: beside ? 'another' : 'this',
  };
}

function tlsOf(flags: MigrateFlags) {
  const files = readTls(flags);
  return files && { ...files, ...(flags.tlsName !== undefined && { servername: flags.tlsName }) };
}

function limitsOf({ bandwidth, maxPasses, maxTime, maxBytes }: MigrateFlags) {
  return {
    ...(maxPasses !== undefined && { maxPasses }),
    ...(bandwidth !== undefined && { bandwidth }),
    ...(maxTime !== undefined && { maxMs: maxTime }),
    ...(maxBytes !== undefined && { maxBytes }),
  };
}
