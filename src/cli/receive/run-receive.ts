import { MigrationReceiver, type ReceiveReport } from '../../migration/index.js';
import { asVfioError, type VfioError } from '../../uapi/index.js';
import { ExitCode } from '../exit-code.js';
import { AttachedMachine } from '../machine/attached-machine.js';
import { readOwnership } from '../machine/owner-arguments.js';
import { EndWish } from '../machine/signals.js';
import { readTls } from '../machine/tls-arguments.js';
import type { ReceiveFlags } from './receive-flags.js';
import { JsonOutput, PeopleOutput, type ReceiveOutput } from './receive-output.js';

/** `dmalog receive`, from its arguments to its exit code. @throws VfioError when the machine did not come, or a device was lost */
export async function runReceive(targets: readonly string[], flags: ReceiveFlags): Promise<number> {
  const output: ReceiveOutput = flags.json ? new JsonOutput() : new PeopleOutput();
  using wish = new EndWish();
  let report: ReceiveReport | undefined;
  try {
    const { memory, timeout } = flags;
    const machine = await wish.unlessCame(
      AttachedMachine.attach({ devices: targets, memory, host: 'this', timeoutMs: timeout }),
    );
    try {
      const lost = firstLost(machine);
      report = await receive(machine, { targets, flags, output, wish, lost });
      if (!flags.exit) await Promise.race([wish.came, lost]);
    } finally {
      await machine.close();
    }
  } catch (error) {
    if (report === undefined && wish.signal.aborted) return interrupted(output);
    output.finish(ExitCode.FAILURE, report, asVfioError(error, 'receive'));
    throw error;
  }
  if (report === undefined) return interrupted(output);
  output.finish(ExitCode.DONE, report, undefined);
  return ExitCode.DONE;
}

function interrupted(output: ReceiveOutput): number {
  output.finish(ExitCode.INTERRUPTED, undefined, undefined);
  return ExitCode.INTERRUPTED;
}

/** Rejects when a device is gone. */
function firstLost(machine: AttachedMachine): Promise<never> {
  const lost = new Promise<never>((_, reject) => machine.onDeviceLost((error: VfioError) => reject(error)));
  lost.catch(() => {});
  return lost;
}

interface Job {
  targets: readonly string[];
  flags: ReceiveFlags;
  output: ReceiveOutput;
  wish: EndWish;
  lost: Promise<never>;
}

/** Waits for a machine. @throws VfioError when told to end before one runs here, too */
async function receive(machine: AttachedMachine, job: Job): Promise<ReceiveReport> {
  const { targets, flags, output, wish, lost } = job;
  const tls = readTls(flags);
  const ownership = readOwnership(flags);
  await wish.unlessCame(machine.giveMemory());
  const receiver = await MigrationReceiver.listen({
    listen: flags.listen,
    memory: machine.memory,
    devices: machine.devices,
    connections: flags.connections,
    timeoutMs: flags.timeout,
    ...(tls && { tls }),
    ...(ownership && { ownership }),
    onEvent: event => output.tell(event),
  });
  try {
    output.listening(receiver.address, machine.memory.pages * 4096, targets);
    // Whether the machine has come in spite of the wish, the receiver knows.
    void wish.came.then(() => receiver.close());
    const report = await Promise.race([receiver.finished(), lost]);
    output.running(report, !flags.exit);
    return report;
  } finally {
    await receiver.close();
  }
}
