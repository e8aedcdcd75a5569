import type { Backing } from '../../memory/index.js';
import type { DmaRequests } from './dma-requests.js';

/** A region that came without a file: its bytes are only with the client, who is asked for them (vfio-user 0.9.x DMA_MAP). */
export class MessageBacking implements Backing {
  readonly kind = 'message';
  readonly #requests: DmaRequests;
  readonly #iova: bigint;

  /** @param iova where the region begins */
  constructor(requests: DmaRequests, iova: bigint) {
    this.#requests = requests;
    this.#iova = iova;
  }

  /** @throws VfioError as {@link DmaRequests.read} */
  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#requests.read(this, this.#addressOf(offset), into);
  }

  /** @throws VfioError as {@link DmaRequests.write} */
  write(offset: number, from: Uint8Array): Promise<void> {
    return this.#requests.write(this, this.#addressOf(offset), from);
  }

  /** What is under way fails with ECANCELED, and so does what would follow: the client hears no more of this region. */
  close(): void {
    this.#requests.abandon(this);
  }

  #addressOf(offset: number): bigint {
    return this.#iova + BigInt(offset);
  }
}
