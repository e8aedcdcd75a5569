import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { WorkloadKindName } from '../../devices/dma-engine/index.js';
import { type MigrationEvent, type MigrationReport, PAGE_SIZE } from '../../migration/index.js';
import { VfioError } from '../../uapi/index.js';
import type { CpuLog, CpuLogChoice } from './cpu-log.js';
import type { HostCalls, Proof } from './host-protocol.js';
import { DemoMachine } from './machine.js';

/** What the demo does. */
export interface DemoOptions {
  memoryBytes: number;
  /** How the engine chooses pages. */
  workload: WorkloadKindName;
  /** Pages per second that the engine writes. */
  rate: number;
  /** Threads that write guest memory as its CPUs. */
  cpus: number;
  /** Pages per second that the CPUs write, all together. */
  cpuRate: number;
  seed: number;
  /** Zipf's exponent of the hot set. */
  exponent: number;
  /** Whether the source asks the device's DMA log. */
  log: boolean;
  /** Who says what the CPUs wrote. */
  cpuLog: CpuLogChoice;
  downtimeLimitMs: number;
  maxPasses: number;
  /** How long the machine runs before the migration and, checking itself, after it; milliseconds. */
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
  | { event: 'workload'; kind: WorkloadKindName; rate: number; seed: number; cpus: number; cpuRate: number }
  | { event: 'migrating'; log: boolean; cpuLog: CpuLog; downtimeLimitMs: number }
  | MigrationEvent
  | { event: 'checking'; milliseconds: number };

/** How the demo ended. */
export interface DemoResult {
  migration: MigrationReport;
  /** What engine and CPUs found at the destination, after they ran on for a while; `undefined` when the machine did not get there. */
  proof: Proof | undefined;
  /** Pages that each found wrong there, while it ran and afterwards; `undefined` without a proof. */
  lost: { engine: number; cpus: number } | undefined;
  /** Equal memory at the switch, and no page that engine or CPUs found wrong. */
  verified: boolean;
  /** The most memory that each host process had beside the guest's, bytes. */
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
  const { memoryBytes, settleMs, log, downtimeLimitMs, maxPasses, cpus } = options;
  tell({
    event: 'started',
    memoryBytes,
    processes: { source: source.processes, destination: destination.processes },
  });
  const cpuLog = await source.call('boot', { socket: source.socket, memoryBytes, cpus, cpuLog: options.cpuLog });
  await destination.call('boot', { socket: destination.socket, memoryBytes, cpus, cpuLog: 'none' });
  const fillingSince = performance.now();
  await source.call('fill', { seed: options.seed });
  tell({ event: 'filled', milliseconds: performance.now() - fillingSince });

  await source.call('startWorkloads', workloadsOf(options));
  tell({
    event: 'workload',
    kind: options.workload,
    rate: options.rate,
    seed: options.seed,
    cpus,
    cpuRate: options.cpuRate,
  });
  await delay(settleMs);

  const to = await destination.call('listen');
  tell({ event: 'migrating', log, cpuLog, downtimeLimitMs });
  source.onEvent = tell;
  const migration = await source.call('migrate', { to, log, downtimeLimitMs, maxPasses });
  if (migration.outcome !== 'moved') {
    return { migration, proof: undefined, lost: undefined, verified: false, peakMemory: undefined };
  }
  await destination.call('received');

  tell({ event: 'checking', milliseconds: settleMs });
  await delay(settleMs);
  const proof = await destination.call('prove');
  // Once it was written again, a page is right: each is found once at most.
  const lostBy = ({ checkErrors, verify }: Proof['engine' | 'cpus']) => checkErrors + verify.bad;
  const lost = { engine: lostBy(proof.engine), cpus: lostBy(proof.cpus) };
  const verified = migration.verified === true && lost.engine + lost.cpus === 0;
  const peakMemory = {
    source: await source.call('peakMemory'),
    destination: await destination.call('peakMemory'),
  };
  return { migration, proof, lost, verified, peakMemory };
}

/** The engine has memory up to three quarters, the CPUs the rest; with seeds apart, so that no page of one is like one of the other. */
function workloadsOf(options: DemoOptions): HostCalls['startWorkloads']['parameters'] {
  const { memoryBytes, workload: kind, rate, cpuRate, seed, exponent } = options;
  const cpuBytes = Math.floor(memoryBytes / 4 / PAGE_SIZE) * PAGE_SIZE;
  const base = memoryBytes - cpuBytes;
  return {
    engine: { kind, rate, seed, exponent, base: 0n, length: BigInt(base) },
    cpus: { kind: 'hot-set', rate: cpuRate, seed: (seed + 1) % 2 ** 32, exponent, base, length: cpuBytes },
  };
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = () => reject(signal.reason);
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}
