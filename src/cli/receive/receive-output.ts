import type { ReceiveEvent, ReceivePhase, ReceiveReport } from '../../migration/index.js';
import type { VfioError } from '../../uapi/index.js';
import type { Address } from '../arguments.js';
import { colorsFor } from '../colors.js';
import { ArrivalLine } from '../progress/arrival-line.js';
import { linkLine } from '../progress/changes.js';
import { printJson } from '../progress/print-json.js';
import { count, milliseconds, size } from '../progress/quantities.js';

const pc = colorsFor(process.stdout);

/** Where the words of `dmalog receive` go. */
export interface ReceiveOutput {
  listening(at: Address, memoryBytes: number, devices: readonly string[]): void;
  /** A machine comes. */
  tell(event: ReceiveEvent): void;
  /** The machine has come. @param stays whether this process stays its host */
  running(report: ReceiveReport, stays: boolean): void;
  /** The end. @param report of the machine that came; `undefined` when none did @param error what went wrong, which people are told elsewhere */
  finish(exitCode: number, report: ReceiveReport | undefined, error: VfioError | undefined): void;
}

const PHASES: Readonly<Record<ReceivePhase, string>> = {
  'pre-copy': '  a machine comes: it runs at the source, and its memory arrives',
  load: '  all of it is here; its devices take their states',
  ready: '  it is ready to run here, and waits for the source to say so',
};

/** A line a step, and one that changes while pages arrive. */
export class PeopleOutput implements ReceiveOutput {
  readonly #arriving = new ArrivalLine();

  listening({ host, port }: Address, memoryBytes: number, devices: readonly string[]): void {
    const at = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
    console.log(`${pc.bold('dmalog receive')} at ${at}: ${size(memoryBytes)} of memory, ${devices.join(' ')}`);
    console.log('  waiting for a machine');
  }

  tell(event: ReceiveEvent): void {
    if (event.event === 'progress') {
      this.#arriving.draw(event);
      return;
    }
    this.#arriving.end();
    console.log(describe(event));
  }

  running({ pagesReceived, stateBytes, loadMs, resumeMs }: ReceiveReport, stays: boolean): void {
    console.log(`  ${count(pagesReceived)} pages and ${size(stateBytes)} of device state came`);
    console.log(`  loaded in ${milliseconds(loadMs)}, started in ${milliseconds(resumeMs)}`);
    console.log(pc.green('The machine runs here.') + (stays ? ' Ctrl-C lets go of it.' : ''));
  }

  finish(_exitCode: number, report: ReceiveReport | undefined, error: VfioError | undefined): void {
    this.#arriving.end();
    if (report !== undefined && error === undefined)
      console.log('Let go of the machine; its devices keep their state.');
    else if (error === undefined) console.log('No machine came.');
  }
}

function describe(event: Exclude<ReceiveEvent, { event: 'progress' }>): string {
  switch (event.event) {
    case 'phase':
      return PHASES[event.phase];
    case 'pass':
      return `  pass ${event.pass}: ${count(event.pagesReceived)} pages came`;
    case 'link-lost':
    case 'link-resumed':
      return pc.yellow(linkLine(event));
  }
}

/** Events as lines of JSON; the last line is the result. */
export class JsonOutput implements ReceiveOutput {
  listening({ host, port }: Address, memoryBytes: number, devices: readonly string[]): void {
    printJson({ event: 'listening', host, port, memoryBytes, devices });
  }

  tell(event: ReceiveEvent): void {
    printJson(event);
  }

  running(report: ReceiveReport): void {
    printJson({ event: 'running', ...report });
  }

  finish(exitCode: number, report: ReceiveReport | undefined, error: VfioError | undefined): void {
    const outcome = report !== undefined ? 'received' : error === undefined ? 'interrupted' : 'failed';
    printJson({ event: 'result', exitCode, outcome, ...report, ...(error && { error }) });
  }
}
