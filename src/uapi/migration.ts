import { requireBytes, viewOf } from './bytes.js';

/* The migration structures of linux/vfio.h: MIGRATION (1), MIG_DEVICE_STATE (2), MIG_DATA_SIZE (9), precopy info. */

/** `enum vfio_device_mig_state`. */
export const MigrationState = {
  ERROR: 0,
  STOP: 1,
  RUNNING: 2,
  STOP_COPY: 3,
  RESUMING: 4,
  RUNNING_P2P: 5,
  PRE_COPY: 6,
  PRE_COPY_P2P: 7,
} as const;

/** A migration state's number. */
export type MigrationState = (typeof MigrationState)[keyof typeof MigrationState];

const stateNames = Object.keys(MigrationState);

/** The name of a migration state's number: `'STOP_COPY'`; `'state 9'` for one that does not exist. */
export function migrationStateName(state: number): string {
  return stateNames[state] ?? `state ${state}`;
}

/** MIGRATION's flags: bit 0. */
export const MIGRATION_STOP_COPY = 1;
/** MIGRATION's flags: bit 1, the P2P states exist. */
export const MIGRATION_P2P = 2;
/** MIGRATION's flags: bit 2, the PRE_COPY states exist. */
export const MIGRATION_PRE_COPY = 4;

/** Size of `struct vfio_device_feature_migration`. */
export const MIGRATION_SIZE = 8;
/** Size of `struct vfio_device_feature_mig_state`. */
export const DEVICE_STATE_SIZE = 8;
/** Size of `struct vfio_device_feature_mig_data_size`. */
export const DATA_SIZE_SIZE = 8;
/** Size of `struct vfio_precopy_info`. */
export const PRECOPY_INFO_SIZE = 24;

/** MIGRATION (GET): u64 flags. */
export function encodeMigrationFlags(flags: number): Uint8Array {
  return encodeU64(BigInt(flags));
}

/** Reverse of {@link encodeMigrationFlags}; flags above bit 31 are dropped, none is defined. @throws VfioError EINVAL when short. */
export function decodeMigrationFlags(bytes: Uint8Array): number {
  requireBytes(bytes, MIGRATION_SIZE, 'MIGRATION');
  return viewOf(bytes).getUint32(0, true);
}

/** MIG_DEVICE_STATE: the state, and the fd that its data travels through (-1: none; always -1 in vfio-user). */
export interface DeviceStateData {
  state: number;
  dataFd: number;
}

/** MIG_DEVICE_STATE, 8 bytes. */
export function encodeDeviceState({ state, dataFd }: DeviceStateData): Uint8Array {
  const bytes = new Uint8Array(DEVICE_STATE_SIZE);
  viewOf(bytes).setUint32(0, state, true);
  viewOf(bytes).setInt32(4, dataFd, true);
  return bytes;
}

/** Reverse of {@link encodeDeviceState}. The state is any number a peer may send. @throws VfioError EINVAL when short. */
export function decodeDeviceState(bytes: Uint8Array): DeviceStateData {
  requireBytes(bytes, DEVICE_STATE_SIZE, 'MIG_DEVICE_STATE');
  const view = viewOf(bytes);
  return { state: view.getUint32(0, true), dataFd: view.getInt32(4, true) };
}

/** MIG_DATA_SIZE (GET): how many bytes a stop-copy would have to move, an estimate. */
export function encodeDataSize(stopCopyLength: bigint): Uint8Array {
  return encodeU64(stopCopyLength);
}

/** Reverse of {@link encodeDataSize}. @throws VfioError EINVAL when short. */
export function decodeDataSize(bytes: Uint8Array): bigint {
  requireBytes(bytes, DATA_SIZE_SIZE, 'MIG_DATA_SIZE');
  return viewOf(bytes).getBigUint64(0, true);
}

/** `struct vfio_precopy_info`: what PRE_COPY still has to offer, in bytes. */
export interface PrecopyInfo {
  /** Data that should be moved before the switch for it to be quick. */
  initialBytes: bigint;
  /** Device data that changed since it was read. */
  dirtyBytes: bigint;
}

/** `struct vfio_precopy_info` with its argsz, 24 bytes. */
export function encodePrecopyInfo(info: PrecopyInfo): Uint8Array {
  const bytes = new Uint8Array(PRECOPY_INFO_SIZE);
  const view = viewOf(bytes);
  view.setUint32(0, PRECOPY_INFO_SIZE, true);
  view.setBigUint64(8, info.initialBytes, true);
  view.setBigUint64(16, info.dirtyBytes, true);
  return bytes;
}

/** Reverse of {@link encodePrecopyInfo}. @throws VfioError EINVAL when short. */
export function decodePrecopyInfo(bytes: Uint8Array): PrecopyInfo {
  requireBytes(bytes, PRECOPY_INFO_SIZE, 'MIG_GET_PRECOPY_INFO');
  const view = viewOf(bytes);
  return { initialBytes: view.getBigUint64(8, true), dirtyBytes: view.getBigUint64(16, true) };
}

function encodeU64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  viewOf(bytes).setBigUint64(0, value, true);
  return bytes;
}
