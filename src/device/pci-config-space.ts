import { VfioError, viewOf } from '../uapi/index.js';
import type { RegionArea } from './device.js';

/*
 * A type 0 PCI configuration space, 256 bytes (PCI Local Bus Specification 3.0, chapter 6).
 *
 * Each byte has a mask of the bits that software may write. BAR sizing falls out of it: a 4 KiB BAR has the mask 0xfffff000, so writing all
 * ones and reading back gives 0xfffff000 | type bits, of which the lowest writable bit is the size.
 */

/** Size of the configuration space in bytes. */
export const CONFIG_SPACE_SIZE = 256;

const COMMAND = 0x04;
const STATUS = 0x06;
const BAR0 = 0x10;
const CAPABILITIES = 0x34;
const INTERRUPT_LINE = 0x3c;
const INTERRUPT_PIN = 0x3d;
const FIRST_CAPABILITY = 0x40;

const COMMAND_MEMORY = 0x2;
const COMMAND_BUS_MASTER = 0x4;
const COMMAND_PARITY = 0x40;
const COMMAND_SERR = 0x100;
const COMMAND_INTX_DISABLE = 0x400;
const STATUS_INTERRUPT = 0x08;
const STATUS_CAPABILITIES = 0x10;

const CAPABILITY_MSIX = 0x11;
const MSIX_ENABLE = 0x8000;
const MSIX_FUNCTION_MASK = 0x4000;

/** Who the device says it is. */
export interface PciIdentity {
  vendorId: number;
  deviceId: number;
  /** 24 bits: base class, subclass, programming interface; 0x010802 is an NVMe controller. */
  classCode: number;
  revision?: number;
  /** Default: the vendor id. */
  subsystemVendorId?: number;
  /** Default: 0. */
  subsystemId?: number;
}

/** A base address register. */
export interface BarSpec {
  /** 0 to 5; a 64-bit one takes the next index too. */
  index: number;
  /** Bytes, a power of two, at least 16; below 2 GiB for a 32-bit one. */
  size: number;
  /** Default: a 32-bit address. */
  wide?: boolean;
  prefetchable?: boolean;
  /**
   * Areas that are memory and not registers, and that a client may map: page-aligned, ascending, apart from each other. The device reaches
   * them by `barMemory`; they are zeros after a reset, and migrate.
   */
  mappable?: readonly RegionArea[];
}

/** Where the MSI-X table and its pending bits are. */
export interface MsixSpec {
  vectors: number;
  bar: number;
  /** Bytes into the BAR, multiple of 8. */
  tableOffset: number;
  /** Bytes into the BAR, multiple of 8. */
  pendingOffset: number;
}

/** The configuration space's bytes, and which of their bits software may write. */
export class PciConfigSpace {
  readonly #bytes = new Uint8Array(CONFIG_SPACE_SIZE);
  readonly #initial: Uint8Array;
  readonly #writable = new Uint8Array(CONFIG_SPACE_SIZE);
  readonly #view = viewOf(this.#bytes);
  readonly #writableView = viewOf(this.#writable);
  #capabilityEnd = FIRST_CAPABILITY;
  #lastCapability = CAPABILITIES;
  #msixControl: number | undefined;

