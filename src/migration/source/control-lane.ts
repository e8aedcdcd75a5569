import type { MachineMemory } from '../memory/machine-memory.js';
import { encodeMemoryBlock } from '../stream/memory-block.js';
import type { PageList } from '../stream/page-list.js';
import { FrameType, MAX_PAYLOAD } from '../stream/stream-format.js';
import type { MemoryLane } from './memory-lane.js';
import type { SourceLink } from './source-link.js';

/** The lane that is the migration's own connection: what is sent on it later arrives later. */
export class ControlLane implements MemoryLane {
  readonly #memory: MachineMemory;
  readonly #link: SourceLink;

  constructor(memory: MachineMemory, link: SourceLink) {
    this.#memory = memory;
    this.#link = link;
  }

  get bytesSent(): number {
    return this.#link.channel.bytesSent;
  }

  async send(list: PageList): Promise<void> {
    const { channel, peerFailure } = this.#link;
    if (peerFailure !== undefined) throw peerFailure;
    await channel.sendFilled(FrameType.MEMORY, MAX_PAYLOAD, into => encodeMemoryBlock(this.#memory, list, into));
  }

  /** Nothing to wait for: every later frame of the connection is behind what was sent. */
  async flush(): Promise<void> {}
}
