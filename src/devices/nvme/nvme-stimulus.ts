import { setTimeout as delay } from 'node:timers/promises';
import type { DmaStimulus, StimulusLimits } from '../../conformance/index.js';
import type { DeviceHandle } from '../../device/index.js';
import { GuestMemory } from '../../memory/index.js';
import { type IovaRange, PciRegion, VfioError, viewOf } from '../../uapi/index.js';
import { IdentifyStructure } from './identify.js';
import { NAMESPACE_ID } from './namespace.js';
import { NVME_BAR, NVME_CLASS_CODE } from './nvme-controller.js';
import { AdminOpcode, NvmOpcode } from './opcodes.js';
import { type HostCommand, PolledQueue } from './polled-queue.js';
import { ControllerConfiguration, ControllerStatus, NVME_DOORBELLS, NvmeRegister } from './registers.js';
import { NvmeStatus, statusName } from './status.js';

/** Bytes of a memory page; each queue has one, and so has identify's answer. */
const PAGE = 4096;
/** Where they are in the stimulus's own memory. */
const Place = {
  ADMIN_SUBMISSIONS: 0,
  ADMIN_COMPLETIONS: PAGE,
  SUBMISSIONS: 2 * PAGE,
  COMPLETIONS: 3 * PAGE,
  IDENTIFY: 4 * PAGE,
  SIZE: 5 * PAGE,
} as const;
const ENTRIES = 16;
const IO_QUEUE = 1;
/** Queue entries of 2^6 and 2^4 bytes, pages of 4 KiB, enabled. */
const ENABLED =
  (6 << ControllerConfiguration.SUBMISSION_ENTRY_SHIFT) |
  (4 << ControllerConfiguration.COMPLETION_ENTRY_SHIFT) |
  ControllerConfiguration.ENABLE;
const CONTIGUOUS = 1;
/** The stimulus's memory begins at a multiple of it, behind the windows. */
const GRID = 2n ** 21n;
const COMMAND_REGISTER = 0x04;
const MEMORY_AND_BUS_MASTER = 0x6;
const TIMEOUT_MS = 10_000;

/**
 * Makes an NVMe controller write memory by reading from its disk, and read memory by comparing it with the disk: what the disk holds stays as it is.
 * Its queues lie behind the windows, so that the completions that the controller writes are in nobody's way.
 */
export class NvmeStimulus implements DmaStimulus {
  readonly name = 'nvme';
  readonly #memory = GuestMemory.create(Place.SIZE, 'nvme-stimulus');
  /** Handles that the memory is mapped on. */
  readonly #mapped = new WeakSet<DeviceHandle>();
  #device: DeviceHandle | undefined;
  #queue: PolledQueue | undefined;
  #blockSize = 512;
  #blocks = 0;

  /** Whole blocks of the disk. */
  get limits(): StimulusLimits {
    return { alignment: this.#blockSize, maxLength: 2 ** 20 };
  }

  /**
   * Enables the controller anew, with queues of its own.
   * @throws VfioError ENODEV for another device; ETIMEDOUT, EIO when the controller does not do as it is told
   */
  async prepare(device: DeviceHandle, windows: readonly IovaRange[]): Promise<readonly IovaRange[]> {
    await requireNvme(device);
    this.#device = device;
    const iova = behind(windows);
    if (!this.#mapped.has(device)) {
      const region = { iova, length: BigInt(Place.SIZE), readable: true, writable: true };
      await device.mapMemory(region, this.#memory);
      this.#mapped.add(device);
    }
    await enableBusMaster(device);
    await this.#disable(device);
    this.#memory.write(0, new Uint8Array(Place.SIZE));
    const admin = await this.#enable(device, iova);
    await this.#identify(admin, iova);
    this.#queue = await this.#createQueue(device, admin, iova);
    return windows;
  }

  async #disable(device: DeviceHandle): Promise<void> {
    await write32(device, NvmeRegister.CC, 0);
    await untilReady(device, false);
  }

  async #enable(device: DeviceHandle, iova: bigint): Promise<PolledQueue> {
    await write32(device, NvmeRegister.AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    await write64(device, NvmeRegister.ASQ, iova + BigInt(Place.ADMIN_SUBMISSIONS));
    await write64(device, NvmeRegister.ACQ, iova + BigInt(Place.ADMIN_COMPLETIONS));
    await write32(device, NvmeRegister.CC, ENABLED);
    await untilReady(device, true);
    return this.#queueAt(device, 0, Place.ADMIN_SUBMISSIONS, Place.ADMIN_COMPLETIONS);
  }

  async #queueAt(device: DeviceHandle, id: number, submissions: number, completions: number): Promise<PolledQueue> {
    const capabilities = viewOf(await device.regionRead(NVME_BAR, NvmeRegister.CAP, 8)).getBigUint64(0, true);
    const doorbellStride = 4 << Number((capabilities >> 32n) & 0xfn);
    const place = { id, submissions, completions, entries: ENTRIES, doorbells: NVME_DOORBELLS, doorbellStride };
    return new PolledQueue(device, this.#memory, place, TIMEOUT_MS);
  }

  async #identify(admin: PolledQueue, iova: bigint): Promise<void> {
    const prp1 = iova + BigInt(Place.IDENTIFY);
    const dwords = [IdentifyStructure.NAMESPACE];
    await complete(admin, { opcode: AdminOpcode.IDENTIFY, namespaceId: NAMESPACE_ID, prp1, dwords });
    const answer = new Uint8Array(PAGE);
    this.#memory.read(Place.IDENTIFY, answer);
    // The format in use (FLBAS) names one of the formats from byte 128 on, whose third byte is the block size's exponent.
    this.#blockSize = 2 ** answer[130 + 4 * (answer[26]! & 0xf)]!;
    this.#blocks = Number(viewOf(answer).getBigUint64(0, true));
  }

