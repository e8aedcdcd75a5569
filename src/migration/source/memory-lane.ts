import type { MachineMemory } from '../memory/machine-memory.js';
import type { PageList } from '../stream/page-list.js';

/**
 * A way for memory from the source to the destination. Pages given to one lane arrive in order; of several lanes each is for itself until all
 * are flushed.
 */
export interface MemoryLane {
  /** Bytes sent so far, headers included. */
  readonly bytesSent: number;
  /** Pages sent so far that were zero, and only named. */
  readonly zeroPages: number;
  /** How many pages a list shall have where there are so many to send; it must not have more. */
  pagesPerList(pages: number): number;
  /**
   * Sends the pages of a list, as memory is when the lane reads it, which is before or after this is done. Done when the lane takes another
   * list; `list` is the caller's again then.
   * @throws VfioError when the way is broken for good, or the destination has given up
   */
  send(list: PageList): Promise<void>;
  /** Done when everything sent so far is in the destination's memory. @throws VfioError as {@link MemoryLane.send} */
  flush(): Promise<void>;
  /** Lists mean this memory from now on. Everything sent before must be flushed. */
  useMemory(memory: MachineMemory): void;
}
