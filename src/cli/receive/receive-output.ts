import type { ReceiveReport } from '../../migration/index.js';
import type { VfioError } from '../../uapi/index.js';
import type { Address } from '../arguments.js';
import { colorsFor } from '../colors.js';
import { printJson } from '../progress/print-json.js';
import { count, milliseconds, size } from '../progress/quantities.js';

const pc = colorsFor(process.stdout);

/** Where the words of `dmalog receive` go. */
export interface ReceiveOutput {
  listening(at: Address, memoryBytes: number, devices: readonly string[]): void;
  /** The machine has come. @param stays whether this process stays its host */
  running(report: ReceiveReport, stays: boolean): void;
  /** The end. @param report of the machine that came; `undefined` when none did @param error what went wrong, which people are told elsewhere */
  finish(exitCode: number, report: ReceiveReport | undefined, error: VfioError | undefined): void;
}

/** A line a step. */
export class PeopleOutput implements ReceiveOutput {
  listening({ host, port }: Address, memoryBytes: number, devices: readonly string[]): void {
    const at = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
    console.log(`${pc.bold('dmalog receive')} at ${at}: ${size(memoryBytes)} of memory, ${devices.join(' ')}`);
    console.log('  waiting for a machine');
  }

  running({ pagesReceived, stateBytes, loadMs, resumeMs }: ReceiveReport, stays: boolean): void {
    console.log(`  ${count(pagesReceived)} pages and ${size(stateBytes)} of device state came`);
    console.log(`  loaded in ${milliseconds(loadMs)}, started in ${milliseconds(resumeMs)}`);
    console.log(pc.green('The machine runs here.') + (stays ? ' Ctrl-C lets go of it.' : ''));
  }

  finish(_exitCode: number, report: ReceiveReport | undefined, error: VfioError | undefined): void {
    if (report !== undefined && error === undefined)
      console.log('Let go of the machine; its devices keep their state.');
    else if (error === undefined) console.log('No machine came.');
  }
}

/** Events as lines of JSON; the last line is the result. */
export class JsonOutput implements ReceiveOutput {
  listening({ host, port }: Address, memoryBytes: number, devices: readonly string[]): void {
    printJson({ event: 'listening', host, port, memoryBytes, devices });
  }

  running(report: ReceiveReport): void {
    printJson({ event: 'running', ...report });
  }

  finish(exitCode: number, report: ReceiveReport | undefined, error: VfioError | undefined): void {
    const outcome = report !== undefined ? 'received' : error === undefined ? 'interrupted' : 'failed';
    printJson({ event: 'result', exitCode, outcome, ...report, ...(error && { error }) });
  }
}
