import { IrqSet, requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { requireArgsz, requireKnownFlags, requireSize, requireU32 } from './payload.js';

/*
 * DEVICE_SET_IRQS (vfio-user 0.9.x; linux/vfio.h at VFIO_DEVICE_SET_IRQS):
 *   u32 argsz · u32 flags · u32 index · u32 start · u32 count · data
 * The flags name one kind of data and one action. "bool" has a byte for each vector; eventfds come as descriptors beside the message.
 */

const OPERATION = 'SET_IRQS';
const HEAD_SIZE = 20;
const DATA_MASK = IrqSet.DATA_NONE | IrqSet.DATA_BOOL | IrqSet.DATA_EVENTFD;
const ACTION_MASK = IrqSet.ACTION_MASK | IrqSet.ACTION_UNMASK | IrqSet.ACTION_TRIGGER;

/** What is done with vectors: one of {@link IrqSet}'s actions. */
export type IrqAction = typeof IrqSet.ACTION_MASK | typeof IrqSet.ACTION_UNMASK | typeof IrqSet.ACTION_TRIGGER;

/** DEVICE_SET_IRQS's payload. */
export interface SetIrqsMessage {
  /** IRQ type. */
  type: number;
  /** First vector. */
  start: number;
  count: number;
  action: IrqAction;
  /** `'none'`: all vectors. `'eventfd'`: descriptors for all of them, or none. Bytes: the vectors whose byte is not 0. */
  data: 'none' | 'eventfd' | Uint8Array;
}

/** DEVICE_SET_IRQS's payload as bytes. @throws VfioError EINVAL for what 32 bits do not hold */
export function encodeSetIrqs({ type, start, count, action, data }: SetIrqsMessage): Uint8Array {
  requireU32(type, OPERATION, 'index');
  requireU32(start, OPERATION, 'start');
  requireU32(count, OPERATION, 'count');
  const selection = data instanceof Uint8Array ? data : new Uint8Array(0);
  const bytes = new Uint8Array(HEAD_SIZE + selection.length);
  const view = viewOf(bytes);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, dataFlag(data) | action, true);
  view.setUint32(8, type, true);
  view.setUint32(12, start, true);
  view.setUint32(16, count, true);
  bytes.set(selection, HEAD_SIZE);
  return bytes;
}

function dataFlag(data: SetIrqsMessage['data']): number {
  if (data === 'none') return IrqSet.DATA_NONE;
  return data === 'eventfd' ? IrqSet.DATA_EVENTFD : IrqSet.DATA_BOOL;
}

/**
 * Reverse of {@link encodeSetIrqs}.
 * @throws VfioError EINVAL for a wrong size, and for flags that do not name exactly one kind of data and one action. Eventfds are only for
 *   triggering; a count of 0 only says "no data, trigger", which switches a type off.
 */
export function decodeSetIrqs(bytes: Uint8Array): SetIrqsMessage {
  requireBytes(bytes, HEAD_SIZE, OPERATION, 'size');
  requireArgsz(bytes, HEAD_SIZE, OPERATION);
  const view = viewOf(bytes);
  const flags = view.getUint32(4, true);
  const count = view.getUint32(16, true);
  requireKnownFlags(flags, DATA_MASK | ACTION_MASK, OPERATION);
  const action = actionOf(flags);
  const kind = flags & DATA_MASK;
  if (kind !== IrqSet.DATA_NONE && kind !== IrqSet.DATA_BOOL && kind !== IrqSet.DATA_EVENTFD) {
    throw invalid('flags', `0x${flags.toString(16)} does not name one kind of data`);
  }
  if (kind === IrqSet.DATA_EVENTFD && action !== IrqSet.ACTION_TRIGGER) {
    throw invalid('flags', 'an eventfd can only be triggered');
  }
  if (count === 0 && flags !== (IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER)) throw invalid('count', 'no vector is named');
  requireSize(bytes, HEAD_SIZE + (kind === IrqSet.DATA_BOOL ? count : 0), OPERATION);
  return { type: view.getUint32(8, true), start: view.getUint32(12, true), count, action, data: dataOf(kind, bytes) };
}

function actionOf(flags: number): IrqAction {
  const action = flags & ACTION_MASK;
  switch (action) {
    case IrqSet.ACTION_MASK:
    case IrqSet.ACTION_UNMASK:
    case IrqSet.ACTION_TRIGGER:
      return action;
    default:
      throw invalid('flags', `0x${flags.toString(16)} does not name one action`);
  }
}

function dataOf(kind: number, bytes: Uint8Array): SetIrqsMessage['data'] {
  if (kind === IrqSet.DATA_BOOL) return bytes.subarray(HEAD_SIZE);
  return kind === IrqSet.DATA_EVENTFD ? 'eventfd' : 'none';
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: OPERATION, field, message });
}
