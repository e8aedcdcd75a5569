import { PciDevice } from '../../device/index.js';
import type { DmaLogOptions } from '../../log/index.js';
import type { MaybePromise } from '../../memory/index.js';
import { VfioError, viewOf } from '../../uapi/index.js';
import { AdminCommands, type Outcome } from './admin-commands.js';
import { type AsyncEvent, AsyncEvents, NvmeEvent } from './async-events.js';
import { CommandProcessor } from './command-processor.js';
import { type ControllerParts, decodeState, encodeState, stateSize } from './controller-state.js';
import type { Disk } from './disk.js';
import { ErrorLog } from './error-log.js';
import { Features } from './features.js';
import { HostMemory } from './host-memory.js';
import { NVME_VENDOR_ID } from './identify.js';
import { randomSerial, requireName } from './identity.js';
import { LogPages } from './log-pages.js';
import { Namespace } from './namespace.js';
import { NvmCommands } from './nvm-commands.js';
import { CompletionQueue, QueueSet, SubmissionQueue } from './queues.js';
import { NvmeRegisterBlock } from './register-block.js';
import { ControllerStatus, NVME_DOORBELLS, NvmeRegister, REGISTERS_SIZE } from './registers.js';
import type { Request } from './request.js';
import { type NvmeStatistics, noStatistics } from './statistics.js';
import { NvmeStatus } from './status.js';

/** PCI device id; not registered. */
export const NVME_DEVICE_ID = 0xd3a1;
/** PCI class: mass storage, non-volatile memory, NVM Express. */
export const NVME_CLASS_CODE = 0x010802;
/** The BAR of the registers and doorbells. */
export const NVME_BAR = 0;
/** The BAR of the MSI-X table. */
export const NVME_MSIX_BAR = 4;
/** I/O queue pairs unless told otherwise. */
export const DEFAULT_QUEUES = 4;
/** Most I/O queue pairs. */
export const MAX_QUEUES = 128;

const SMALLEST_BAR = 16 * 1024;
const DOORBELL_SIZE = 4;

/** What may differ from one controller to another. */
export interface NvmeOptions {
  /** What the namespace stores its blocks on. Its owner closes it, after the controller has gone. */
  disk: Disk;
  /** I/O queue pairs, 1 to {@link MAX_QUEUES}; default {@link DEFAULT_QUEUES}. Each has an interrupt vector; the admin queues have another. */
  queues?: number;
  /** Bytes of a logical block: 512 (default), or 1024, 2048, 4096. The disk's size is a multiple of it. */
  blockSize?: number;
  /** 1 to 20 printable ASCII characters; default: one that nobody else has. A migration brings the source's along. */
  serial?: string;
  /** Model number, 1 to 40 printable ASCII characters. Default `'dmalog NVMe'`. */
  model?: string;
  /** What messages and logs call it. Default `'nvme'`. */
  name?: string;
  /** What its log can do; `false`: no DMA logging. */
  log?: DmaLogOptions | false;
  /** MIGRATION flags; default all three; 0: it cannot migrate. */
  migrationFlags?: number;
  /** Most DMA maps a client may make. */
  maxDmaMaps?: number;
}

/**
 * An NVMe 1.4 controller with one namespace on a {@link Disk}: what reads of the disk put into guest memory goes through its DMA port, and is
 * logged there, as are its completions.
 */
export class NvmeController extends PciDevice {
  readonly #registers = new NvmeRegisterBlock();
  readonly #statistics = noStatistics();
  readonly #host = new HostMemory(this.dma);
  readonly #events = new AsyncEvents();
  readonly #errors = new ErrorLog();
  readonly #namespace: Namespace;
  readonly #queues: QueueSet;
  readonly #features: Features;
  readonly #admin: AdminCommands;
  readonly #nvm: NvmCommands;
  readonly #processor: CommandProcessor;
  readonly #vectors: number;
  #serial: string;
  /** Resets under way. */
  #resets = 0;
  /** Disabling or shutting down, while that waits for something. Never rejects. */
  #transition: Promise<void> | undefined;

