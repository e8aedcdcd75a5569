import { LocalDevice } from '../../../src/device/index.js';
import {
  type Disk,
  MemoryDisk,
  NVME_DOORBELLS,
  NvmeController,
  type NvmeOptions,
  NvmeRegister,
  statusName,
} from '../../../src/devices/nvme/index.js';
import { GuestMemory, MappedBacking } from '../../../src/memory/index.js';
import { PciIrq, PciRegion, viewOf } from '../../../src/uapi/index.js';
import { LateBacking } from '../engine-host.js';

/** A command as a driver gives it; what is left out is 0. */
export interface TestCommand {
  opcode: number;
  flags?: number;
  namespaceId?: number;
  prp1?: number | bigint;
  prp2?: number | bigint;
  /** Dwords 10 to 15. */
  dwords?: readonly number[];
}

/** A completion queue entry taken apart. */
export interface TestCompletion {
  status: string;
  doNotRetry: boolean;
  more: boolean;
  result: number;
  submissionHead: number;
  submissionId: number;
  commandId: number;
}

/** The bytes of a guest, however the device reaches them. */
export interface TestMemory {
  read(address: number, length: number): Uint8Array;
  write(address: number, bytes: Uint8Array): void;
}

interface Ring {
  base: number;
  size: number;
}

interface CompletionRing extends Ring {
  head: number;
  phase: number;
}

interface SubmissionRing extends Ring {
  tail: number;
  completions: number;
}

/** Size of the guest's memory, at IOVA 0, bytes. */
export const MEMORY_SIZE = 16 * 2 ** 20;
/** What the driver takes for its queues; the rest is the tests'. */
const QUEUE_AREA = 0x10_0000;
/** Where the tests' own memory begins. */
export const FREE_AREA = 0x20_0000;

/** Options of a host. */
export interface NvmeHostOptions extends Partial<NvmeOptions> {
  /** Memory that answers late, as memory behind messages does. */
  late?: boolean;
  /** Entries of the admin queues. */
  adminEntries?: number;
  /** Of the admin completion queue, where it has fewer. */
  adminCompletionEntries?: number;
  /** A host whose memory this one has, too. */
  guestOf?: NvmeHost;
}

/** A naive NVMe driver, for one controller in this process. It consumes completions as their interrupts come, unless told not to. */
export class NvmeHost {
  readonly controller: NvmeController;
  readonly device: LocalDevice;
  readonly disk: Disk;
  readonly memory: TestMemory;
  readonly late: LateBacking | undefined;
  readonly guest: GuestMemory | undefined;
  /** Completions in the order in which they were consumed. */
  readonly completions: TestCompletion[] = [];
  /** Interrupts so far, by vector. */
  readonly interrupts: number[] = [];
  /** While false, completions stay in their queues. */
  consumes = true;
  readonly #adminEntries: number;
  readonly #adminCompletionEntries: number;
  readonly #close: () => void;
  readonly #completionRings = new Map<number, CompletionRing>();
  readonly #submissionRings = new Map<number, SubmissionRing>();
  readonly #pending = new Map<string, (completion: TestCompletion) => void>();
  #nextCommandId = 1;
  #nextQueueAddress = QUEUE_AREA;

