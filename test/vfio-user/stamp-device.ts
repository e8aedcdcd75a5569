import { PciDevice, type PciDeviceOptions } from '../../src/device/index.js';
import { VfioError, viewOf } from '../../src/uapi/index.js';

/** The stamp device's registers, offsets into BAR 0. */
export const Stamp = {
  /** u64: where the next stamp goes. */
  IOVA: 0x00,
  /** u32: bytes of a stamp. */
  LENGTH: 0x08,
  /** u32: the byte that it is made of. */
  VALUE: 0x0c,
  /** u32: a write stamps, raises vector 0, and counts. */
  DOORBELL: 0x10,
  /** u32, read only: stamps so far. */
  COUNT: 0x14,
  /** u32: a write is done when `release()` is called. */
  SLOW: 0x18,
  /** u32: a write throws what is no VfioError: at once for 0, later for anything else. */
  BROKEN: 0x1c,
} as const;

const STATE_SIZE = 0x18;

/** A device that writes guest memory on command. */
export class StampDevice extends PciDevice {
  readonly registers = new Uint8Array(4096);
  readonly #view = viewOf(this.registers);
  readonly #held: (() => void)[] = [];
  /** What happened to the device, in order. */
  readonly events: string[] = [];

  constructor(options: Partial<PciDeviceOptions> = {}) {
    super({
      name: 'stamp',
      vendorId: 0x1b36,
      deviceId: 0x00f0,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 4096 }],
      msix: { vectors: 4, bar: 1 },
      ...options,
    });
  }

  /** How many writes to SLOW are waiting. */
  get held(): number {
    return this.#held.length;
  }

  /** Ends the writes to SLOW. */
  release(): void {
    for (const resolve of this.#held.splice(0)) resolve();
  }

  override disconnect(): void {
    this.events.push('disconnect');
    super.disconnect();
  }

  protected override readRegister(_bar: number, offset: number, into: Uint8Array): void {
    into.set(this.registers.subarray(offset, offset + into.length));
  }

  protected override writeRegister(_bar: number, offset: number, data: Uint8Array): void | Promise<void> {
    if (offset === Stamp.SLOW) return this.#hold();
    if (offset === Stamp.BROKEN) return this.#break(data[0] ?? 0);
    if (offset !== Stamp.COUNT) this.registers.set(data, offset);
    if (offset === Stamp.DOORBELL) return this.#stamp();
  }

  async #hold(): Promise<void> {
    this.events.push('slow begins');
    await new Promise<void>(resolve => this.#held.push(resolve));
    this.events.push('slow ends');
  }

  #break(how: number): Promise<void> {
    const error = new TypeError('the author made a mistake');
    if (how === 0) throw error;
    return Promise.reject(error);
  }

  async #stamp(): Promise<void> {
    const length = this.#view.getUint32(Stamp.LENGTH, true);
    if (length > 1 << 20) throw new VfioError('EINVAL', { operation: 'stamp', field: 'length' });
    const bytes = new Uint8Array(length).fill(this.#view.getUint32(Stamp.VALUE, true));
    await this.dma.write(this.#view.getBigUint64(Stamp.IOVA, true), bytes);
    this.#view.setUint32(Stamp.COUNT, this.#view.getUint32(Stamp.COUNT, true) + 1, true);
    this.raiseInterrupt(0);
  }

  protected override onReset(): void {
    this.registers.fill(0);
  }

  protected override saveState(): Uint8Array {
    return this.registers.slice(0, STATE_SIZE);
  }

  protected override loadState(state: Uint8Array): void {
    if (state.length !== STATE_SIZE) throw new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE' });
    this.registers.set(state);
  }
}

/** Bytes of the registers IOVA to VALUE: what a stamp needs. */
export function stampSettings(iova: bigint, length: number, value: number): Uint8Array {
  const bytes = new Uint8Array(16);
  viewOf(bytes).setBigUint64(0, iova, true);
  viewOf(bytes).setUint32(8, length, true);
  viewOf(bytes).setUint32(12, value, true);
  return bytes;
}
