import { Presets, SingleBar } from 'cli-progress';
import Table from 'cli-table3';
import type { PassReport } from '../../migration/index.js';
import { colorsFor } from '../colors.js';
import type { CpuLog } from './cpu-log.js';
import type { DemoEvent, DemoOptions, DemoResult } from './demo.js';
import type { DemoOutput } from './demo-output.js';
import { CPU_LOG_NAME, DMA_LOG_NAME, type Proof } from './host-protocol.js';

const pc = colorsFor(process.stdout);
const PAGE = 4096;

/** The demo for people: a line a step, a bar while pages move, a table and the proof at the end. */
export class PeopleOutput implements DemoOutput {
  #bar: SingleBar | undefined;

  tell(event: DemoEvent): void {
    if (event.event === 'progress') {
      this.#draw(event);
      return;
    }
    const line = describe(event);
    if (line === undefined) return;
    this.#endBar();
    console.log(line);
  }

  #draw(progress: Extract<DemoEvent, { event: 'progress' }>): void {
    if (!process.stdout.isTTY) return;
    const payload = {
      pass: progress.pass,
      left: count(progress.pagesLeft),
      dirty: progress.dirtyPagesPerSecond === 0 ? '?' : count(progress.dirtyPagesPerSecond),
      downtime: progress.estimatedDowntimeMs === undefined ? '?' : `${Math.ceil(progress.estimatedDowntimeMs)} ms`,
    };
    const done = progress.pagesTotal - progress.pagesLeft;
    if (this.#bar === undefined) {
      this.#bar = new SingleBar(
        {
          // 80 columns at the most: the bar's own library cuts what is longer.
          format: `  pass {pass} ${pc.cyan('{bar}')} {left} pages left · dirty {dirty}/s · est. downtime {downtime}`,
          barsize: 14,
          hideCursor: true,
          clearOnComplete: true,
          stopOnComplete: false,
        },
        Presets.rect,
      );
      this.#bar.start(progress.pagesTotal, done, payload);
    } else {
      this.#bar.setTotal(progress.pagesTotal);
      this.#bar.update(done, payload);
    }
  }

  fail(): void {
    this.#endBar();
  }

  #endBar(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }

  finish(result: DemoResult, options: DemoOptions): void {
    this.#endBar();
    const { migration } = result;
    console.log(`\n${passTable(migration.passes, migration.phase)}\n`);
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
    case 'pass':
      return process.stdout.isTTY ? undefined : passLine(event);
    case 'log-lost':
      return pc.yellow(`  ${event.tracker} lost its log, everything counts as dirty: ${event.error.message}`);
    case 'checking':
      return '  engine and CPUs run on at the destination, and check every page before they write it again';
    default:
      return undefined;
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

/** What the bar shows on a terminal. */
function passLine(pass: PassReport): string {
  const sent = `  pass ${pass.pass}: ${count(pass.pagesSent)} pages in ${milliseconds(pass.durationMs)}`;
  if (pass.estimatedDowntimeMs === undefined) return sent;
  const estimate = milliseconds(pass.estimatedDowntimeMs);
  return `${sent}, then ${count(pass.dirtyPages)} dirty (${count(pass.dirtyPagesPerSecond)}/s), est. downtime ${estimate}`;
}

function phaseLine(phase: string): string | undefined {
  if (phase === 'stop-and-copy') return '  the rest fits: engine and CPUs stopped, last pages and their states follow';
  if (phase === 'verify') return '  both ends hash all memory while the machine stands still';
  if (phase === 'switch') return '  the destination is told to run';
  return undefined;
}

function passTable(passes: readonly PassReport[], phase: string): string {
  const table = new Table({
    head: ['pass', 'pages sent', 'time', 'speed', 'dirty by DMA', 'by CPUs', 'dirty/s', 'est. downtime'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  });
  for (const pass of passes) {
    const isLast = pass.estimatedDowntimeMs === undefined && phase !== 'pre-copy';
    table.push([
      isLast ? 'stopped' : pass.pass === 0 ? '0 (all)' : String(pass.pass),
      count(pass.pagesSent),
      milliseconds(pass.durationMs),
      speed((pass.bytesSent * 1000) / pass.durationMs),
      isLast ? '' : foundBy(DMA_LOG_NAME, pass),
      isLast ? '' : foundBy(CPU_LOG_NAME, pass),
      isLast ? '' : count(pass.dirtyPagesPerSecond),
      pass.estimatedDowntimeMs === undefined ? '' : milliseconds(pass.estimatedDowntimeMs),
    ]);
  }
  return table.toString();
}

/** A source without a log has dirty pages too, but nobody knows how many. */
function foundBy(name: string, { dirtyBySource }: PassReport): string {
  const found = dirtyBySource.find(({ tracker }) => tracker === name);
  return found === undefined ? '?' : count(found.pages);
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
    const above = (bytes: number) => `${size(Math.max(0, bytes - options.memoryBytes))}`;
    lines.push([
      'peak memory',
      `guest memory + ${above(peakMemory.source)} (source host), + ${above(peakMemory.destination)} (destination host)`,
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

function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

function milliseconds(value: number): string {
  return value >= 10_000 ? `${(value / 1000).toFixed(1)} s` : `${value < 10 ? value.toFixed(1) : count(value)} ms`;
}

function size(bytes: number): string {
  for (const [unit, factor] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (bytes >= factor) return `${(bytes / factor).toFixed(bytes % factor === 0 ? 0 : 1)} ${unit}`;
  }
  return `${bytes} bytes`;
}

function speed(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1e9).toFixed(2)} GB/s`;
}
