import { viewOf } from '../../uapi/index.js';
import { HeaderFlag, MessageType } from './constants.js';
import { newBytes } from './new-bytes.js';

/*
 * The header in front of every message (vfio-user 0.9.x, "Header"), 16 bytes:
 *   0 u16 message id · 2 u16 command · 4 u32 size, header included · 8 u32 flags · 12 u32 errno
 * Example: the failed reply to REGION_READ number 7 is 07 00 09 00 10 00 00 00 21 00 00 00 16 00 00 00:
 * 16 bytes, type 1 (reply) with the error bit 0x20, errno 22 (EINVAL).
 */

/** Size of a header, bytes. */
export const HEADER_SIZE = 16;

/** A header taken apart. Every value is what a peer may send. */
export interface Header {
  /** The sender's choice; its reply echoes it. */
  id: number;
  command: number;
  /** Bytes of the whole message, header included. */
  size: number;
  /** {@link MessageType}, or what does not exist. */
  type: number;
  /** The sender wants no reply, not even an error. */
  noReply: boolean;
  /** The reply is an error; `errno` is valid then. */
  error: boolean;
  errno: number;
}

/** Takes a header apart. @param view at least 16 bytes. */
export function decodeHeader(view: DataView): Header {
  const flags = view.getUint32(8, true);
  return {
    id: view.getUint16(0, true),
    command: view.getUint16(2, true),
    size: view.getUint32(4, true),
    type: flags & HeaderFlag.TYPE_MASK,
    noReply: (flags & HeaderFlag.NO_REPLY) !== 0,
    error: (flags & HeaderFlag.ERROR) !== 0,
    errno: view.getUint32(12, true),
  };
}

/** A command: header and payload in one piece, since some peers do not take them in two. */
export function encodeCommand(id: number, command: number, payload: Uint8Array, noReply = false): Uint8Array {
  return encodeMessage(id, command, MessageType.COMMAND | (noReply ? HeaderFlag.NO_REPLY : 0), 0, payload);
}

/** The successful reply to a message. */
export function encodeReply(to: Pick<Header, 'id' | 'command'>, payload: Uint8Array): Uint8Array {
  return encodeMessage(to.id, to.command, MessageType.REPLY, 0, payload);
}

/** The reply that a message has failed: a header alone. */
export function encodeErrorReply(to: Pick<Header, 'id' | 'command'>, errno: number): Uint8Array {
  return encodeMessage(to.id, to.command, MessageType.REPLY | HeaderFlag.ERROR, errno, undefined);
}

function encodeMessage(
  id: number,
  command: number,
  flags: number,
  errno: number,
  payload: Uint8Array | undefined,
): Uint8Array {
  const bytes = newBytes(HEADER_SIZE + (payload?.length ?? 0));
  writeHeader(bytes, id, command, flags, errno);
  if (payload !== undefined) bytes.set(payload, HEADER_SIZE);
  return bytes;
}

/** Makes bytes the successful reply to a message: the payload stands in them already, behind room for the header. */
export function writeReplyHeader(to: Pick<Header, 'id' | 'command'>, bytes: Uint8Array): void {
  writeHeader(bytes, to.id, to.command, MessageType.REPLY, 0);
}

function writeHeader(bytes: Uint8Array, id: number, command: number, flags: number, errno: number): void {
  const view = viewOf(bytes);
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, bytes.length, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, errno, true);
}
