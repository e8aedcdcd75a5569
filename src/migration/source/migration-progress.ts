import { performance } from 'node:perf_hooks';
import {
  emptyReport,
  type MigrationEvent,
  type MigrationPhase,
  type MigrationReport,
  PhaseLog,
} from './migration-report.js';

/** How far a migration is: its report as it grows, and whoever listens. */
export class MigrationProgress {
  readonly report: MigrationReport = emptyReport();
  readonly #phases = new PhaseLog();
  readonly #startedAt = performance.now();
  readonly #listener: (event: MigrationEvent) => void;

  constructor(listener: (event: MigrationEvent) => void = () => {}) {
    this.#listener = listener;
    this.report.phases = this.#phases.phases;
  }

  /** Since the call, milliseconds. */
  get elapsedMs(): number {
    return performance.now() - this.#startedAt;
  }

  enter(phase: MigrationPhase): void {
    this.report.phase = phase;
    this.#phases.enter(phase, this.elapsedMs);
    this.tell({ event: 'phase', phase });
  }

  tell(event: MigrationEvent): void {
    this.#listener(event);
  }

  /** Nothing more happens. */
  end(): void {
    this.report.totalMs = this.elapsedMs;
    this.#phases.end(this.report.totalMs);
  }
}
