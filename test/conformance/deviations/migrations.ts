import type { UserMemory } from '../../../src/device/index.js';
import {
  decodeFeatureRequest,
  decodeMigrationFlags,
  encodeFeatureRequest,
  encodeMigrationFlags,
  Feature,
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  type Profile,
} from '../../../src/uapi/index.js';
import { dataOf, kindOf, PlainDevice, refusal, WHOLE_SPACE } from './plain-device.js';

/* Devices whose migration, or whose log beside it, goes other ways than the contract's. */

const { ERROR, STOP, RUNNING, STOP_COPY, PRE_COPY, PRE_COPY_P2P, RUNNING_P2P } = MigrationState;

/** The state that a request asks for; `undefined` for any other request. */
function askedState(message: Uint8Array, profile: Profile): number | undefined {
  return kindOf(message, profile) === 'state' && message.length >= 16 ? dataOf(message).getUint32(0, true) : undefined;
}

/** PRE_COPY out of STOP_COPY: by STOP and RUNNING. */
export class GoesBackToPreCopy extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const state = askedState(message, profile);
    const isBack = this.migration!.state === STOP_COPY && (state === PRE_COPY || state === PRE_COPY_P2P);
    if (isBack) await this.migration!.setState(RUNNING);
    return super.request(message, profile, memory);
  }
}

/** Looks for a way from STOP_COPY to PRE_COPY for ever (Linux 6.12). */
export class LooksForWayBack extends PlainDevice {
  override request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const state = askedState(message, profile);
    const isBack = this.migration!.state === STOP_COPY && (state === PRE_COPY || state === PRE_COPY_P2P);
    return isBack ? new Promise(() => {}) : super.request(message, profile, memory);
  }
}

/** Data that cannot be had. */
export class CannotReadData extends PlainDevice {
  override readData(): Uint8Array {
    throw refusal('EIO', 'the data cannot be read');
  }
}

/** ERROR on demand. */
export class TakesErrorState extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (askedState(message, profile) !== ERROR) return super.request(message, profile, memory);
    this.migration!.fail();
    return message;
  }
}

/** States that do not exist are taken, and nothing happens. */
export class TakesUnknownStates extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if ((askedState(message, profile) ?? 0) > PRE_COPY_P2P) return message;
    return super.request(message, profile, memory);
  }
}

/** A state that cannot be asked for stops the device on the way to finding that out. */
export class StopsOnRefusedState extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const state = askedState(message, profile);
    if (state !== undefined && state > PRE_COPY_P2P) await this.migration!.setState(STOP);
    return super.request(message, profile, memory);
  }
}

/** The data_fd of a migration that is over is told again and again. */
export class KeepsDataFd extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    const { index, probe } = decodeFeatureRequest(message);
    if (index === Feature.MIG_DEVICE_STATE && !probe) dataOf(reply).setInt32(4, 5, true);
    return reply;
  }
}

/** P2P states are said to be there, and refused (libvfio-user refuses them, and says so). */
export class RefusesP2p extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const state = askedState(message, profile);
    if (state === RUNNING_P2P || state === PRE_COPY_P2P) throw refusal('EINVAL', 'no such state');
    return super.request(message, profile, memory);
  }
}

/** P2P states are there, and nobody was told. */
export class HidesP2p extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    return changedFlags(message, reply, flags => flags & ~MIGRATION_P2P);
  }
}

/** STOP_COPY is not among the flags. */
export class HidesStopCopy extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    return changedFlags(message, reply, flags => flags & ~MIGRATION_STOP_COPY);
  }
}

function changedFlags(message: Uint8Array, reply: Uint8Array, change: (flags: number) => number): Uint8Array {
  const { index, probe, get } = decodeFeatureRequest(message);
  if (index !== Feature.MIGRATION || probe || !get) return reply;
  const flags = decodeMigrationFlags(decodeFeatureRequest(reply).data);
  return encodeFeatureRequest({ index, get: true, data: encodeMigrationFlags(change(flags)) });
}

/** Ways of more than one arc are the caller's to walk. */
export class TakesSingleArcs extends PlainDevice {
  constructor() {
    super(undefined, MIGRATION_STOP_COPY | MIGRATION_PRE_COPY);
  }

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const skipsStop = this.migration!.state === RUNNING && askedState(message, profile) === STOP_COPY;
    if (skipsStop) throw refusal('EINVAL', 'stop first');
    return super.request(message, profile, memory);
  }
}

/** Says RUNNING in every state. */
export class AlwaysSaysRunning extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    const { index, get, probe } = decodeFeatureRequest(message);
    if (index === Feature.MIG_DEVICE_STATE && get && !probe) dataOf(reply).setUint32(0, RUNNING, true);
    return reply;
  }
}

/** Data without end. */
export class HasEndlessData extends PlainDevice {
  override readData(limit: number): Uint8Array {
    super.readData(0);
    return new Uint8Array(limit);
  }
}

/** More data when its end was told. */
export class HasDataBehindEnd extends PlainDevice {
  #ended = false;

  override readData(limit: number): Uint8Array {
    const piece = super.readData(limit);
    if (piece.length > 0) return piece;
    this.#ended = !this.#ended;
    return new Uint8Array(this.#ended ? 0 : 1);
  }
}

/** Data can be had in every state. */
export class GivesDataWhileRunning extends PlainDevice {
  override readData(limit: number): Uint8Array {
    return this.migration!.state === RUNNING ? new Uint8Array(0) : super.readData(limit);
  }
}

/** Does not know its own state again. */
export class RefusesOwnState extends PlainDevice {
  protected override saveState(): Uint8Array {
    return new Uint8Array(4);
  }

  protected override loadState(): void {
    throw refusal('EINVAL', 'a state of four bytes');
  }
}

/** What was offered in PRE_COPY is needed again in STOP_COPY, and not given: the stream begins in the middle. */
export class ForgetsPreCopyData extends PlainDevice {
  #runs = true;

  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    if (askedState(message, profile) !== undefined) this.#runs = this.migration!.state === PRE_COPY;
    return reply;
  }

  override readData(limit: number): Uint8Array {
    const piece = super.readData(limit);
    return this.#runs ? new Uint8Array(piece.length) : piece;
  }
}

/** A reset leaves the migration state where it is. */
export class ResetKeepsState extends PlainDevice {
  override async reset(): Promise<void> {}
}

/** A reset empties the log and goes on logging: nobody is told. */
export class ResetClearsLog extends PlainDevice {
  override async reset(): Promise<void> {
    await super.reset();
    this.log.forget(WHOLE_SPACE);
  }
}

/** The log begins anew with every change of state. */
export class StateChangeClearsLog extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    if (askedState(message, profile) !== undefined) this.log.forget(WHOLE_SPACE);
    return reply;
  }
}

/** Logging ends where the device stops. */
export class StopEndsLogging extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    const reply = await super.request(message, profile, memory);
    if (askedState(message, profile) === STOP && this.log.active) this.log.stop();
    return reply;
  }
}

/** No report from a device that is stopped. */
export class RefusesReportInStop extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) === 'report' && this.migration!.state === STOP) throw refusal('EPERM', 'stopped');
    return super.request(message, profile, memory);
  }
}

/** Logging is started while the device runs, or not at all. */
export class RefusesStartInStop extends PlainDevice {
  override async request(message: Uint8Array, profile: Profile, memory: UserMemory): Promise<Uint8Array> {
    if (kindOf(message, profile) === 'start' && this.migration!.state === STOP) throw refusal('EPERM', 'stopped');
    return super.request(message, profile, memory);
  }
}
