import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';

/*
 * RESUME, the first frame of a connection that goes on where a lost one ended, both ways:
 *
 *   0 token, 16 bytes · 16 u32 channel · 20 u32 connection · 24 u32 next · 28 u32 applied · 32 why the last connection was dropped, UTF-8
 *
 * Worked example, a destination that dropped the first connection because its frame 7 was damaged while frame 5 was being applied:
 *   token · 00 00 00 00 · 01 00 00 00 · 07 00 00 00 · 05 00 00 00 · "the checksum of MEMORY (frame 7) is wrong"
 * The source sends frame 7 again, and keeps 5 and 6.
 */

/** Size of a session's token in bytes. */
export const TOKEN_SIZE = 16;

const FIXED_SIZE = TOKEN_SIZE + 16;
/** Most bytes of words. */
const MOST_WORDS = 500;

/** What each end says first on a connection that goes on where a lost one ended. */
export interface Resume {
  /** The secret by which the destination knows its source again, from its HELLO. */
  token: Uint8Array;
  /** Which of the session's channels goes on. */
  channel: number;
  /** The connection's number in its channel, 0 for the first. It only grows: one that was recorded, or comes too late, is refused. */
  connection: number;
  /** The sequence that this end expects next: it has all before it, whole. */
  next: number;
  /** The sequence of the oldest frame that this end has not applied. */
  applied: number;
  /** Why this end dropped the last connection; empty when it was lost by itself. */
  reason: string;
}

/** RESUME's payload. */
export function encodeResume({ token, channel, connection, next, applied, reason }: Resume): Uint8Array {
  const words = new TextEncoder().encode(reason).subarray(0, MOST_WORDS);
  const payload = new Uint8Array(FIXED_SIZE + words.length);
  payload.set(token);
  const view = viewOf(payload);
  for (const [index, value] of [channel, connection, next, applied].entries()) {
    view.setUint32(TOKEN_SIZE + 4 * index, value, true);
  }
  payload.set(words, FIXED_SIZE);
  return payload;
}

/** Reverse of {@link encodeResume}. @throws VfioError EINVAL for one that is too short, EMSGSIZE for too many words */
export function decodeResume(payload: Uint8Array): Resume {
  requireBytes(payload, FIXED_SIZE, 'RESUME');
  if (payload.length > FIXED_SIZE + MOST_WORDS) {
    throw new VfioError('EMSGSIZE', { operation: 'RESUME', field: 'reason', message: `${payload.length} bytes` });
  }
  const view = viewOf(payload);
  return {
    token: payload.slice(0, TOKEN_SIZE),
    channel: view.getUint32(TOKEN_SIZE, true),
    connection: view.getUint32(TOKEN_SIZE + 4, true),
    next: view.getUint32(TOKEN_SIZE + 8, true),
    applied: view.getUint32(TOKEN_SIZE + 12, true),
    // Words that were cut inside a character end in a replacement character.
    reason: new TextDecoder().decode(payload.subarray(FIXED_SIZE)),
  };
}
