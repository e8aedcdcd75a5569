import { isRunning, LocalDevice } from '../../device/index.js';
import {
  type DmaEngine,
  DmaEngineDriver,
  WORKLOAD_MAX_PAGES,
  type WorkloadKindName,
} from '../../devices/dma-engine/index.js';
import { asVfioError } from '../../uapi/index.js';

/** How often memory is looked for, milliseconds. */
const LOOK_MS = 20;
const PAGE_SIZE = 4096;

/** What an engine does without a driver. */
export interface OwnWorkload {
  kind: WorkloadKindName;
  /** Pages per second. */
  rate: number;
  seed: number;
}

/**
 * Drives an engine from its own process, where no guest does: it writes the first memory that a host maps, as soon as it is mapped, and goes on when
 * it is there again after a host has left.
 *
 * It is configured once. An engine that was reset, or has gone elsewhere, stays at rest, so that it may be the destination of a migration later.
 */
export class SelfDrivingEngine {
  readonly engine: DmaEngine;
  readonly #workload: OwnWorkload;
  readonly #driver: Promise<DmaEngineDriver>;
  #isConfigured = false;
  #backings: readonly object[] = [];
  #isSettled = true;

  private constructor(engine: DmaEngine, workload: OwnWorkload) {
    this.engine = engine;
    this.#workload = workload;
    this.#driver = DmaEngineDriver.attach(new LocalDevice(engine));
  }

  /** Begins to look for memory; that alone keeps no process alive. */
  static begin(engine: DmaEngine, workload: OwnWorkload): void {
    const driven = new SelfDrivingEngine(engine, workload);
    setInterval(() => driven.#look(), LOOK_MS).unref();
  }

  /**
   * A host maps region after region: they are all there when nothing has changed between two looks. Each mapping has a backing of its own, so that a
   * host that comes between two looks after another one shows.
   */
  #look(): void {
    const backings = this.engine.dma.map.regions.map(({ backing }) => backing);
    const isSettled =
      backings.length === this.#backings.length && backings.every((each, index) => each === this.#backings[index]);
    const hasJustSettled = isSettled && !this.#isSettled;
    this.#backings = backings;
    this.#isSettled = isSettled;
    if (hasJustSettled && backings.length > 0) void this.#start();
  }

  async #start(): Promise<void> {
    if (!isRunning(this.engine.migration!.state)) return;
    const driver = await this.#driver;
    try {
      if (!this.#isConfigured) await this.#configure(driver);
      const { errno } = await driver.statistics();
      // What was at rest without an error was brought to rest by somebody else.
      if (errno !== undefined) await driver.start();
    } catch (error) {
      console.error(`dmalog: ${this.engine.name}: ${asVfioError(error, 'workload').message}`);
    }
  }

  async #configure(driver: DmaEngineDriver): Promise<void> {
    const region = this.engine.dma.map.regions.find(({ readable, writable }) => readable && writable);
    if (region === undefined) return;
    const pages = Math.min(Number(region.length) / PAGE_SIZE, WORKLOAD_MAX_PAGES);
    await driver.configureWorkload({ ...this.#workload, base: region.iova, length: BigInt(pages * PAGE_SIZE) });
    this.#isConfigured = true;
    await driver.start();
  }
}
