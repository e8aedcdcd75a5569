import { viewOf } from '../../uapi/index.js';
import {
  DMA_ENGINE_BAR_SIZE,
  DMA_ENGINE_MAGIC,
  DMA_ENGINE_VERSION,
  DmaEngineRegister,
  EXPONENT_ONE,
  NO_PAGE,
} from './registers.js';

/** The BAR's bytes, with typed access to its registers. */
export class RegisterBlock {
  readonly bytes = new Uint8Array(DMA_ENGINE_BAR_SIZE);
  readonly #view = viewOf(this.bytes);

  constructor() {
    this.reset();
  }

  /** As at power-on. */
  reset(): void {
    this.bytes.fill(0);
    this.setU32(DmaEngineRegister.MAGIC, DMA_ENGINE_MAGIC);
    this.setU32(DmaEngineRegister.VERSION, DMA_ENGINE_VERSION);
    this.setU32(DmaEngineRegister.WORKLOAD_PAGE_SIZE, 4096);
    this.setU32(DmaEngineRegister.WORKLOAD_EXPONENT, EXPONENT_ONE);
    this.setU32(DmaEngineRegister.WORKLOAD_RINGS, 4);
    this.setU32(DmaEngineRegister.WORKLOAD_BURST, 32);
    this.setU32(DmaEngineRegister.CHECK_INTERVAL, 1);
    this.setU32(DmaEngineRegister.FIRST_BAD_PAGE, NO_PAGE);
    this.setU32(DmaEngineRegister.VERIFY_FIRST_BAD, NO_PAGE);
  }

  u32(register: number): number {
    return this.#view.getUint32(register, true);
  }

  setU32(register: number, value: number): void {
    this.#view.setUint32(register, value, true);
  }

  u64(register: number): bigint {
    return this.#view.getBigUint64(register, true);
  }

  setU64(register: number, value: bigint): void {
    this.#view.setBigUint64(register, value, true);
  }

  /** A 64-bit register that counts; exact below 2^53. */
  count(register: number): number {
    return this.u32(register) + this.u32(register + 4) * 2 ** 32;
  }

  setCount(register: number, value: number): void {
    this.setU32(register, value % 2 ** 32);
    this.setU32(register + 4, Math.floor(value / 2 ** 32));
  }
}
