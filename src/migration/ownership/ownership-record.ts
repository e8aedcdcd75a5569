import { randomUUID } from 'node:crypto';
import { VfioError } from '../../uapi/index.js';

/*
 * Who may run a machine, as every store keeps it: one line of JSON, always spelled the same, so that a store can compare records byte by byte.
 *
 * Worked example: a machine that host-a ran first, and host-b took:
 *   {"machine":"vm-7","owner":"host-b","epoch":2,"change":"0b6e4d0e-7f0e-4f0e-9d50-5a0d8c3f6a11"}
 */

/** Who may run a machine. */
export interface OwnershipRecord {
  /** The machine's name, the same at every host. */
  readonly machine: string;
  /** The name of the one that may run it. */
  readonly owner: string;
  /** 1 for the first record of a machine; one more with each that replaces it. Never reused, so it can fence writers to shared disks too. */
  readonly epoch: number;
  /** A UUID of this very record, by which its writer knows it again when the answer to the writing was lost. */
  readonly change: string;
}

/** Most bytes of an encoded record. */
export const MAX_RECORD_SIZE = 512;

const NAME = /^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The record of a machine that nobody has run yet. @throws VfioError EINVAL for a name that is none */
export function firstRecord(machine: string, owner: string): OwnershipRecord {
  requireName('machine', machine);
  requireName('owner', owner);
  return { machine, owner, epoch: 1, change: randomUUID() };
}

/** The record that replaces `record`. @throws VfioError EINVAL for a name that is none */
export function successor(record: OwnershipRecord, owner: string): OwnershipRecord {
  requireName('owner', owner);
  return { machine: record.machine, owner, epoch: record.epoch + 1, change: randomUUID() };
}

/** Whether both are one and the same record; two that say the same but were written apart are not. */
export function isSameRecord(one: OwnershipRecord | undefined, other: OwnershipRecord | undefined): boolean {
  if (one === undefined || other === undefined) return one === other;
  return encodeRecord(one) === encodeRecord(other);
}

/** For messages: `host-b at epoch 2`. */
export function describeRecord(record: OwnershipRecord | undefined): string {
  return record === undefined ? 'nobody' : `${record.owner} at epoch ${record.epoch}`;
}

/** The one spelling of a record. */
export function encodeRecord({ machine, owner, epoch, change }: OwnershipRecord): string {
  return JSON.stringify({ machine, owner, epoch, change });
}

/**
 * Reverse of {@link encodeRecord}.
 * @param where the text was found, for the message
 * @throws VfioError EBADMSG for anything that {@link encodeRecord} does not write
 */
export function decodeRecord(text: string, where: string): OwnershipRecord {
  const record = parse(text);
  if (record === undefined || !isRecord(record) || encodeRecord(record) !== text) {
    const message = `${where} holds no ownership record: ${JSON.stringify(text.slice(0, 80))}`;
    throw new VfioError('EBADMSG', { operation: 'ownership', field: 'record', message });
  }
  return record;
}

/** @throws VfioError EINVAL for what cannot name a machine or an owner */
export function requireName(field: string, name: string): void {
  if (NAME.test(name)) return;
  const message = `${JSON.stringify(name)} is no name: 1 to 128 letters, digits and . _ : @ - are one, with a letter or digit first`;
  throw new VfioError('EINVAL', { operation: 'ownership', field, message });
}

function parse(text: string): Partial<OwnershipRecord> | undefined {
  if (text.length > MAX_RECORD_SIZE) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(record: Partial<OwnershipRecord>): record is OwnershipRecord {
  const { machine, owner, epoch, change } = record;
  const isName = (value: unknown) => typeof value === 'string' && NAME.test(value);
  const isEpoch = Number.isSafeInteger(epoch) && epoch! >= 1;
  return isName(machine) && isName(owner) && isEpoch && typeof change === 'string' && UUID.test(change);
}
