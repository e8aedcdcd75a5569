import { TwoLevelBitmap, type TwoLevelPlace } from '../bitmap/index.js';
import type { PageRecorder } from './page-recorder.js';
import { RangeRecorder, type RecorderPlan } from './range-recorder.js';
import { requireCount } from './record-write.js';

/** A running log as another thread sees it: for `postMessage` or `workerData`, one for each thread. */
export interface SharedLog {
  readonly place: TwoLevelPlace;
  readonly plan: RecorderPlan;
}

/**
 * Records into a log that another thread owns and reports from. Made in the thread that writes, from what
 * {@link DmaLog.share} gave.
 *
 * It serves one session: after its STOP, what is recorded here goes nowhere and harms nobody.
 */
export class SharedRecorder {
  readonly #recorder: PageRecorder;

  private constructor(recorder: PageRecorder) {
    this.#recorder = recorder;
  }

  /** Joins a log. The first call in a thread compiles the kernels, some milliseconds. */
  static attach(shared: SharedLog): SharedRecorder {
    return new SharedRecorder(new RangeRecorder(TwoLevelBitmap.attach(shared.place), shared.plan).pages);
  }

  /**
   * Marks what a write of `length` bytes at `iova` touched, as {@link DmaLog.record}: call it when the bytes are in memory.
   * @throws VfioError EINVAL
   */
  record(iova: number | bigint, length: number): void {
    this.#recorder.record(iova, length);
  }

  /** Marks whole log pages by their numbers, as {@link DmaLog.recordPages}. @throws VfioError EINVAL */
  recordPages(pages: Float64Array | Uint32Array, count = pages.length): void {
    requireCount(pages, count);
    this.#recorder.recordPages(pages, count);
  }
}
