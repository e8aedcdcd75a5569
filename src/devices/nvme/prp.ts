import type { DmaPort } from '../../device/index.js';
import type { MaybePromise } from '../../memory/index.js';
import { viewOf } from '../../uapi/index.js';
import { type Address, offsetInPage, readAddress } from './address.js';
import { MAX_TRANSFER_SIZE } from './registers.js';
import { NvmeStatus } from './status.js';

/*
 * Physical region pages: how a command says where its data lies in host memory (NVMe 1.4, section 4.3).
 *
 * PRP1 is the address of the first byte; the data goes from there to the end of that memory page. What is left goes to whole pages: if one
 * page holds it, PRP2 is its address; else PRP2 is the address of a list of addresses, 8 bytes each, that ends with its page. When more
 * pages are left than the rest of the list's page has entries, the last entry is the address of the next list.
 *
 * Example, memory pages of 4096 bytes, 20480 bytes of data, PRP1 = 0x10800, PRP2 = 0x20fe8:
 *   from PRP1: 4096 - 0x800 = 2048 bytes at 0x10800; 18432 are left, which is 5 pages (the last one half).
 *   The list at 0x20fe8 has (4096 - 0xfe8) / 8 = 3 entries, fewer than 5. So two are data and the third leads on:
 *     0x20fe8: 0x31000 · 4096 bytes        0x20ff0: 0x32000 · 4096 bytes        0x20ff8: 0x40000 · the next list
 *   10240 bytes are left, 3 pages, and a list that begins its page has 512 entries: three are data.
 *     0x40000: 0x33000 · 4096 bytes        0x40008: 0x50000 · 4096 bytes        0x40010: 0x60000 · 2048 bytes
 *   0x31000, 0x32000 and 0x33000 follow each other, so the segments are:
 *     2048 at 0x10800, 12288 at 0x31000, 4096 at 0x50000, 2048 at 0x60000.
 */

const ENTRY_SIZE = 8;
/** One command's data lies in at most so many pages behind its first. */
const MAX_ENTRIES = MAX_TRANSFER_SIZE / 4096;

/** Where a command's data lies in host memory, piece by piece. One object serves one command after the other. */
export class DataSegments {
  /** Where each piece begins; the first `count` count. */
  readonly addresses: Address[] = [];
  /** Bytes of each piece. */
  readonly lengths: number[] = [];
  count = 0;
  #left = 0;
  #listBytes: Uint8Array | undefined;

  /**
   * Finds the pieces.
   * @param length bytes of data, 1 to {@link MAX_TRANSFER_SIZE}
   * @param pageSize memory page size, bytes
   * @returns INVALID_PRP_OFFSET for an entry that is not aligned as its place demands
   * @throws VfioError (or rejects) as `DmaPort.read` when a list cannot be read
   */
  locate(dma: DmaPort, prp1: Address, prp2: Address, length: number, pageSize: number): MaybePromise<NvmeStatus> {
    const offset = offsetInPage(prp1, pageSize);
    if (offset % 4 !== 0) return NvmeStatus.INVALID_PRP_OFFSET;
    this.count = 0;
    this.#left = length;
    this.#add(prp1, pageSize - offset);
    if (this.#left === 0) return NvmeStatus.SUCCESS;
    if (this.#left > pageSize) return this.#followList(dma, prp2, pageSize);
    if (offsetInPage(prp2, pageSize) !== 0) return NvmeStatus.INVALID_PRP_OFFSET;
    this.#add(prp2, pageSize);
    return NvmeStatus.SUCCESS;
  }

  /** The first list may begin anywhere in its page. */
  #followList(dma: DmaPort, list: Address, pageSize: number): MaybePromise<NvmeStatus> {
    const offset = offsetInPage(list, pageSize);
    if (offset % ENTRY_SIZE !== 0) return NvmeStatus.INVALID_PRP_OFFSET;
    const pages = Math.ceil(this.#left / pageSize);
    const entries = Math.min(pages, (pageSize - offset) / ENTRY_SIZE);
    this.#listBytes ??= new Uint8Array(MAX_ENTRIES * ENTRY_SIZE);
    const bytes = this.#listBytes.subarray(0, entries * ENTRY_SIZE);
    const read = dma.read(list, bytes);
    const follow = () => this.#takeEntries(dma, bytes, entries < pages, pageSize);
    return read === undefined ? follow() : read.then(follow);
  }

  #takeEntries(dma: DmaPort, bytes: Uint8Array, leadsOn: boolean, pageSize: number): MaybePromise<NvmeStatus> {
    const view = viewOf(bytes);
    const dataEnd = leadsOn ? bytes.length - ENTRY_SIZE : bytes.length;
    for (let at = 0; at < dataEnd; at += ENTRY_SIZE) {
      const address = readAddress(view, at);
      if (offsetInPage(address, pageSize) !== 0) return NvmeStatus.INVALID_PRP_OFFSET;
      this.#add(address, pageSize);
    }
    if (!leadsOn) return NvmeStatus.SUCCESS;
    const next = readAddress(view, dataEnd);
    // A list that another leads to fills its page: were it the page's last entry only, lists could lead on for ever.
    if (offsetInPage(next, pageSize) !== 0) return NvmeStatus.INVALID_PRP_OFFSET;
    return this.#followList(dma, next, pageSize);
  }

  /** Adds at most `room` bytes at `address`, to the piece before if that one ends there. */
  #add(address: Address, room: number): void {
    const length = Math.min(this.#left, room);
    this.#left -= length;
    const last = this.count - 1;
    const before = this.addresses[last];
    if (last >= 0 && typeof before === 'number' && before + this.lengths[last]! === address) {
      this.lengths[last]! += length;
      return;
    }
    this.addresses[this.count] = address;
    this.lengths[this.count] = length;
    this.count++;
  }
}