  /** @throws VfioError EINVAL for options out of their limits */
  constructor(options: NvmeOptions) {
    const { disk, queues = DEFAULT_QUEUES, blockSize = 512, serial = randomSerial(), model = 'dmalog NVMe' } = options;
    requireOptions(disk, queues, blockSize);
    requireName('serial', serial);
    requireName('model', model);
    const vectors = queues + 1;
    super({
      name: 'nvme',
      ...options,
      vendorId: NVME_VENDOR_ID,
      deviceId: NVME_DEVICE_ID,
      classCode: NVME_CLASS_CODE,
      bars: [{ index: NVME_BAR, size: barSize(queues), wide: true }],
      msix: { vectors, bar: NVME_MSIX_BAR },
    });
    const namespace = new Namespace(disk, blockSize);
    this.#namespace = namespace;
    this.#serial = serial;
    this.#vectors = vectors;
    this.#queues = new QueueSet(queues);
    this.#features = new Features(queues, vectors);
    this.#nvm = new NvmCommands(namespace, this.#host, this.#features, this.#statistics);
    this.#admin = new AdminCommands({
      namespace,
      vectors,
      model,
      registers: this.#registers,
      queues: this.#queues,
      host: this.#host,
      features: this.#features,
      events: this.#events,
      logs: new LogPages(this.#errors, this.#features, this.#statistics),
      serial: () => this.#serial,
    });
    this.#processor = new CommandProcessor(this.dma, this.#queues, {
      execute: request => this.#execute(request),
      completed: (request, queueId, status) => this.#count(request, queueId, status),
      nextEvent: () => this.#events.next(),
      arbitrationBurst: () => this.#features.arbitrationBurst,
      interrupt: queue => this.#interrupt(queue),
      fail: () => this.#fail(),
    });
  }

  /** What it has done so far: a copy. */
  get statistics(): Readonly<NvmeStatistics> {
    return { ...this.#statistics };
  }

  /** The serial number that identify tells. */
  get serial(): string {
    return this.#serial;
  }

  /**
   * From now on nothing is fetched from any queue, admin queues included: doorbells are taken, commands stay in the host's memory as they are.
   * What was fetched before is finished. For tests and tools that must see host memory between "asked" and "done"; a reset does not end it.
   */
  holdQueues(): void {
    this.#processor.hold();
  }

  /** Reverse of {@link NvmeController.holdQueues}: works off what has come meanwhile. */
  releaseQueues(): void {
    this.#processor.release();
  }

  /** Commands that were fetched and are not completed. */
  get inFlight(): number {
    return this.#processor.inFlight;
  }

  /**
   * Done when every command that the host has rung for is completed. Not before the host consumes completions, where its queues are full; not
   * before {@link NvmeController.releaseQueues}, where they are held.
   */
  whenIdle(): Promise<void> {
    return this.#processor.idle();
  }

  protected override readRegister(_bar: number, offset: number, into: Uint8Array): void {
    into.fill(0);
    if (offset < REGISTERS_SIZE) into.set(this.#registers.bytes.subarray(offset, offset + into.length));
  }

  /** Takes effect as aligned words of 4 bytes; 8 bytes are two of them, the lower first. Other writes have no effect. */
  protected override writeRegister(_bar: number, offset: number, data: Uint8Array): void {
    if ((data.length !== 4 && data.length !== 8) || offset % 4 !== 0) return;
    const view = viewOf(data);
    for (let at = 0; at < data.length; at += 4) this.#writeWord(offset + at, view.getUint32(at, true));
  }

  #writeWord(register: number, value: number): void {
    if (register >= NVME_DOORBELLS) {
      this.#ringDoorbell((register - NVME_DOORBELLS) / DOORBELL_SIZE, value & 0xffff);
      return;
    }
    switch (register) {
      case NvmeRegister.INTMS:
        this.#maskInterrupts(this.#registers.interruptMask | value);
        break;
      case NvmeRegister.INTMC:
        this.#maskInterrupts(this.#registers.interruptMask & ~value);
        break;
      case NvmeRegister.CC:
        this.#configure(value);
        break;
      case NvmeRegister.AQA:
      case NvmeRegister.ASQ:
      case NvmeRegister.ASQ + 4:
      case NvmeRegister.ACQ:
      case NvmeRegister.ACQ + 4:
        this.#registers.writeAdminQueue(register, value);
    }
  }

  /** Section 3.1.24 and 3.1.25: doorbell 2n is submission queue n's tail, 2n + 1 completion queue n's head. */
  #ringDoorbell(doorbell: number, value: number): void {
    if (!this.#registers.isReady) return;
    const id = doorbell >>> 1;
    if (doorbell % 2 === 0) this.#ringSubmission(this.#queues.submission[id], value);
    else this.#ringCompletion(this.#queues.completion[id], value);
  }

  #ringSubmission(queue: SubmissionQueue | undefined, tail: number): void {
    if (queue === undefined) this.#report(NvmeEvent.INVALID_DOORBELL_REGISTER, NvmeStatus.INVALID_QUEUE_ID);
    else if (queue.submit(tail)) this.#processor.ring();
    else this.#report(NvmeEvent.INVALID_DOORBELL_VALUE, NvmeStatus.INVALID_FIELD);
  }

  #ringCompletion(queue: CompletionQueue | undefined, head: number): void {
    if (queue === undefined) {
      this.#report(NvmeEvent.INVALID_DOORBELL_REGISTER, NvmeStatus.INVALID_QUEUE_ID);
      return;
    }
    const wasFull = queue.room <= 0;
    if (!queue.consume(head)) {
      this.#report(NvmeEvent.INVALID_DOORBELL_VALUE, NvmeStatus.INVALID_FIELD);
      return;
    }
    if (wasFull) this.#processor.ring();
    if (!this.#queues.wantsPin(this.#registers.interruptMask)) this.clearInterrupt();
  }

  #report(event: AsyncEvent, status: NvmeStatus): void {
    this.#errors.addOther(status);
    this.#events.raise(event);
    this.#processor.ring();
  }

  #maskInterrupts(mask: number): void {
    this.#registers.interruptMask = mask;
    if (this.#queues.wantsPin(mask)) this.raiseInterrupt(0);
    else this.clearInterrupt();
  }

  #interrupt(queue: CompletionQueue): void {
    if (((this.#registers.interruptMask >>> queue.vector) & 1) === 1) return;
    this.#statistics.interrupts++;
    this.raiseInterrupt(queue.vector);
  }

  #execute(request: Request): MaybePromise<Outcome> {
    return request.queue?.id === 0 ? this.#admin.execute(request) : this.#nvm.execute(request);
  }

  #count(request: Request, queueId: number, status: NvmeStatus): void {
    if (queueId === 0) this.#statistics.adminCommands++;
    if (status === NvmeStatus.SUCCESS) return;
    this.#statistics.errors++;
    if (status === NvmeStatus.WRITE_FAULT || status === NvmeStatus.UNRECOVERED_READ_ERROR) {
      this.#statistics.mediaErrors++;
    }
    this.#errors.addCommand(request, queueId, status);
  }

  /** Controller fatal status: only a reset mends it. */
  #fail(): void {
    this.#processor.disable();
    this.#registers.status |= ControllerStatus.FATAL;
  }

  #configure(value: number): void {
    const registers = this.#registers;
    const wasEnabled = registers.isEnabled;
    const wasShutdownAsked = registers.isShutdownAsked;
    registers.configuration = value;
    if (wasEnabled && !registers.isEnabled) {
      this.#processor.disable();
      this.#processor.discard();
      this.#await(this.#processor.settle(), () => this.#forget());
      return;
    }
    this.#followEnable();
    if (!wasShutdownAsked && registers.isShutdownAsked) this.#shutDown();
  }

  /** Enables the controller if the host wants it, once what was before has come to its end. */
  #followEnable(): void {
    const { isEnabled, status } = this.#registers;
    const isDown = (status & (ControllerStatus.READY | ControllerStatus.FATAL)) === 0;
    if (isEnabled && isDown && this.#transition === undefined) this.#enable();
  }

  /** Section 7.6.1: with admin queues that cannot work, the controller is not ready but fatal. */
  #enable(): void {
    const registers = this.#registers;
    if (!registers.canEnable) {
      this.#fail();
      return;
    }
    this.#host.pageSize = registers.pageSize;
    const completions = new CompletionQueue(0, registers.adminCompletionBase, registers.adminCompletionSize, 0, true);
    this.#queues.addCompletion(completions);
    this.#queues.addSubmission(
      new SubmissionQueue(0, registers.adminSubmissionBase, registers.adminSubmissionSize, completions),
    );
    registers.status = ControllerStatus.READY;
    this.#processor.enable();
  }

  /** Section 7.3.2: a controller reset takes all queues and what the host has set, but not AQA, ASQ and ACQ. */
  #forget(): void {
    this.#processor.disable();
    this.#queues.clear();
    this.#events.reset();
    this.#features.reset();
    this.#registers.interruptMask = 0;
    this.#registers.status = 0;
    this.clearInterrupt();
  }

  /** Section 7.6.2: what was fetched is finished, and everything that was written is made durable. */
  #shutDown(): void {
    this.#setShutdownStatus(ControllerStatus.SHUTDOWN_OCCURRING);
    this.#processor.disable();
    const settled = this.#processor.settle();
    const flush = () => this.#namespace.flush();
    this.#await(settled === undefined ? flush() : settled.then(flush), () => {
      // A reset may have come meanwhile.
      if ((this.#registers.status & ControllerStatus.SHUTDOWN_OCCURRING) === 0) return;
      this.#setShutdownStatus(ControllerStatus.SHUTDOWN_COMPLETE);
    });
  }

  #setShutdownStatus(status: number): void {
    this.#registers.status = (this.#registers.status & ~ControllerStatus.SHUTDOWN_MASK) | status;
  }

  /** Goes on with `next` when `done` is, and what was under way before: now, or later as a transition. */
  #await(done: MaybePromise<unknown>, next: () => void): void {
    if (!(done instanceof Promise) && this.#transition === undefined) {
      next();
      return;
    }
    const transition = Promise.all([this.#transition, done]).then(() => {
      if (this.#transition === transition) this.#transition = undefined;
      next();
      this.#followEnable();
    });
    this.#transition = transition;
  }

  override async reset(): Promise<void> {
    this.#resets++;
    try {
      await super.reset();
    } finally {
      this.#resets--;
    }
  }

  protected override onReset(): void {
    this.#registers.reset();
    this.#forget();
  }

  protected override onRun(): void {
    this.#processor.start();
  }

  /** Whoever gets the disk next must find there all that was written, although the guest may never have asked for that: migration is no power loss. */
  protected override async onQuiesce(): Promise<void> {
    this.#processor.stop();
    await this.#transition;
    await this.#processor.settle();
    if (this.#resets > 0) return;
    const status = await this.#namespace.flush();
    if (status === NvmeStatus.SUCCESS) return;
    throw new VfioError('EIO', {
      operation: 'MIG_DEVICE_STATE',
      message: 'what was written could not be made durable',
    });
  }

  get #parts(): ControllerParts {
    return {
      namespace: this.#namespace,
      serial: this.#serial,
      registers: this.#registers,
      features: this.#features.save(),
      events: this.#events.save(),
      errors: this.#errors.save(),
      statistics: this.#statistics,
      queues: this.#queues,
    };
  }

  protected override saveState(): Uint8Array {
    return encodeState(this.#parts);
  }

  protected override stateSize(): number {
    return stateSize(this.#parts);
  }

  protected override loadState(bytes: Uint8Array): void {
    const target = { namespace: this.#namespace, features: this.#features, queues: this.#queues };
    const state = decodeState(bytes, target, this.#vectors);
    // Nothing fails from here on.
    this.#serial = state.serial;
    this.#registers.bytes.set(state.registers.bytes);
    this.#features.load(state.features);
    this.#events.load(state.events);
    this.#errors.load(state.errors);
    Object.assign(this.#statistics, state.statistics);
    this.#queues.replace(state.queues);
    this.#queues.signalUsed();
    this.#host.pageSize = this.#registers.pageSize;
    state.putContent();
    if (this.#registers.isReady && !this.#registers.isShutDown) this.#processor.enable();
    else this.#processor.disable();
  }
}

function requireOptions(disk: Disk, queues: number, blockSize: number): void {
  const refuse = (field: string, message: string) => {
    throw new VfioError('EINVAL', { operation: 'NvmeController', field, message });
  };
  if (!(Number.isInteger(queues) && queues >= 1 && queues <= MAX_QUEUES)) {
    refuse('queues', `${queues} I/O queues; there can be 1 to ${MAX_QUEUES}`);
  }
  if (![512, 1024, 2048, 4096].includes(blockSize)) refuse('blockSize', `${blockSize} is not 512, 1024, 2048 or 4096`);
  if (disk.size % blockSize !== 0) refuse('disk', `${disk.size} bytes are not a multiple of ${blockSize}`);
}

/** Registers, and a doorbell for each end of each queue, as a power of two. */
function barSize(queues: number): number {
  const used = NVME_DOORBELLS + 2 * DOORBELL_SIZE * (queues + 1);
  return Math.max(SMALLEST_BAR, 2 ** Math.ceil(Math.log2(used)));
}
