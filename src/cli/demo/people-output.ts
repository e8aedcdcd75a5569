import { Presets, SingleBar } from 'cli-progress';
import Table from 'cli-table3';
import type { PassReport } from '../../migration/index.js';
import { colorsFor } from '../colors.js';
import type { DemoEvent, DemoOptions, DemoResult } from './demo.js';
import type { DemoOutput } from './demo-output.js';

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
      return `  the engine writes ${count(event.rate)} pages/s by itself (${event.kind}, seed ${event.seed})`;
    case 'migrating':
      return `\nMigrating, ${event.log ? 'with the DMA log' : pc.yellow('without the DMA log')}, downtime limit ${event.downtimeLimitMs} ms`;
    case 'phase':
      return phaseLine(event.phase);
    case 'pass':
      return process.stdout.isTTY ? undefined : passLine(event);
    case 'log-lost':
      return pc.yellow(`  ${event.tracker} lost its log, everything counts as dirty: ${event.error.message}`);
    case 'checking':
      return `  the engine runs on at the destination, and checks every page before it writes it again`;
    default:
      return undefined;
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
  if (phase === 'stop-and-copy') return '  the rest fits: engine stopped, last pages and device state follow';
  if (phase === 'verify') return '  both ends hash all memory while the machine stands still';
  if (phase === 'switch') return '  the destination is told to run';
  return undefined;
}

function passTable(passes: readonly PassReport[], phase: string): string {
  const table = new Table({
    head: ['pass', 'pages sent', 'time', 'speed', 'dirty after', 'dirty pages/s', 'est. downtime'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  });
  for (const pass of passes) {
    const isLast = pass.estimatedDowntimeMs === undefined && phase !== 'pre-copy';
    table.push([
      isLast ? 'stopped' : pass.pass === 0 ? '0 (all)' : String(pass.pass),
      count(pass.pagesSent),
      milliseconds(pass.durationMs),
      speed((pass.bytesSent * 1000) / pass.durationMs),
      isLast ? '' : count(pass.dirtyPages),
      isLast ? '' : count(pass.dirtyPagesPerSecond),
      pass.estimatedDowntimeMs === undefined ? '' : milliseconds(pass.estimatedDowntimeMs),
    ]);
  }
  return table.toString();
}

function summary({ migration, engine, peakMemory }: DemoResult, options: DemoOptions): [string, string][] {
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
  if (engine !== undefined) {
    const { verify } = engine;
    lines.push([
      'engine check',
      `${count(engine.pagesChecked)} pages checked as it ran, ${count(engine.checkErrors)} wrong; of all ${count(verify.checked)} it ever wrote, ${count(verify.bad)} wrong`,
    ]);
  }
  return lines;
}

function verdict({ migration, engine, verified }: DemoResult, options: DemoOptions): string {
  if (verified && (engine?.verify.checked ?? 0) === 0) {
    return `${pc.green('Verified:')} memory was equal at the switch. The engine had written nothing that it could check.`;
  }
  if (verified) {
    return `${pc.green('Verified:')} memory was equal at the switch, and the engine found every page as it left it.`;
  }
  const stale = migration.stalePages ?? 0;
  const size = `${count(stale)} pages (${((stale * PAGE * 100) / options.memoryBytes).toFixed(1)} %)`;
  return options.log
    ? `${pc.red('NOT verified:')} ${size} were stale at the switch.`
    : `${pc.red('Lost:')} ${size} were stale at the switch. That is what DMA logging is for.`;
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