  constructor({
    late = false,
    adminEntries = 32,
    adminCompletionEntries = adminEntries,
    guestOf,
    ...options
  }: NvmeHostOptions = {}) {
    this.disk = options.disk ?? new MemoryDisk(2 ** 20);
    this.controller = new NvmeController({ ...options, disk: this.disk });
    this.device = new LocalDevice(this.controller);
    this.#adminEntries = adminEntries;
    this.#adminCompletionEntries = adminCompletionEntries;
    const whole = { iova: 0n, length: BigInt(MEMORY_SIZE), readable: true, writable: true };
    if (late) {
      const backing = new LateBacking(MEMORY_SIZE);
      this.late = backing;
      this.memory = {
        read: (address, length) => backing.bytes.slice(address, address + length),
        write: (address, bytes) => backing.bytes.set(bytes, address),
      };
      this.controller.dma.map.map(whole, backing);
      this.#close = () => {};
    } else {
      const memory = guestOf?.guest ?? GuestMemory.create(MEMORY_SIZE);
      this.guest = memory;
      this.memory = memoryOf(memory);
      const rights = { read: true, write: true };
      this.controller.dma.map.map(whole, new MappedBacking(memory.duplicateFd(), 0n, whole.length, rights));
      this.#close = () => {
        if (guestOf === undefined) memory.close();
      };
    }
    this.takeInterrupts();
    this.setBusMaster(true);
  }

  /** Points all vectors here. */
  takeInterrupts(): void {
    const { count } = this.controller.interrupts.info(PciIrq.MSIX);
    const triggers = Array.from({ length: count }, (_, vector) => ({
      signal: () => {
        this.interrupts[vector] = (this.interrupts[vector] ?? 0) + 1;
        if (this.consumes) this.consumeAll();
      },
      close: () => {},
    }));
    this.controller.interrupts.setTriggers(PciIrq.MSIX, 0, triggers);
  }

  setBusMaster(enabled: boolean): void {
    void this.controller.regionWrite(PciRegion.CONFIG, 4, Uint8Array.of(enabled ? 6 : 2, 0));
  }

  read32(register: number): number {
    const bytes = new Uint8Array(4);
    void this.controller.regionRead(PciRegion.BAR0, register, bytes);
    return viewOf(bytes).getUint32(0, true);
  }

  write32(register: number, value: number): void {
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, value, true);
    void this.controller.regionWrite(PciRegion.BAR0, register, bytes);
  }

  write64(register: number, value: number | bigint): void {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setBigUint64(0, BigInt(value), true);
    void this.controller.regionWrite(PciRegion.BAR0, register, bytes);
  }

  /** Sets the admin queues up and enables the controller; `pageExponent` is CC.MPS. */
  enable(pageExponent = 0): void {
    this.#completionRings.clear();
    this.#submissionRings.clear();
    this.#nextQueueAddress = QUEUE_AREA;
    const submission = { base: this.#queueAddress(), size: this.#adminEntries, tail: 0, completions: 0 };
    const completion = { base: this.#queueAddress(), size: this.#adminCompletionEntries, head: 0, phase: 1 };
    this.memory.write(QUEUE_AREA, new Uint8Array(FREE_AREA - QUEUE_AREA));
    this.#submissionRings.set(0, submission);
    this.#completionRings.set(0, completion);
    this.write32(NvmeRegister.AQA, ((this.#adminCompletionEntries - 1) << 16) | (this.#adminEntries - 1));
    this.write64(NvmeRegister.ASQ, submission.base);
    this.write64(NvmeRegister.ACQ, completion.base);
    this.write32(NvmeRegister.CC, 0x0046_0001 | (pageExponent << 7));
  }

  /** 64 KiB for a queue, aligned for every page size. */
  #queueAddress(): number {
    const address = this.#nextQueueAddress;
    this.#nextQueueAddress += 0x1_0000;
    if (address >= FREE_AREA) throw new Error('no room for another queue');
    return address;
  }

  /** Enables, and makes `count` pairs of I/O queues of `entries`; queue n has vector n. */
  async start(count = 1, entries = 16): Promise<void> {
    this.enable();
    for (let id = 1; id <= count; id++) await this.createQueues(id, entries);
  }

  async createQueues(id: number, entries: number): Promise<void> {
    await this.createCompletionQueue(id, entries);
    await this.createSubmissionQueue(id, entries, id);
  }

  async createCompletionQueue(id: number, entries: number, flags = 3, vector = id): Promise<void> {
    const base = this.#queueAddress();
    const dwords = [((entries - 1) << 16) | id, (vector << 16) | flags];
    requireSuccess(await this.admin({ opcode: 0x05, prp1: base, dwords }));
    this.#completionRings.set(id, { base, size: entries, head: 0, phase: 1 });
  }

  async createSubmissionQueue(id: number, entries: number, completions: number): Promise<void> {
    const base = this.#queueAddress();
    requireSuccess(
      await this.admin({ opcode: 0x01, prp1: base, dwords: [((entries - 1) << 16) | id, (completions << 16) | 1] }),
    );
    this.#submissionRings.set(id, { base, size: entries, tail: 0, completions });
  }

  admin(command: TestCommand): Promise<TestCompletion> {
    return this.submit(0, command);
  }

  /** Gives a command to a queue and rings its doorbell. */
  submit(queueId: number, command: TestCommand): Promise<TestCompletion> {
    const { done } = this.put(queueId, command);
    this.ring(queueId);
    return done;
  }

  /** Puts a command into a queue without ringing. */
  put(queueId: number, command: TestCommand): { commandId: number; done: Promise<TestCompletion> } {
    const ring = this.#submissionRings.get(queueId)!;
    const commandId = this.#nextCommandId++ & 0xffff;
    this.memory.write(ring.base + ring.tail * 64, encodeCommand(command, commandId));
    ring.tail = (ring.tail + 1) % ring.size;
    const done = new Promise<TestCompletion>(resolve => this.#pending.set(`${queueId}:${commandId}`, resolve));
    return { commandId, done };
  }

  /** Rings a submission queue's doorbell. */
  ring(queueId: number): void {
    this.write32(submissionDoorbell(queueId), this.#submissionRings.get(queueId)!.tail);
  }

  /** Takes all completions that are there, and says so to the controller. */
  consumeAll(): void {
    for (const [id, ring] of this.#completionRings) {
      if (this.#consume(ring) > 0) this.write32(completionDoorbell(id), ring.head);
    }
  }

  #consume(ring: CompletionRing): number {
    for (let count = 0; ; count++) {
      const view = viewOf(this.memory.read(ring.base + ring.head * 16, 16));
      if ((view.getUint16(14, true) & 1) !== ring.phase) return count;
      ring.head = (ring.head + 1) % ring.size;
      if (ring.head === 0) ring.phase ^= 1;
      const completion = decodeCompletion(view);
      this.completions.push(completion);
      const key = `${completion.submissionId}:${completion.commandId}`;
      const resolve = this.#pending.get(key);
      if (resolve === undefined) throw new Error(`completion of no command: ${JSON.stringify(completion)}`);
      this.#pending.delete(key);
      resolve(completion);
    }
  }

  /** Commands that have not completed. */
  get outstanding(): number {
    return this.#pending.size;
  }

  /** The queues as they are, for a driver of the same guest on another controller. */
  adopt(other: NvmeHost): void {
    for (const [id, ring] of other.#completionRings) this.#completionRings.set(id, ring);
    for (const [id, ring] of other.#submissionRings) this.#submissionRings.set(id, ring);
    for (const [key, resolve] of other.#pending) this.#pending.set(key, resolve);
    this.#nextCommandId = other.#nextCommandId;
    this.#nextQueueAddress = other.#nextQueueAddress;
  }

  async close(): Promise<void> {
    this.controller.holdQueues();
    await this.device.close();
    await this.disk.close();
    this.#close();
  }
}

function memoryOf(memory: GuestMemory): TestMemory {
  return {
    read: (address, length) => {
      const bytes = new Uint8Array(length);
      memory.read(address, bytes);
      return bytes;
    },
    write: (address, bytes) => memory.write(address, bytes),
  };
}

export function submissionDoorbell(id: number): number {
  return NVME_DOORBELLS + 8 * id;
}

export function completionDoorbell(id: number): number {
  return NVME_DOORBELLS + 8 * id + 4;
}

function encodeCommand(command: TestCommand, commandId: number): Uint8Array {
  const { opcode, flags = 0, namespaceId = 0, prp1 = 0, prp2 = 0, dwords = [] } = command;
  const entry = new Uint8Array(64);
  const view = viewOf(entry);
  entry[0] = opcode;
  entry[1] = flags;
  view.setUint16(2, commandId, true);
  view.setUint32(4, namespaceId, true);
  view.setBigUint64(24, BigInt(prp1), true);
  view.setBigUint64(32, BigInt(prp2), true);
  for (const [index, value] of dwords.entries()) view.setUint32(40 + 4 * index, value, true);
  return entry;
}

function decodeCompletion(view: DataView): TestCompletion {
  const field = view.getUint16(14, true) >>> 1;
  return {
    status: statusName(field & 0x7ff),
    doNotRetry: (field & 0x4000) !== 0,
    more: (field & 0x2000) !== 0,
    result: view.getUint32(0, true),
    submissionHead: view.getUint16(8, true),
    submissionId: view.getUint16(10, true),
    commandId: view.getUint16(12, true),
  };
}

export function requireSuccess(completion: TestCompletion): TestCompletion {
  if (completion.status !== 'SUCCESS') throw new Error(JSON.stringify(completion));
  return completion;
}

/** One turn of the event loop, which is what the controller works in. */
export function turn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve));
}

/** Turns until `holds`. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await turn();
}
