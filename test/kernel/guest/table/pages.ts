import { bufferAt, libc } from '../../../../src/native/libc.js';
import { MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from '../../../../src/native/mmap-flags.js';

const PROT_NONE = 0;

/** Size of a page, bytes. */
export const PAGE = 4096;

function map(pages: number, protection: number, fd = -1): number {
  const flags = fd === -1 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
  const address = libc.mmap(0n, pages * PAGE, protection, flags, fd, 0);
  if (address === MAP_FAILED) throw new Error('mmap');
  return Number(address);
}

/** Memory with an end: zeros, and behind the last page nothing is mapped. The tests' process ends before it is given back. */
export class Pages {
  /** Where byte 0 stands. */
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;

  constructor(pages: number) {
    this.address = map(pages + 1, PROT_READ | PROT_WRITE);
    libc.munmap(BigInt(this.address + pages * PAGE), PAGE);
    this.view = new DataView(bufferAt(BigInt(this.address), pages * PAGE));
    this.bytes = new Uint8Array(this.view.buffer);
  }

  /** Where the last `count` bytes before the end stand. */
  beforeEnd(count: number): number {
    return this.address + this.bytes.length - count;
  }

  /** Copies bytes to an address in these pages. */
  put(address: number, bytes: Uint8Array): number {
    this.bytes.set(bytes, address - this.address);
    return address;
  }
}

/** Where nothing is mapped. */
export function unmapped(): number {
  return new Pages(1).beforeEnd(0);
}

/** A page that is there, and nobody may touch. */
export function untouchable(): number {
  return map(1, PROT_NONE);
}

/** A page that begins with `bytes`, and nobody may write. */
export function readOnly(bytes: Uint8Array): number {
  const fd = libc.memfdCreate('read-only', 0);
  libc.ftruncate(fd, PAGE);
  libc.pwrite(fd, bytes, bytes.length, 0);
  const address = map(1, PROT_READ, fd);
  libc.close(fd);
  return address;
}
