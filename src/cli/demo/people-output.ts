import { colorsFor } from '../colors.js';
import { eventLine } from '../progress/changes.js';
import { PassBar } from '../progress/pass-bar.js';
import { passTable } from '../progress/passes.js';
import { count, milliseconds, size } from '../progress/quantities.js';
import type { CpuLog } from './cpu-log.js';
import type { DemoEvent, DemoOptions, DemoResult } from './demo.js';
import type { DemoOutput } from './demo-output.js';
import { CPU_LOG_NAME, DMA_LOG_NAME, type Proof } from './host-protocol.js';

const pc = colorsFor(process.stdout);
const PAGE = 4096;
const SOURCES = [
  { head: 'dirty by DMA', tracker: DMA_LOG_NAME },
  { head: 'by CPUs', tracker: CPU_LOG_NAME },
];

/** The demo for people: a line a step, a bar while pages move, a table and the proof at the end. */
export class PeopleOutput implements DemoOutput {
  readonly #bar = new PassBar();

  tell(event: DemoEvent): void {
    if (event.event === 'progress') {
      this.#bar.draw(event);
      return;
    }
    const line = describe(event);
    if (line === undefined) return;
    this.#bar.end();
    console.log(line);
  }

  fail(): void {
    this.#bar.end();
  }

  finish(result: DemoResult, options: DemoOptions): void {
    this.#bar.end();
    const { migration } = result;
    console.log(`\n${passTable(migration.passes, migration.phase, SOURCES)}\n`);
    if (migration.outcome === 'not-converged') {
      console.log(`${pc.yellow('Did not converge:')} ${migration.reason}.`);
      console.log('The machine runs on at the source. A higher --downtime-limit or a lower --rate lets it through.');
      return;
    }
    if (migration.outcome === 'failed') {
      console.log(`${pc.red('Migration failed')} in phase ${migration.phase}: ${migration.error?.message}`);
      console.log(`The machine runs at: ${migration.runningAt}.`);
      return;
    }
    for (const [name, value] of summary(result, options)) console.log(`  ${name.padEnd(13)}${value}`);
    console.log(`\n${verdict(result, options)}`);
  }
}

function describe(event: DemoEvent): string | undefined {
  switch (event.event) {
    case 'started': {
      const { source, destination } = event.processes;
      return `${pc.bold('dmalog demo')}: two hosts, two device processes, ${size(event.memoryBytes)} of guest memory
  source       host ${source.host}, DMA engine ${source.device}
  destination  host ${destination.host}, DMA engine ${destination.device}`;
    }
    case 'filled':
      return `  memory filled with random data in ${milliseconds(event.milliseconds)}`;
    case 'workload':
      return `  the engine writes ${count(event.rate)} pages/s by itself, by DMA (${event.kind}, seed ${event.seed})
  ${cpuThreads(event.cpus)} ${count(event.cpuRate)} pages/s, by plain stores`;
    case 'migrating':
      return `
Migrating, downtime limit ${event.downtimeLimitMs} ms
  DMA log      ${event.log ? "the device's own" : pc.yellow('left out')}
  CPU log      ${cpuLogWords(event.cpuLog)}`;
    case 'phase':
      return phaseLine(event.phase);
    case 'checking':
      return '  engine and CPUs run on at the destination, and check every page before they write it again';
    default:
      return eventLine(event);
  }
}

function cpuThreads(cpus: number): string {
  return cpus === 1 ? 'a CPU, a thread of the host, writes' : `${cpus} CPUs, threads of the host, write`;
}

function cpuLogWords({ by, why }: CpuLog): string {
  switch (by) {
    case 'kernel':
      return "the kernel's: userfaultfd and PAGEMAP_SCAN";
    case 'marks':
      return why === undefined
        ? 'marks that the CPUs make'
        : `marks that the CPUs make, as the kernel's cannot be had: ${why}`;
    case 'none':
      return pc.yellow('left out');
  }
}

function phaseLine(phase: string): string | undefined {
  if (phase === 'stop-and-copy') return '  the rest fits: engine and CPUs stopped, last pages and their states follow';
  if (phase === 'verify') return '  both ends hash all memory while the machine stands still';
  if (phase === 'switch') return '  the destination is told to run';
  return undefined;
}

function summary({ migration, proof, peakMemory }: DemoResult, options: DemoOptions): [string, string][] {
  const lines: [string, string][] = [
    [
      'sent',
      `${count(migration.pagesSent)} pages, ${size(migration.bytesSent)}; device state ${size(migration.stateBytes)}`,
    ],
    ['total time', `${milliseconds(migration.totalMs)}, of which ${milliseconds(migration.verifyMs)} for hashing`],
    [
      'downtime',
      `${pc.bold(milliseconds(migration.downtimeMs))} without hashing (expected ${milliseconds(migration.estimatedDowntimeMs)}, limit ${options.downtimeLimitMs} ms)`,
    ],
  ];
  if (peakMemory !== undefined) {
    const { source, destination } = peakMemory;
    lines.push([
      'peak memory',
      `guest memory + ${size(source)} (source host), + ${size(destination)} (destination host)`,
    ]);
  }
  if (migration.digests !== undefined) {
    lines.push(
      ['SHA-256', `source      ${migration.digests.source}`],
      ['', `destination ${migration.digests.destination}`],
    );
  }
  if (proof !== undefined) lines.push(['engine check', checks(proof.engine)], ['CPU check', checks(proof.cpus)]);
  return lines;
}

function checks({ pagesChecked, checkErrors, verify }: Proof['engine' | 'cpus']): string {
  const running = `${count(pagesChecked)} pages checked while running, ${count(checkErrors)} wrong`;
  return `${running}; then all ${count(verify.checked)} ever written, ${count(verify.bad)} wrong`;
}

function verdict({ migration, proof, lost, verified }: DemoResult, options: DemoOptions): string {
  const found = (proof?.engine.verify.checked ?? 0) + (proof?.cpus.verify.checked ?? 0);
  if (verified && found === 0) {
    return `${pc.green('Verified:')} memory was equal at the switch. Neither engine nor CPUs had written what they could check.`;
  }
  if (verified) {
    return `${pc.green('Verified:')} memory was equal at the switch, and engine and CPUs found every page as they left it.`;
  }
  const stale = migration.stalePages ?? 0;
  const share = `${count(stale)} pages (${((stale * PAGE * 100) / options.memoryBytes).toFixed(1)} %) were stale at the switch`;
  const whose = `the engine lost ${count(lost?.engine ?? 0)}, the CPUs ${count(lost?.cpus ?? 0)}`;
  const leftOut = [
    ...(options.log ? [] : ['DMA logging']),
    ...(options.cpuLog === 'none' ? ["tracking the CPUs' writes"] : []),
  ];
  return leftOut.length === 0
    ? `${pc.red('NOT verified:')} ${share}; ${whose}.`
    : `${pc.red('Lost:')} ${share}; ${whose}.\nThat is what ${leftOut.join(' and ')} ${leftOut.length === 1 ? 'is' : 'are'} for.`;
}
