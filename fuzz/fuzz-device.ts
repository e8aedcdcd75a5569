import { PciDevice, type PciDeviceOptions } from '../src/device/index.js';
import { VfioError, viewOf } from '../src/uapi/index.js';

/** Offsets in BAR 0: a write of a register in capitals from WRITE on does something. */
export const Register = {
  /** u64: where DMA goes. */
  IOVA: 0x00,
  /** u32: its bytes; at most 64 KiB. */
  LENGTH: 0x08,
  /** Writes guest memory. */
  WRITE: 0x10,
  /** Reads guest memory. */
  READ: 0x14,
  /** Takes two turns of the event loop. */
  SLOW: 0x18,
  /** Fails as an author's mistake does. */
  BROKEN: 0x1c,
  /** Raises vector 0, or INTx. */
  INTERRUPT: 0x20,
} as const;

/** What BROKEN throws: the only error a run may tell the server's owner. */
export class AuthorsMistake extends TypeError {}

/** A device with everything that a client can reach: DMA both ways, interrupts, slow and broken registers, a state. */
export class FuzzDevice extends PciDevice {
  readonly #registers = new Uint8Array(4096);
  readonly #view = viewOf(this.#registers);

  constructor(options: Partial<PciDeviceOptions> = {}) {
    super({
      name: 'fuzz',
      vendorId: 0x1b36,
      deviceId: 0x00f2,
      classCode: 0xff0000,
      bars: [
        { index: 0, size: 4096 },
        { index: 2, size: 0x4000, mappable: [{ offset: 0x1000, size: 0x2000 }] },
      ],
      ioEventFds: [{ bar: 0, offset: Register.INTERRUPT, size: 4 }],
      msix: { vectors: 4, bar: 1 },
      ...options,
    });
  }

  protected override readRegister(_bar: number, offset: number, into: Uint8Array): void {
    into.set(this.#registers.subarray(offset, offset + into.length));
  }

  protected override writeRegister(bar: number, offset: number, data: Uint8Array): void | Promise<void> {
    if (bar !== 0) return undefined;
    this.#registers.set(data, offset);
    switch (offset) {
      case Register.WRITE:
        return this.#transfer(bytes => this.dma.write(this.#iova, bytes.fill(data[0] ?? 0)));
      case Register.READ:
        return this.#transfer(bytes => this.dma.read(this.#iova, bytes));
      case Register.SLOW:
        return twoTurns();
      case Register.BROKEN:
        if (data[0] === 0) throw new AuthorsMistake();
        return Promise.reject(new AuthorsMistake());
      case Register.INTERRUPT:
        this.raiseInterrupt(0);
    }
    return undefined;
  }

  get #iova(): bigint {
    return this.#view.getBigUint64(Register.IOVA, true);
  }

  #transfer(move: (bytes: Uint8Array) => void | Promise<void>): void | Promise<void> {
    const length = this.#view.getUint32(Register.LENGTH, true);
    if (length > 65536) throw new VfioError('EINVAL', { operation: 'fuzz', field: 'length' });
    return move(new Uint8Array(length));
  }

  protected override onIoEvent(): void {
    this.raiseInterrupt(0);
  }

  protected override onReset(): void {
    this.#registers.fill(0);
  }

  protected override saveState(): Uint8Array {
    return this.#registers.slice(0, 16);
  }

  protected override loadState(state: Uint8Array): void {
    if (state.length !== 16) throw new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE' });
    this.#registers.set(state);
  }
}

async function twoTurns(): Promise<void> {
  for (let turn = 0; turn < 2; turn++) await new Promise(resolve => setImmediate(resolve));
}
