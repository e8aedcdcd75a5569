import type { UserMemory } from '../../../src/device/index.js';
import { decodeReportInline, MigrationState, type Profile } from '../../../src/uapi/index.js';
import { kindOf, PlainDevice, refusal, WHOLE_SPACE } from './plain-device.js';

/* Devices that go wrong when a client leaves, or when two things are asked of them at once. */

/** After the first client there is no other. */
export class ServesOneClient extends PlainDevice {
  #left = false;

  override disconnect(): void {
    super.disconnect();
    this.#left = true;
  }

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (this.#left) throw refusal('EINVAL', 'gone');
    return super.request(message, profile, memory);
  }
}

/** A log whose client has left is nobody's: it is not reported, not stopped, and in the way of a new one. */
export class StaysBusyAfterDisconnect extends PlainDevice {
  #stuck = false;

  override disconnect(): void {
    super.disconnect();
    this.#stuck ||= this.log.active;
  }

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (this.#stuck && kindOf(message, profile) !== undefined) throw refusal('EINVAL', 'busy');
    return super.request(message, profile, memory);
  }
}

/** A client that leaves takes the log along, and logging goes on, empty. */
export class ClearsLogOnDisconnect extends PlainDevice {
  override disconnect(): void {
    super.disconnect();
    this.log.forget(WHOLE_SPACE);
  }
}

/** Logging ends when the client leaves: right behind the kernel, and not over vfio-user. */
export class StopsOnDisconnect extends PlainDevice {
  override disconnect(): void {
    super.disconnect();
    if (this.log.active) this.log.stop();
  }
}

/** The migration state is RUNNING again when the client leaves. */
export class RunsOnDisconnect extends PlainDevice {
  override disconnect(): void {
    super.disconnect();
    if (this.migration!.state !== MigrationState.RUNNING) this.migration!.reset();
  }
}

/** A client that leaves without waiting for its answers is waited for, for ever. */
export class WaitsForLostClients extends PlainDevice {
  #underWay = 0;
  #stuck = false;

  override disconnect(): void {
    super.disconnect();
    this.#stuck ||= this.#underWay > 0;
  }

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (this.#stuck) throw refusal('EIO', 'the answers are not taken');
    this.#underWay++;
    try {
      await turn();
      return await super.request(message, profile, memory);
    } finally {
      this.#underWay--;
    }
  }
}

/** A report copies first and clears afterwards: what is written in between is cleared with it. */
export class ClearsAfterCopying extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    if (kindOf(message, profile) === 'report') {
      await turn();
      await turn();
      this.log.forget(decodeReportInline(message.subarray(8)));
    }
    return reply;
  }
}

/** What a report has told is cleared when the next write comes, and that write with it. */
export class ClearsWithNextWrite extends PlainDevice {
  #told: ReturnType<typeof decodeReportInline> | undefined;

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    if (kindOf(message, profile) === 'report') this.#told = decodeReportInline(message.subarray(8));
    return reply;
  }

  override dmaWrite(iova: bigint, length: number): void {
    super.dmaWrite(iova, length);
    if (this.#told !== undefined) this.log.forget(this.#told);
    this.#told = undefined;
  }
}

/** Of reports that are under way at once, the last alone brings bits: the others' buffer was taken from them. */
export class SharesReportBuffer extends PlainDevice {
  #newest = 0;

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) !== 'report') return super.request(message, profile, memory);
    const own = ++this.#newest;
    const spare = new Map<bigint, Uint8Array>();
    const reply = await super.request(message, profile, {
      at(address, length) {
        memory.at(address, length);
        const bytes = new Uint8Array(length);
        spare.set(address, bytes);
        return bytes;
      },
    });
    await turn();
    if (own !== this.#newest) return profile.pointers ? reply : reply.fill(0, 32);
    for (const [address, bytes] of spare) {
      const bitmap = memory.at(address, bytes.length);
      for (const [index, byte] of bytes.entries()) bitmap[index]! |= byte;
    }
    return reply;
  }
}

function turn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve));
}