  constructor(identity: PciIdentity, bars: readonly BarSpec[], interruptPin: boolean, msix?: MsixSpec) {
    this.#identify(identity);
    this.#writableView.setUint16(
      COMMAND,
      COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_PARITY | COMMAND_SERR | COMMAND_INTX_DISABLE,
      true,
    );
    for (const bar of bars) this.#addBar(bar);
    this.#bytes[INTERRUPT_PIN] = interruptPin ? 1 : 0;
    this.#writable[INTERRUPT_LINE] = 0xff;
    if (msix !== undefined) this.#addMsix(msix);
    this.#initial = this.#bytes.slice();
  }

  #identify(identity: PciIdentity): void {
    const view = this.#view;
    view.setUint16(0x00, identity.vendorId, true);
    view.setUint16(0x02, identity.deviceId, true);
    view.setUint32(0x08, (identity.classCode << 8) | (identity.revision ?? 0), true);
    view.setUint16(0x2c, identity.subsystemVendorId ?? identity.vendorId, true);
    view.setUint16(0x2e, identity.subsystemId ?? 0, true);
  }

  #addBar({ index, size, wide = false, prefetchable = false }: BarSpec): void {
    const operation = 'PciConfigSpace';
    if (size < 16 || !Number.isInteger(Math.log2(size)) || (!wide && size > 2 ** 31)) {
      throw new VfioError('EINVAL', { operation, field: 'size', message: `BAR ${index} cannot be ${size} bytes` });
    }
    if (index < 0 || index + (wide ? 1 : 0) > 5) {
      throw new VfioError('EINVAL', { operation, field: 'index', message: `there is no BAR ${index}` });
    }
    const offset = BAR0 + 4 * index;
    const mask = 2n ** 64n - BigInt(size);
    this.#view.setUint32(offset, (wide ? 4 : 0) | (prefetchable ? 8 : 0), true);
    this.#writableView.setUint32(offset, Number(mask & 0xffff_fff0n), true);
    if (wide) this.#writableView.setUint32(offset + 4, Number(mask >> 32n), true);
  }

  #addMsix({ vectors, bar, tableOffset, pendingOffset }: MsixSpec): void {
    const capability = this.addCapability(CAPABILITY_MSIX, 12);
    this.#view.setUint16(capability + 2, vectors - 1, true);
    this.#view.setUint32(capability + 4, tableOffset | bar, true);
    this.#view.setUint32(capability + 8, pendingOffset | bar, true);
    this.#writableView.setUint16(capability + 2, MSIX_ENABLE | MSIX_FUNCTION_MASK, true);
    this.#msixControl = capability + 2;
  }

  /** Appends a capability of `size` bytes, head included, to the list; returns its offset. Only while a device is being built. */
  addCapability(id: number, size: number): number {
    const offset = this.#capabilityEnd;
    if (offset + size > CONFIG_SPACE_SIZE) {
      throw new VfioError('ENOSPC', { operation: 'PciConfigSpace', message: 'no room for another capability' });
    }
    this.#bytes[this.#lastCapability] = offset;
    this.#bytes[offset] = id;
    this.#lastCapability = offset + 1;
    this.#capabilityEnd = (offset + size + 3) & ~3;
    this.#view.setUint16(STATUS, this.#view.getUint16(STATUS, true) | STATUS_CAPABILITIES, true);
    return offset;
  }

  /** Reads; the caller has checked the interval. */
  read(offset: number, into: Uint8Array): void {
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  /** Writes the writable bits; the caller has checked the interval. */
  write(offset: number, data: Uint8Array): void {
    for (const [index, value] of data.entries()) {
      const mask = this.#writable[offset + index]!;
      this.#bytes[offset + index] = (this.#bytes[offset + index]! & ~mask) | (value & mask);
    }
  }

  /** The status register's interrupt bit: the device wants INTx, whether it is switched off or not. */
  get interruptStatus(): boolean {
    return (this.#view.getUint16(STATUS, true) & STATUS_INTERRUPT) !== 0;
  }

  set interruptStatus(asserted: boolean) {
    const status = this.#view.getUint16(STATUS, true);
    this.#view.setUint16(STATUS, asserted ? status | STATUS_INTERRUPT : status & ~STATUS_INTERRUPT, true);
  }

  /** Whether the device may start DMA. */
  get busMaster(): boolean {
    return (this.#view.getUint16(COMMAND, true) & COMMAND_BUS_MASTER) !== 0;
  }

  /** Whether INTx is switched off. */
  get intxDisabled(): boolean {
    return (this.#view.getUint16(COMMAND, true) & COMMAND_INTX_DISABLE) !== 0;
  }

  /** Whether MSI-X is switched on. */
  get msixEnabled(): boolean {
    return this.#msixControl !== undefined && (this.#view.getUint16(this.#msixControl, true) & MSIX_ENABLE) !== 0;
  }

  /** As at power-on. */
  reset(): void {
    this.#bytes.set(this.#initial);
  }

  /** The bytes, for a migration. */
  save(): Uint8Array {
    return this.#bytes.slice();
  }

  /**
   * Whether {@link PciConfigSpace.load} would take these bytes: the same size, and the same device in every bit that software cannot write
   * (the interrupt status excepted).
   */
  accepts(saved: Uint8Array): boolean {
    if (saved.length !== CONFIG_SPACE_SIZE) return false;
    return saved.every((value, offset) => {
      const fixed = ~this.#writable[offset]! & (offset === STATUS ? ~STATUS_INTERRUPT : 0xff) & 0xff;
      return (value & fixed) === (this.#initial[offset]! & fixed);
    });
  }

  /** Takes bytes that {@link PciConfigSpace.accepts}. */
  load(saved: Uint8Array): void {
    this.#bytes.set(saved);
  }
}
