import { IrqFlag, PCI_NUM_IRQS, PciIrq, VfioError } from '../uapi/index.js';

/** Where an interrupt goes: an eventfd over vfio-user, a callback in-process. */
export interface IrqTrigger {
  /** Delivers one interrupt. Never throws. */
  signal(): void;
  /** Lets go of what is behind. Called once. */
  close(): void;
}

/** One IRQ type as GET_IRQ_INFO tells it. */
export interface IrqInfo {
  /** {@link IrqFlag} bits. */
  flags: number;
  /** Number of vectors. */
  count: number;
}

const NO_BITS = new Uint8Array(0);

interface Vector {
  trigger: IrqTrigger | undefined;
  masked: boolean;
  /** INTx: asserted. Messages: raised while there was no trigger. */
  pending: boolean;
}

/**
 * The interrupts of a PCI device: INTx as a level, MSI and MSI-X as messages (linux/vfio.h, VFIO_DEVICE_SET_IRQS).
 *
 * INTx is automasked: delivering it masks it, and unmasking delivers it again while the level is still asserted. That is how a VMM learns
 * of a level by an eventfd, which only knows edges.
 */
export class Interrupts {
  readonly #vectors: Vector[][];

  /** @param counts how many vectors each type has, by IRQ type; types left out have none. */
  constructor(counts: Partial<Record<number, number>>) {
    this.#vectors = Array.from({ length: PCI_NUM_IRQS }, (_, type) =>
      Array.from({ length: counts[type] ?? 0 }, () => ({ trigger: undefined, masked: false, pending: false })),
    );
  }

  /** What GET_IRQ_INFO answers. @throws VfioError EINVAL for a type that does not exist. */
  info(type: number): IrqInfo {
    const count = this.#type(type, 'GET_IRQ_INFO').length;
    if (type === PciIrq.INTX) {
      return { count, flags: IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED };
    }
    return { count, flags: IrqFlag.EVENTFD | IrqFlag.NORESIZE };
  }

  /**
   * Checks a SET_IRQS interval before anything is taken from the request.
   * @throws VfioError EINVAL
   */
  check(type: number, start: number, count: number): void {
    const vectors = this.#type(type, 'SET_IRQS');
    if (start + count > vectors.length) {
      throw new VfioError('EINVAL', {
        operation: 'SET_IRQS',
        field: start > vectors.length ? 'start' : 'count',
        message: `vectors ${start} to ${start + count} of ${vectors.length}`,
      });
    }
  }

  /** Gives vectors `start`… their triggers; `undefined` takes one away. Replaced triggers are closed. @throws VfioError EINVAL */
  setTriggers(type: number, start: number, triggers: readonly (IrqTrigger | undefined)[]): void {
    this.check(type, start, triggers.length);
    for (const [index, trigger] of triggers.entries()) {
      const vector = this.#vectors[type]![start + index]!;
      vector.trigger?.close();
      vector.trigger = trigger;
      vector.masked = false;
      this.#deliver(type, vector);
    }
  }

  /** Takes all triggers of a type away (SET_IRQS with count 0). @throws VfioError EINVAL */
  disable(type: number): void {
    const vectors = this.#type(type, 'SET_IRQS');
    this.setTriggers(
      type,
      0,
      vectors.map(() => undefined),
    );
  }

  /** Takes all triggers of all types away, as when the client goes. */
  disconnect(): void {
    for (let type = 0; type < PCI_NUM_IRQS; type++) this.disable(type);
  }

  /** Masks vectors. Only INTx can be masked. @throws VfioError EINVAL */
  mask(type: number, start: number, count: number): void {
    for (const vector of this.#maskable(type, start, count)) vector.masked = true;
  }

  /** Unmasks vectors, and delivers what is pending. @throws VfioError EINVAL */
  unmask(type: number, start: number, count: number): void {
    for (const vector of this.#maskable(type, start, count)) {
      vector.masked = false;
      this.#deliver(type, vector);
    }
  }

  /** Delivers a vector as if the device had raised it (SET_IRQS with ACTION_TRIGGER and no eventfd). @throws VfioError EINVAL */
  trigger(type: number, start: number, count: number): void {
    this.check(type, start, count);
    for (const vector of this.#vectors[type]!.slice(start, start + count)) vector.trigger?.signal();
  }

  /** Whether a type has a trigger on any vector, that is, whether the driver uses it. */
  isEnabled(type: number): boolean {
    return this.#vectors[type]?.some(vector => vector.trigger !== undefined) ?? false;
  }

  /** Raises a message interrupt; without a trigger nothing happens, as a masked vector in hardware that is never unmasked. */
  raise(type: number, index: number): void {
    this.#vectors[type]?.[index]?.trigger?.signal();
  }

  /** Raises a message interrupt; without a trigger it is kept until there is one. */
  raiseOrKeep(type: number, index: number): void {
    const vector = this.#vectors[type]?.[index];
    if (vector === undefined) return;
    vector.pending = true;
    this.#deliver(type, vector);
  }

  /** The vectors that are kept, a bit each, in whole u64s: the form of MSI-X's pending bit array. */
  pending(type: number): Uint8Array {
    const vectors = this.#vectors[type] ?? [];
    const bits = new Uint8Array(Math.ceil(vectors.length / 64) * 8);
    for (const [index, vector] of vectors.entries()) {
      if (vector.pending) bits[index >>> 3]! |= 1 << (index & 7);
    }
    return bits;
  }

  /** Keeps the vectors of {@link Interrupts.pending} and no others, and delivers none. */
  keep(type: number, bits: Uint8Array): void {
    for (const [index, vector] of (this.#vectors[type] ?? []).entries()) {
      vector.pending = ((bits[index >>> 3] ?? 0) & (1 << (index & 7))) !== 0;
    }
  }

  /** Delivers the vectors that are kept and have a trigger. */
  deliverKept(type: number): void {
    for (const vector of this.#vectors[type] ?? []) this.#deliver(type, vector);
  }

  /** Forgets the messages that are kept: a reset. */
  clearPending(): void {
    this.keep(PciIrq.MSI, NO_BITS);
    this.keep(PciIrq.MSIX, NO_BITS);
  }

  /** Sets INTx's level. */
  setIntxLevel(asserted: boolean): void {
    const vector = this.#vectors[PciIrq.INTX]![0];
    if (vector === undefined || vector.pending === asserted) return;
    vector.pending = asserted;
    this.#deliver(PciIrq.INTX, vector);
  }

  /** INTx's level. */
  get intxLevel(): boolean {
    return this.#vectors[PciIrq.INTX]![0]?.pending ?? false;
  }

  #deliver(type: number, vector: Vector): void {
    if (!vector.pending || vector.masked || vector.trigger === undefined) return;
    // A level stays, and is masked until the host has seen it; a message is gone with its delivery.
    if (type === PciIrq.INTX) vector.masked = true;
    else vector.pending = false;
    vector.trigger.signal();
  }

  #type(type: number, operation: string): Vector[] {
    const vectors = this.#vectors[type];
    if (vectors === undefined) {
      throw new VfioError('EINVAL', { operation, field: 'index', message: `IRQ type ${type} does not exist` });
    }
    return vectors;
  }

  #maskable(type: number, start: number, count: number): Vector[] {
    this.check(type, start, count);
    if (type !== PciIrq.INTX) {
      throw new VfioError('EINVAL', { operation: 'SET_IRQS', field: 'index', message: 'only INTx can be masked' });
    }
    return this.#vectors[type]!.slice(start, start + count);
  }
}
