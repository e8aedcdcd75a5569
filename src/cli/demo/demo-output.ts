import type { VfioError } from '../../uapi/index.js';
import type { DemoEvent, DemoOptions, DemoResult } from './demo.js';

/** Where the demo's words go. */
export interface DemoOutput {
  tell(event: DemoEvent): void;
  finish(result: DemoResult, options: DemoOptions): void;
  /** The demo ends without a result. What went wrong is told to people elsewhere. */
  fail(error: VfioError): void;
}
