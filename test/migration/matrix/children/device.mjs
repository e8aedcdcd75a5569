// device.mjs SOCKET: a DMA engine in a process of its own, which shows where its machine runs: while it does, the engine holds a lock on a file
// of its side, and looks whether an engine of the other side holds one.
import { closeSync, openSync } from 'node:fs';
import { DmaEngine } from '../../../../dist/devices/dma-engine/index.js';
import { lockFile } from '../../../../dist/native/index.js';
import { VfioUserServer } from '../../../../dist/vfio-user/index.js';
import { openFiles } from './open-files.mjs';
import { serveCalls } from './serve-calls.mjs';

class WatchedEngine extends DmaEngine {
  #own;
  #others = [];
  #lock;
  /** A blank device runs too, but is no machine. */
  #isMachine = false;
  #ranTwice = false;

  /** `own`: the file to lock. `others`: the other side's. */
  begin({ own, others, isMachine }) {
    this.#release();
    this.#own = own;
    this.#others = others;
    this.#isMachine = isMachine;
    this.#ranTwice = false;
    if (isMachine) this.#hold();
  }

  status() {
    const { [this.#own]: _, ...open } = openFiles();
    return {
      runs: this.#lock !== undefined,
      ranTwice: this.#ranTwice,
      state: this.migration.state,
      logging: this.dma.log.active,
      open,
    };
  }

  onRun() {
    if (this.#isMachine) this.#hold();
    super.onRun();
  }

  async onQuiesce() {
    await super.onQuiesce();
    this.#release();
  }

  onReset() {
    super.onReset();
    this.#isMachine = false;
  }

  loadState(bytes) {
    super.loadState(bytes);
    this.#isMachine = true;
  }

  /** Its own lock first: of two that begin at the same time, the later one sees the other. */
  #hold() {
    if (this.#lock !== undefined) return;
    this.#lock = openSync(this.#own, 'a');
    lockFile(this.#lock, 'exclusive');
    for (const other of this.#others) {
      const file = openSync(other, 'r');
      try {
        lockFile(file, 'shared');
      } catch {
        this.#ranTwice = true;
      }
      closeSync(file);
    }
  }

  #release() {
    if (this.#lock !== undefined) closeSync(this.#lock);
    this.#lock = undefined;
  }
}

const engine = new WatchedEngine();
await VfioUserServer.listen(engine, { path: process.argv[2], onError: error => console.error(`device: ${error}`) });
serveCalls({ begin: parameters => engine.begin(parameters), status: () => engine.status() });
