import { setImmediate } from 'node:timers/promises';
import type { DeviceHandle } from '../../device/index.js';
import type { GuestMemory } from '../../memory/index.js';
import { VfioError, viewOf } from '../../uapi/index.js';
import { NVME_BAR } from './nvme-controller.js';
import { COMPLETION_ENTRY_SIZE, SUBMISSION_ENTRY_SIZE } from './registers.js';

/** A command as a driver gives it (NVMe 1.4, figure 104); what is left out is 0. */
export interface HostCommand {
  opcode: number;
  namespaceId?: number;
  /** IOVA of the data. */
  prp1?: bigint;
  /** Dwords 10 to 15. */
  dwords?: readonly number[];
}

/** Where the two rings of a {@link PolledQueue} are. */
export interface PolledQueuePlace {
  /** Queue id; 0 for the admin queues. */
  id: number;
  /** Offsets in the memory, bytes. */
  submissions: number;
  completions: number;
  /** Of each ring. */
  entries: number;
  /** Offset of queue 0's first doorbell in the BAR, and bytes from one doorbell to the next. */
  doorbells: number;
  doorbellStride: number;
}

/**
 * A submission queue and its completion queue, driven by looking at memory instead of waiting for an interrupt, one command at a time.
 *
 * A completion is new when its phase tag (bit 0 of the last word) differs from the lap before: 1 in the first lap over a ring of zeros, then 0, …
 */
export class PolledQueue {
  readonly #device: DeviceHandle;
  readonly #memory: GuestMemory;
  readonly #place: PolledQueuePlace;
  readonly #timeoutMs: number;
  #tail = 0;
  #head = 0;
  #phase = 1;

  /** @param timeoutMs how long a command may take, milliseconds */
  constructor(device: DeviceHandle, memory: GuestMemory, place: PolledQueuePlace, timeoutMs: number) {
    this.#device = device;
    this.#memory = memory;
    this.#place = place;
    this.#timeoutMs = timeoutMs;
  }

  /** Runs a command. @returns its status, type and code (`NvmeStatus`) @throws VfioError ETIMEDOUT */
  async run(command: HostCommand): Promise<number> {
    const { submissions, entries } = this.#place;
    this.#memory.write(submissions + this.#tail * SUBMISSION_ENTRY_SIZE, encodeCommand(command, this.#tail));
    this.#tail = (this.#tail + 1) % entries;
    await this.#ring(2 * this.#place.id, this.#tail);
    const status = await this.#completion(command.opcode);
    await this.#ring(2 * this.#place.id + 1, this.#head);
    return status;
  }

  async #completion(opcode: number): Promise<number> {
    const { completions, entries } = this.#place;
    const entry = new Uint8Array(COMPLETION_ENTRY_SIZE);
    const deadline = performance.now() + this.#timeoutMs;
    for (;;) {
      this.#memory.read(completions + this.#head * COMPLETION_ENTRY_SIZE, entry);
      const field = viewOf(entry).getUint16(14, true);
      if ((field & 1) === this.#phase) {
        this.#head = (this.#head + 1) % entries;
        if (this.#head === 0) this.#phase ^= 1;
        return (field >>> 1) & 0x7ff;
      }
      if (performance.now() > deadline) {
        const message = `command 0x${opcode.toString(16)} has not completed after ${this.#timeoutMs} ms`;
        throw new VfioError('ETIMEDOUT', { operation: 'nvme', message });
      }
      await setImmediate();
    }
  }

  async #ring(doorbell: number, value: number): Promise<void> {
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, value, true);
    const { doorbells, doorbellStride } = this.#place;
    await this.#device.regionWrite(NVME_BAR, doorbells + doorbell * doorbellStride, bytes);
  }
}

function encodeCommand({ opcode, namespaceId = 0, prp1 = 0n, dwords = [] }: HostCommand, id: number): Uint8Array {
  const entry = new Uint8Array(SUBMISSION_ENTRY_SIZE);
  const view = viewOf(entry);
  entry[0] = opcode;
  view.setUint16(2, id, true);
  view.setUint32(4, namespaceId, true);
  view.setBigUint64(24, prp1, true);
  for (const [index, value] of dwords.entries()) view.setUint32(40 + 4 * index, value, true);
  return entry;
}
