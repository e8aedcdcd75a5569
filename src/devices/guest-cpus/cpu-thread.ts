import { parentPort, workerData } from 'node:worker_threads';
import { SharedRecorder } from '../../log/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import type { VerifyResult } from '../dma-engine/index.js';
import { PAGES_PER_LOOK, Pacer, PageFault, TICK_BUDGET_MS, TICK_MS, Workload } from '../workload/index.js';
import { CpuMemory } from './cpu-memory.js';
import type { CpuCall, CpuCalls, CpuQuestion, CpuThreadData } from './cpu-messages.js';

/*
 * One CPU of the guest, in a thread of its own. It stores in ticks of its event loop and answers between two of them: when it has answered `pause`
 * there is no store under way, and none to come.
 */

/** Every page is checked before it is stored again. */
const CHECK_INTERVAL = 1;

type Served = { [Call in CpuCall]: (parameters: CpuCalls[Call]['parameters']) => CpuCalls[Call]['answer'] };

class CpuThread implements Served {
  readonly #memory: CpuMemory;
  #workload: Workload | undefined;
  #rate = 0;
  #pacer = new Pacer(0);
  #timer: NodeJS.Timeout | undefined;

  constructor(memory: CpuMemory) {
    this.#memory = memory;
  }

  arm({ settings, rate, progress }: CpuCalls['arm']['parameters']): undefined {
    this.#workload = new Workload(this.#memory, settings, CHECK_INTERVAL, progress);
    this.#rate = rate;
  }

  disarm(): undefined {
    this.pause();
    this.#workload = undefined;
  }

  run(): undefined {
    if (this.#timer !== undefined) return;
    this.#pacer = new Pacer(performance.now());
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  #tick(): void {
    const startedAt = performance.now();
    for (let due = this.#pacer.due(startedAt, this.#rate); due > 0; due -= PAGES_PER_LOOK) {
      // This memory answers at once, so that there is no promise.
      this.#workload?.write(Math.min(due, PAGES_PER_LOOK));
      if (performance.now() - startedAt > TICK_BUDGET_MS) return;
    }
  }

  pause(): CpuCalls['pause']['answer'] {
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (this.#workload === undefined) return undefined;
    const { order, counters } = this.#workload.progress;
    return { order, counters };
  }

  count(): CpuCalls['count']['answer'] {
    return this.#workload?.counters;
  }

  verify(): CpuCalls['verify']['answer'] {
    const workload = this.#workload;
    if (workload === undefined) return undefined;
    const result: VerifyResult = { checked: 0, bad: 0, stale: 0, firstBad: undefined };
    for (let page = 0; page < workload.settings.pages; page++) {
      const fault = workload.check(page) as PageFault | undefined;
      if (fault === undefined) continue;
      result.checked++;
      if (fault === PageFault.NONE) continue;
      result.bad++;
      if (fault === PageFault.STALE || fault === PageFault.BLANK) result.stale++;
      result.firstBad ??= page;
    }
    return result;
  }
}

const { memory, origin, marks } = workerData as CpuThreadData;
const recorder = marks && SharedRecorder.attach(marks);
const ignore = () => {};
const thread = new CpuThread(
  new CpuMemory({ memory, origin }, recorder ? (iova, length) => recorder.record(iova, length) : ignore),
);
const port = parentPort;
if (port === null) throw new VfioError('EINVAL', { operation: 'cpu-thread', message: 'it is no program of its own' });
port.on('message', ({ call, parameters }: CpuQuestion) => {
  try {
    const value = (thread[call] as (parameters: unknown) => unknown)(parameters);
    port.postMessage({ value });
  } catch (error) {
    const { errno, message } = asVfioError(error, call);
    port.postMessage({ errno, message });
  }
});
port.postMessage({ value: undefined });
