import type { VfioError } from '../../uapi/index.js';
import type { DemoEvent, DemoResult } from './demo.js';
import type { DemoOutput } from './demo-output.js';

/** Events as lines of JSON; the last line is the result. */
export class JsonOutput implements DemoOutput {
  tell(event: DemoEvent): void {
    print(event);
  }

  finish({ migration, proof, lost, verified, peakMemory }: DemoResult): void {
    const { passes, ...totals } = migration;
    print({
      event: 'result',
      ...totals,
      memoryEqual: migration.verified ?? null,
      verified,
      stalePages: migration.stalePages ?? null,
      passes: passes.length,
      passReports: passes,
      lost: lost ?? null,
      engine: proof?.engine ?? null,
      cpus: proof?.cpus ?? null,
      peakMemoryBesideGuestBytes: peakMemory ?? null,
    });
  }

  fail({ errno, message }: VfioError): void {
    print({
      event: 'result',
      verified: false,
      outcome: 'failed',
      error: { errno, message },
      stalePages: null,
      passes: 0,
      pagesSent: 0,
      totalMs: 0,
      downtimeMs: 0,
    });
  }
}

function print(value: unknown): void {
  console.log(JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? item.toString() : item)));
}
