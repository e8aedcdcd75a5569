import type { MachineMemory } from '../memory/machine-memory.js';
import { type Compression, MemoryEncoder } from '../stream/memory-encoder.js';
import { PAGES_PER_BLOCK, type PageList } from '../stream/page-list.js';
import { FrameType, MAX_PAYLOAD } from '../stream/stream-format.js';
import type { MemoryLane } from './memory-lane.js';
import type { SourceLink } from './source-link.js';

/** The lane that is the migration's own connection: what is sent on it later arrives later. */
export class ControlLane implements MemoryLane {
  readonly #encoder: MemoryEncoder;
  readonly #link: SourceLink;

  constructor(memory: MachineMemory, link: SourceLink, compression?: Compression) {
    this.#encoder = new MemoryEncoder(memory, compression);
    this.#link = link;
  }

  get bytesSent(): number {
    return this.#link.channel.bytesSent;
  }

  get zeroPages(): number {
    return this.#encoder.zeroPages;
  }

  pagesPerList(): number {
    return PAGES_PER_BLOCK;
  }

  async send(list: PageList): Promise<void> {
    const { channel, peerFailure } = this.#link;
    if (peerFailure !== undefined) throw peerFailure;
    await channel.sendFilled(FrameType.MEMORY, MAX_PAYLOAD, into => this.#encoder.encode(list, into));
  }

  async flush(): Promise<void> {
    this.#encoder.rest();
    await this.#link.channel.flush();
  }

  useMemory(memory: MachineMemory): void {
    this.#encoder.useMemory(memory);
  }
}
