import { connect, parseTarget } from '../../connect/index.js';
import type { DeviceHandle } from '../../device/index.js';
import { GuestMemory } from '../../memory/index.js';
import { MachineMemory, type MemorySlot } from '../../migration/index.js';
import { asVfioError, MigrationState, overlap, VfioError } from '../../uapi/index.js';
import { VfioUserClient } from '../../vfio-user/index.js';
import type { MemoryArgument } from './memory-argument.js';

/** What a machine is made of, as the command line names it. */
export interface MachineArguments {
  /** Targets, as `connect` takes them. */
  devices: readonly string[];
  memory: readonly MemoryArgument[];
  /** Who gives the devices their memory: this process, or one that is there already and beside which it connects. */
  host: 'this' | 'another';
  /** How long a device may take for an answer, milliseconds. */
  timeoutMs: number;
}

/** A machine's memory and devices in this process's hands, until it is closed. */
export class AttachedMachine {
  readonly memory: MachineMemory;
  readonly devices: readonly DeviceHandle[];
  readonly #files: readonly GuestMemory[];

  private constructor(memory: MachineMemory, devices: readonly DeviceHandle[], files: readonly GuestMemory[]) {
    this.memory = memory;
    this.devices = devices;
    this.#files = files;
  }

  /**
   * Opens the memory and connects to all devices, or leaves nothing open. The devices have no memory of this process yet.
   * @throws VfioError as opening a file and `connect` do, naming which; EINVAL for memory that does not fit together
   */
  static async attach(machine: MachineArguments): Promise<AttachedMachine> {
    const files = new Map<string, GuestMemory>();
    const devices: DeviceHandle[] = [];
    try {
      const memory = openMemory(machine.memory, files);
      for (const target of machine.devices) devices.push(await attachDevice(target, machine));
      return new AttachedMachine(memory, devices, [...files.values()]);
    } catch (error) {
      await closeAll(devices, files.values());
      throw error;
    }
  }

  /** Gives all devices the machine's memory: from here on they may write it. @throws VfioError as a device answers */
  async giveMemory(): Promise<void> {
    for (const device of this.devices) {
      for (const { iova, length, memory, offset } of this.memory.slots) {
        await device.mapMemory({ iova, length, readable: true, writable: true }, memory, BigInt(offset));
      }
    }
  }

  /**
   * Devices that a migration has left when its process died, while they still ran, run as if there had been none. It had not given the machine
   * away: for that it stops them. Those that it did stop stay stopped, because where the machine is nobody here can know.
   */
  async endAbandonedMigration(): Promise<void> {
    for (const { features } of this.devices) {
      if ((await features.migrationFlags()) === 0) continue;
      const state = await features.migrationState();
      const isAbandoned = state === MigrationState.PRE_COPY || state === MigrationState.PRE_COPY_P2P;
      if (isAbandoned) await features.setMigrationState(MigrationState.RUNNING);
    }
  }

  /** Calls back when a device has gone, with which and why. Only those behind a socket can. */
  onDeviceLost(listener: (error: VfioError) => void): void {
    for (const device of this.devices) {
      if (!(device instanceof VfioUserClient)) continue;
      device.onClose(reason => {
        if (reason === undefined) return;
        const message = `${device.target} is gone: ${reason.message}`;
        listener(new VfioError(reason.errno, { operation: 'machine', message }));
      });
    }
  }

  /** Lets go of devices and memory; the devices keep their state. */
  async close(): Promise<void> {
    await closeAll(this.devices, this.#files);
  }
}

async function closeAll(devices: readonly DeviceHandle[], files: Iterable<GuestMemory>): Promise<void> {
  await Promise.allSettled(devices.map(device => device.close()));
  for (const file of files) file.close();
}

/** @param files gets every file that was opened, each once, by its name */
function openMemory(pieces: readonly MemoryArgument[], files: Map<string, GuestMemory>): MachineMemory {
  const slots = pieces.map((piece): MemorySlot => {
    const memory = files.get(piece.file) ?? openFile(piece.file);
    files.set(piece.file, memory);
    return slotOf(piece, memory);
  });
  for (const [index, slot] of slots.entries()) {
    const other = slots.slice(0, index).findIndex(before => overlap(before, slot));
    if (other === -1) continue;
    throw badMemory(`${pieces[other]!.file} and ${pieces[index]!.file} overlap at IOVA 0x${slot.iova.toString(16)}`);
  }
  return new MachineMemory(slots);
}

function openFile(file: string): GuestMemory {
  try {
    return GuestMemory.open(file);
  } catch (error) {
    throw asVfioError(error, '--memory');
  }
}

function slotOf({ file, iova, length, offset }: MemoryArgument, memory: GuestMemory): MemorySlot {
  const bytes = BigInt(length ?? Number(memory.size) - offset);
  if (bytes <= 0n || BigInt(offset) + bytes > memory.size) {
    throw badMemory(`${file} has ${memory.size} bytes; ${length ?? 'what follows'} from ${offset} on are not in it`);
  }
  if (iova + bytes > 1n << 64n) throw badMemory(`${file} reaches beyond 2^64`);
  return { iova, length: bytes, memory, offset };
}

function badMemory(message: string): VfioError {
  return new VfioError('EINVAL', { operation: '--memory', message });
}

async function attachDevice(target: string, { host, timeoutMs }: MachineArguments): Promise<DeviceHandle> {
  const role = host === 'this' ? 'vmm' : 'tracker';
  try {
    return await connect(target, { vfioUser: { role, timeoutMs } });
  } catch (error) {
    const failure = asVfioError(error, 'connect');
    // A server lets a second VMM wait for the first one's end.
    const isTaken = failure.errno === 'ETIMEDOUT' && role === 'vmm' && parseTarget(target).transport === 'vfio-user';
    const hint = isTaken ? '; if another host has it, --beside connects beside that one' : '';
    throw new VfioError(failure.errno, { operation: target, message: `${failure.message}${hint}`, cause: failure });
  }
}
