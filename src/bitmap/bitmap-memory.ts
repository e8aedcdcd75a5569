import { VfioError } from '../uapi/index.js';
import { instantiateKernels, type Kernels } from './kernels.js';

/** WebAssembly memory comes in pages of this size, bytes. */
export const WASM_PAGE = 65536;

/** Most that one WebAssembly memory holds, bytes: the bits of 128 TiB of guest at 4 KiB, or of 64 TiB in two generations. */
export const WASM_MEMORY_LIMIT = 2 ** 32;

/** Room for the numbers that a kernel hands out at a time, some 256 fewer: see {@link BitmapMemory.numbers}. */
export const NUMBERS = 1280;

/** What lies below is nobody's: address 0 is no bitmap, and the compiler may put constants there. */
const NUMBERS_AT = 1024;
const RESERVED = NUMBERS_AT + (NUMBERS + 2) * 4;

/** The memories that this thread made, by their buffers. */
const made = new WeakMap<ArrayBufferLike, BitmapMemory>();

/**
 * Memory in which the kernels work: a shared WebAssembly memory, handed out piece by piece and never taken back before the
 * whole is dropped. It has its full size from the start, because growing would leave views behind that are too short; the
 * operating system backs only what is touched.
 */
export class BitmapMemory {
  /** The memory: another thread that gets it by `postMessage` sees the same bytes. */
  readonly memory: WebAssembly.Memory;
  /** The kernels over it; one instance for each `BitmapMemory`. */
  readonly kernels: Kernels;
  /**
   * Where a kernel puts up to {@link NUMBERS} numbers for its caller, who takes them at once; room for two more. The thread that made
   * the memory may use it.
   */
  readonly numbers: Int32Array;
  #used: number;

  private constructor(memory: WebAssembly.Memory, used: number) {
    this.memory = memory;
    this.kernels = instantiateKernels(memory);
    this.numbers = new Int32Array(memory.buffer, NUMBERS_AT, NUMBERS + 2);
    this.#used = used;
  }

  /** The memory made by this thread in whose kernels' reach a bitmap lies; undefined when it lies elsewhere. */
  static of(bitmap: Uint32Array): BitmapMemory | undefined {
    const memory = made.get(bitmap.buffer);
    return memory?.holds(bitmap) ? memory : undefined;
  }

  /**
   * Memory for pieces of `bytes` in all, each rounded up to its alignment; zeros.
   * @throws VfioError ENOMEM beyond {@link WASM_MEMORY_LIMIT}, or when the engine has no room.
   */
  static create(bytes: number, operation = 'BitmapMemory.create'): BitmapMemory {
    const needed = bytes + RESERVED;
    if (!(needed <= WASM_MEMORY_LIMIT)) {
      const message = `${needed} bytes are more than one WebAssembly memory holds, 4 GiB: the bits of 128 TiB at 4 KiB`;
      throw new VfioError('ENOMEM', { operation, message });
    }
    const pages = Math.ceil(needed / WASM_PAGE);
    try {
      const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
      const created = new BitmapMemory(memory, RESERVED);
      made.set(memory.buffer, created);
      return created;
    } catch (cause) {
      throw new VfioError('ENOMEM', { operation, message: `the engine has no room for ${needed} bytes`, cause });
    }
  }

  /** The same memory in another thread. Nothing can be allocated there. */
  static attach(memory: WebAssembly.Memory): BitmapMemory {
    return new BitmapMemory(memory, memory.buffer.byteLength);
  }

  /** Bytes that are left. */
  get free(): number {
    return this.memory.buffer.byteLength - this.#used;
  }

  /**
   * The address of `bytes` zeros that are the caller's.
   * @param align a power of two.
   * @throws VfioError ENOMEM
   */
  allocate(bytes: number, align = 64): number {
    const start = Math.ceil(this.#used / align) * align;
    if (start + bytes > this.memory.buffer.byteLength) {
      const message = `${bytes} bytes asked for, ${this.free} left`;
      throw new VfioError('ENOMEM', { operation: 'BitmapMemory.allocate', message });
    }
    this.#used = start + bytes;
    return start;
  }

  /** A bitmap of at least `bits` bits, all 0, that the kernels reach. @throws VfioError ENOMEM */
  createBitmap(bits: number): Uint32Array {
    const words = Math.ceil(bits / 64) * 2;
    return new Uint32Array(this.memory.buffer, this.allocate(words * 4), words);
  }

  /** Whether the kernels reach a bitmap: it lies in this memory, on borders of 8 bytes. */
  holds(bitmap: Uint32Array): boolean {
    return bitmap.buffer === this.memory.buffer && ((bitmap.byteOffset | bitmap.byteLength) & 7) === 0;
  }
}
