import type { DemoEvent, DemoOptions, DemoResult } from './demo.js';

/** Where the demo's words go. */
export interface DemoOutput {
  tell(event: DemoEvent): void;
  finish(result: DemoResult, options: DemoOptions): void;
  /** Ends a line that is being drawn, before something else is written. */
  abandon(): void;
}
