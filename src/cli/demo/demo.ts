import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { VerifyResult, WorkloadKindName, WorkloadStatistics } from '../../devices/dma-engine/index.js';
import type { MigrationEvent, MigrationReport } from '../../migration/index.js';
import { VfioError } from '../../uapi/index.js';
import { DemoMachine } from './machine.js';

/** What the demo does. */
export interface DemoOptions {
  memoryBytes: number;
  workload: WorkloadKindName;
  /** Pages per second. */
  rate: number;
  seed: number;
  /** Zipf's exponent of the hot set. */
  exponent: number;
  /** Whether the source asks the device's DMA log. */
  log: boolean;
  downtimeLimitMs: number;
  maxPasses: number;
  /** How long the engine runs before the migration and, checking itself, after it; milliseconds. */
  settleMs: number;
}

/** What the demo tells as it goes. */
export type DemoEvent =
  | {
      event: 'started';
      memoryBytes: number;
      processes: Record<'source' | 'destination', { host: number; device: number }>;
    }
  | { event: 'filled'; milliseconds: number }
  | { event: 'workload'; kind: WorkloadKindName; rate: number; seed: number }
  | { event: 'migrating'; log: boolean; downtimeLimitMs: number }
  | MigrationEvent
  | { event: 'checking'; milliseconds: number };

/** How the demo ended. */
export interface DemoResult {
  migration: MigrationReport;
  /** The engine at the destination, after it ran on for a while; `undefined` when the machine did not get there. */
  engine: (WorkloadStatistics & { verify: VerifyResult }) | undefined;
  /** Equal memory at the switch, and no page that the engine found wrong. */
  verified: boolean;
  /** Peak memory of each host process, bytes. */
  peakMemory: { source: number; destination: number } | undefined;
}

/** What the five processes need beside guest memory. */
const PROCESSES_BYTES = 512 * 2 ** 20;

/** Two hosts, two devices, one migration. @throws VfioError ENOMEM for more memory than there is; EIO when a process ends */
export async function runDemo(
  options: DemoOptions,
  tell: (event: DemoEvent) => void,
  signal: AbortSignal,
): Promise<DemoResult> {
  requireMemory(options.memoryBytes);
  const directory = await mkdtemp(join(tmpdir(), 'dmalog-demo-'));
  const machines: DemoMachine[] = [];
  try {
    for (const name of ['source', 'destination']) machines.push(await DemoMachine.start(name, directory));
    const [source, destination] = machines as [DemoMachine, DemoMachine];
    const work = demonstrate(options, { source, destination }, tell);
    return await Promise.race([work, aborted(signal)]);
  } finally {
    await Promise.all(machines.map(machine => machine.end()));
    await rm(directory, { recursive: true, force: true });
  }
}

/** Both guests' memory becomes real while the demo runs: better to say no than to be killed. @throws VfioError ENOMEM */
function requireMemory(memoryBytes: number): void {
  const needed = 2 * memoryBytes + PROCESSES_BYTES;
  const available = process.availableMemory();
  if (needed <= available) return;
  const mebibytes = (bytes: number) => `${Math.floor(bytes / 2 ** 20).toLocaleString('en-US')} MiB`;
  throw new VfioError('ENOMEM', {
    operation: 'demo',
    field: '--memory',
    message: `two guests and their processes need ${mebibytes(needed)}, ${mebibytes(available)} are available`,
  });
}

async function demonstrate(
  options: DemoOptions,
  { source, destination }: { source: DemoMachine; destination: DemoMachine },
  tell: (event: DemoEvent) => void,
): Promise<DemoResult> {
  const { memoryBytes, settleMs, log, downtimeLimitMs, maxPasses } = options;
  tell({
    event: 'started',
    memoryBytes,
    processes: { source: source.processes, destination: destination.processes },
  });
  for (const machine of [source, destination]) {
    await machine.call('boot', { socket: machine.socket, memoryBytes });
  }
  const fillingSince = performance.now();
  await source.call('fill', { seed: options.seed });
  tell({ event: 'filled', milliseconds: performance.now() - fillingSince });

  const { workload: kind, rate, seed, exponent } = options;
  await source.call('startWorkload', { kind, rate, seed, exponent, base: 0n, length: BigInt(memoryBytes) });
  tell({ event: 'workload', kind, rate, seed });
  await delay(settleMs);

  const to = await destination.call('listen');
  tell({ event: 'migrating', log, downtimeLimitMs });
  source.onEvent = tell;
  const migration = await source.call('migrate', { to, log, downtimeLimitMs, maxPasses });
  if (migration.outcome !== 'moved') return { migration, engine: undefined, verified: false, peakMemory: undefined };
  await destination.call('received');

  tell({ event: 'checking', milliseconds: settleMs });
  await delay(settleMs);
  const statistics = await destination.call('statistics');
  const verify = await destination.call('verify');
  const verified = migration.verified === true && statistics.checkErrors === 0 && verify.bad === 0;
  const peakMemory = {
    source: await source.call('peakMemory'),
    destination: await destination.call('peakMemory'),
  };
  return { migration, engine: { ...statistics, verify }, verified, peakMemory };
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = () => reject(signal.reason);
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}
