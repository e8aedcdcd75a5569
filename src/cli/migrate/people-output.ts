import type {
  DeviceReport,
  MigrationEvent,
  MigrationPhase,
  MigrationReport,
  RehearsalReport,
} from '../../migration/index.js';
import { colorsFor } from '../colors.js';
import { eventLine } from '../progress/changes.js';
import { PassBar } from '../progress/pass-bar.js';
import { passTable } from '../progress/passes.js';
import { count, milliseconds, size, speed } from '../progress/quantities.js';
import { downtimeTable } from './downtime-table.js';
import type { MigrateOutput, MigrationPlan } from './migrate-output.js';
import { adviceOn, rehearsalVerdict, whereabouts } from './verdict.js';

const pc = colorsFor(process.stdout);

const PHASES: Readonly<Record<MigrationPhase, string>> = {
  connect: '  connecting',
  'pre-copy': '  the machine runs; its memory is sent pass by pass',
  'stop-and-copy': '  the machine is stopped; the last pages and the devices’ states follow',
  verify: '  both ends hash all memory while the machine stands still',
  switch: '  the destination is told to run',
};

const REHEARSED_PHASES: typeof PHASES = {
  ...PHASES,
  'pre-copy': '  the machine runs; each pass lasts as long as the link would need, and nothing is sent',
};

/** A migration for people: a line a step, a bar while pages move, a table and a summary at the end. */
export class PeopleOutput implements MigrateOutput {
  readonly #bar = new PassBar();
  #phases = PHASES;

  begin({ to, purpose, devices, memoryBytes, downtimeLimitMs }: MigrationPlan): void {
    if (purpose === 'rehearsal') this.#phases = REHEARSED_PHASES;
    const where = to === undefined ? 'nowhere' : `to ${to}`;
    const how = purpose === 'rehearsal' ? ', as a rehearsal' : '';
    console.log(`${pc.bold('dmalog migrate')} ${where}${how}: ${size(memoryBytes)} of memory, ${devices.join(' ')}`);
    console.log(`  downtime limit ${downtimeLimitMs} ms`);
  }

  tell(event: MigrationEvent): void {
    if (event.event === 'progress') {
      this.#bar.draw(event);
      return;
    }
    const line = describe(event, this.#phases);
    if (line === undefined) return;
    this.#bar.end();
    console.log(line);
  }

  finish(report: MigrationReport, plan: MigrationPlan): void {
    this.#bar.end();
    if (report.passes.length > 0) console.log(`\n${passTable(report.passes, report.phase)}`);
    const downtimes = downtimeTable(report);
    if (downtimes !== '') console.log(`\n${downtimes}`);
    console.log();
    for (const [name, value] of summary(report, plan)) console.log(`  ${name.padEnd(12)}${value}`);
    if (report.outcome === 'not-converged') {
      console.log(`${pc.yellow('Did not converge:')} ${report.reason}.`);
    } else if (report.error?.errno === 'ECANCELED') {
      console.log(`${pc.yellow('Interrupted')} in phase ${report.phase}.`);
    } else if (report.outcome === 'failed') {
      console.log(`${pc.red('Failed')} in phase ${report.phase}: ${report.error?.message}`);
      const advice = adviceOn(report);
      if (advice !== undefined) console.log(advice);
    }
    if (report.verified === false)
      console.log(pc.red(`Memory differs: ${count(report.stalePages ?? 0)} pages are stale.`));
    const color = report.outcome === 'moved' ? pc.green : pc.bold;
    console.log(color(whereabouts(report, plan)));
  }

  finishRehearsal(report: RehearsalReport): void {
    this.#bar.end();
    const { link } = report;
    console.log(`\n${passTable(report.passes, 'pre-copy')}\n`);
    console.log(`  link        ${speed(link.bytesPerSecond)}, ${link.source}`);
    console.log(`  states      ${size(report.stateBytes)} as far as the devices say while they run`);
    const verdict = report.wouldMove ? pc.green('It would move') : pc.yellow('It would not move:');
    console.log(`\n${verdict} ${rehearsalVerdict(report)}`);
    console.log('Nothing was sent, and nothing was stopped.');
  }

  fail(): void {
    this.#bar.end();
  }
}

function describe(event: MigrationEvent, phases: typeof PHASES): string | undefined {
  return event.event === 'phase' ? phases[event.phase] : eventLine(event);
}

function deviceWords({ name, stateBytes, stopMs, error }: DeviceReport): string {
  const share = `${name}: ${size(stateBytes)} of state, stopped in ${milliseconds(stopMs)}`;
  return error === undefined ? share : pc.red(`${name} did not start again: ${error.message}`);
}

function summary(report: MigrationReport, { downtimeLimitMs }: MigrationPlan): [string, string][] {
  const { phases = [], digests } = report;
  const lines: [string, string][] = [];
  if (report.passes.length > 0) {
    const zeros = report.zeroPages === 0 ? '' : ` (${count(report.zeroPages)} of them zero, and only named)`;
    lines.push(['sent', `${count(report.pagesSent)} pages${zeros} in ${size(report.bytesSent)}`]);
  }
  lines.push(['total time', milliseconds(report.totalMs)]);
  for (const { phase, durationMs, covers } of phases) {
    lines.push(['', `${milliseconds(durationMs).padStart(8)}  ${phase}: ${covers}`]);
  }
  if (report.downtimeMs > 0) {
    const expected = `expected ${milliseconds(report.estimatedDowntimeMs)}, limit ${downtimeLimitMs} ms`;
    lines.push(['downtime', `${pc.bold(milliseconds(report.downtimeMs))} (${expected})`]);
  }
  if (report.outcome === 'moved' && report.stoppedBy !== undefined) lines.push(['stopped as', report.reason]);
  const told = report.devices.filter(({ stopMs, error }) => stopMs > 0 || error !== undefined);
  for (const [index, device] of told.entries()) lines.push([index === 0 ? 'devices' : '', deviceWords(device)]);
  if (digests !== undefined) lines.push(['SHA-256', digests.source], ['', `${digests.destination} at the destination`]);
  return lines;
}
