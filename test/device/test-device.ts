import { PciDevice, type PciDeviceOptions } from '../../src/device/index.js';
import type { Backing, MaybePromise } from '../../src/memory/index.js';
import { VfioError } from '../../src/uapi/index.js';

/** A device of 256 bytes of registers, with all that it was told to do written down. */
export class TestDevice extends PciDevice {
  readonly registers = new Uint8Array(256);
  readonly calls: string[] = [];
  /** What `onQuiesce` waits for. */
  quiet: MaybePromise<void> = undefined;

  constructor(options: Partial<PciDeviceOptions> = {}) {
    super({
      name: 'test',
      vendorId: 0x1234,
      deviceId: 0x5678,
      classCode: 0xff0000,
      bars: [{ index: 0, size: 256 }],
      ...options,
    });
  }

  protected override readRegister(_bar: number, offset: number, into: Uint8Array): void {
    into.set(this.registers.subarray(offset, offset + into.length));
  }

  protected override writeRegister(_bar: number, offset: number, data: Uint8Array): void {
    this.registers.set(data, offset);
  }

  protected override onReset(): void {
    this.calls.push('reset');
    this.registers.fill(0);
  }

  protected override onRun(): void {
    this.calls.push('run');
  }

  protected override onQuiesce(): MaybePromise<void> {
    this.calls.push('quiesce');
    return this.quiet;
  }

  protected override saveState(): Uint8Array {
    return this.registers.slice();
  }

  protected override loadState(state: Uint8Array): void {
    if (state.length !== 256) throw new VfioError('EINVAL', { operation: 'loadState', message: 'not 256 bytes' });
    this.registers.set(state);
  }

  raise(vector: number): void {
    this.raiseInterrupt(vector);
  }

  clear(): void {
    this.clearInterrupt();
  }
}

/** Memory in a plain array; what happens at each access can be said. */
export class ArrayBacking implements Backing {
  readonly kind = 'message';
  readonly bytes: Uint8Array;
  closed = 0;
  /** Called before the bytes of a write move. */
  beforeWrite: () => MaybePromise<void> = () => undefined;
  /** Called after they moved. */
  afterWrite: () => void = () => {};
  beforeRead: () => MaybePromise<void> = () => undefined;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
  }

  read(offset: number, into: Uint8Array): MaybePromise<void> {
    const move = () => into.set(this.bytes.subarray(offset, offset + into.length));
    const before = this.beforeRead();
    if (before !== undefined) return before.then(move);
    move();
    return undefined;
  }

  write(offset: number, from: Uint8Array): MaybePromise<void> {
    const move = () => {
      this.bytes.set(from, offset);
      this.afterWrite();
    };
    const before = this.beforeWrite();
    if (before !== undefined) return before.then(move);
    move();
    return undefined;
  }

  close(): void {
    this.closed++;
  }
}

/** Maps an array of `size` bytes at IOVA 0. */
export function mapArray(device: PciDevice, size: number): ArrayBacking {
  const backing = new ArrayBacking(size);
  device.dma.map.map({ iova: 0n, length: BigInt(size), readable: true, writable: true }, backing);
  return backing;
}

/** A promise, and what fulfils it. */
export function gate(): { promise: Promise<void>; open: () => void } {
  let open = () => {};
  const promise = new Promise<void>(resolve => {
    open = resolve;
  });
  return { promise, open };
}
