import { colorsFor } from '../colors.js';
import { PassBar } from '../progress/pass-bar.js';
import { passLine, passTable } from '../progress/passes.js';
import { count, milliseconds, size } from '../progress/quantities.js';
import type { DemoEvent, DemoOptions, DemoResult } from './demo.js';
import type { DemoOutput } from './demo-output.js';

const pc = colorsFor(process.stdout);
const PAGE = 4096;

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
    console.log(`\n${passTable(migration.passes, migration.phase)}\n`);
    if (migration.outcome === 'not-converged') {
      console.log(
        `${pc.yellow('Did not converge:')} after ${migration.passes.length} passes the rest still did not fit ${options.downtimeLimitMs} ms.`,
      );
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
      // What the bar shows on a terminal.
      return process.stdout.isTTY ? undefined : passLine(event);
    case 'log-lost':
      return pc.yellow(`  ${event.tracker} lost its log, everything counts as dirty: ${event.error.message}`);
    case 'checking':
      return `  the engine runs on at the destination, and checks every page before it writes it again`;
    default:
      return undefined;
  }
}

function phaseLine(phase: string): string | undefined {
  if (phase === 'stop-and-copy') return '  the rest fits: engine stopped, last pages and device state follow';
  if (phase === 'verify') return '  both ends hash all memory while the machine stands still';
  if (phase === 'switch') return '  the destination is told to run';
  return undefined;
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
  const lost = `${count(stale)} pages (${((stale * PAGE * 100) / options.memoryBytes).toFixed(1)} %)`;
  return options.log
    ? `${pc.red('NOT verified:')} ${lost} were stale at the switch.`
    : `${pc.red('Lost:')} ${lost} were stale at the switch. That is what DMA logging is for.`;
}