  async #createQueue(device: DeviceHandle, admin: PolledQueue, iova: bigint): Promise<PolledQueue> {
    const size = ((ENTRIES - 1) << 16) | IO_QUEUE;
    const completions = { prp1: iova + BigInt(Place.COMPLETIONS), dwords: [size, CONTIGUOUS] };
    await complete(admin, { opcode: AdminOpcode.CREATE_COMPLETION_QUEUE, ...completions });
    const submissions = { prp1: iova + BigInt(Place.SUBMISSIONS), dwords: [size, (IO_QUEUE << 16) | CONTIGUOUS] };
    await complete(admin, { opcode: AdminOpcode.CREATE_SUBMISSION_QUEUE, ...submissions });
    return this.#queueAt(device, IO_QUEUE, Place.SUBMISSIONS, Place.COMPLETIONS);
  }

  /** @throws VfioError EIO for a read that fails */
  async write(iova: bigint, length: number): Promise<void> {
    await this.#transfer(NvmOpcode.READ, iova, length, [NvmeStatus.SUCCESS]);
  }

  /** @throws VfioError EIO for a compare that fails otherwise than by finding a difference */
  async read(iova: bigint, length: number): Promise<void> {
    await this.#transfer(NvmOpcode.COMPARE, iova, length, [NvmeStatus.SUCCESS, NvmeStatus.COMPARE_FAILURE]);
  }

  /** A command for each page, so that none needs a list of addresses, and for as many blocks as the disk has. */
  async #transfer(opcode: number, iova: bigint, length: number, wanted: readonly number[]): Promise<void> {
    const queue = this.#queue;
    if (queue === undefined) throw new VfioError('ENODEV', { operation: 'nvme', message: 'no device is open' });
    const end = iova + BigInt(length);
    for (let at = iova; at < end; ) {
      const inPage = PAGE - Number(at % BigInt(PAGE));
      const bytes = Math.min(inPage, Number(end - at), this.#blocks * this.#blockSize);
      const dwords = [0, 0, bytes / this.#blockSize - 1];
      await complete(queue, { opcode, namespaceId: NAMESPACE_ID, prp1: at, dwords }, wanted);
      at += BigInt(bytes);
    }
  }

  /** Disables the controller, if it is still there. */
  async close(): Promise<void> {
    const device = this.#device;
    this.#device = undefined;
    this.#queue = undefined;
    try {
      if (device !== undefined) await this.#disable(device);
    } catch (error) {
      // What is gone, or stuck, cannot be disabled.
      if (!(error instanceof VfioError)) throw error;
    } finally {
      this.#memory.close();
    }
  }
}

/** @throws VfioError ENODEV */
async function requireNvme(device: DeviceHandle): Promise<void> {
  const view = viewOf(await device.regionRead(PciRegion.CONFIG, 8, 4));
  if (view.getUint32(0, true) >>> 8 === NVME_CLASS_CODE) return;
  throw new VfioError('ENODEV', { operation: 'nvme', message: `${device.target} is no NVMe controller` });
}

async function enableBusMaster(device: DeviceHandle): Promise<void> {
  const bytes = await device.regionRead(PciRegion.CONFIG, COMMAND_REGISTER, 2);
  viewOf(bytes).setUint16(0, viewOf(bytes).getUint16(0, true) | MEMORY_AND_BUS_MASTER, true);
  await device.regionWrite(PciRegion.CONFIG, COMMAND_REGISTER, bytes);
}

async function untilReady(device: DeviceHandle, ready: boolean): Promise<void> {
  const deadline = performance.now() + TIMEOUT_MS;
  for (;;) {
    const status = viewOf(await device.regionRead(NVME_BAR, NvmeRegister.CSTS, 4)).getUint32(0, true);
    if (((status & ControllerStatus.READY) !== 0) === ready) return;
    if (performance.now() > deadline) {
      const message = `the controller is not ${ready ? 'ready' : 'disabled'} after ${TIMEOUT_MS} ms`;
      throw new VfioError('ETIMEDOUT', { operation: 'nvme', message });
    }
    await delay(1);
  }
}

/** Runs a command that must end with one of these statuses. @throws VfioError EIO */
async function complete(
  queue: PolledQueue,
  command: HostCommand,
  wanted: readonly number[] = [NvmeStatus.SUCCESS],
): Promise<void> {
  const status = await queue.run(command);
  if (wanted.includes(status)) return;
  const message = `command 0x${command.opcode.toString(16)} ended with ${statusName(status)}`;
  throw new VfioError('EIO', { operation: 'nvme', message });
}

/** The first address behind all windows. */
function behind(windows: readonly IovaRange[]): bigint {
  const end = windows.reduce((most, { iova, length }) => (iova + length > most ? iova + length : most), 0n);
  return ((end + GRID - 1n) / GRID) * GRID;
}

async function write32(device: DeviceHandle, register: number, value: number): Promise<void> {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  await device.regionWrite(NVME_BAR, register, bytes);
}

async function write64(device: DeviceHandle, register: number, value: bigint): Promise<void> {
  const bytes = new Uint8Array(8);
  viewOf(bytes).setBigUint64(0, value, true);
  await device.regionWrite(NVME_BAR, register, bytes);
}
