import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { TOKEN_SIZE } from '../link/resume.js';

/*
 * JOIN, the first frame of a lane's first connection, and the answer that it is taken:
 *
 *   0 token of the session, 16 bytes · 16 u32 lane, from 0
 *
 * A lane's channel has the number lane + 1 in the session; 0 is the migration's own. A connection that comes after a lost one begins with
 * RESUME, as on every channel.
 */

const JOIN_SIZE = TOKEN_SIZE + 4;

/** What a connection says that wants to be a lane. */
export interface Join {
  /** The secret by which the destination knows its source, from its HELLO. */
  token: Uint8Array;
  lane: number;
}

/** The number that a lane's channel has in its session. */
export function channelOfLane(lane: number): number {
  return lane + 1;
}

/** JOIN's payload. */
export function encodeJoin({ token, lane }: Join): Uint8Array {
  const payload = new Uint8Array(JOIN_SIZE);
  payload.set(token);
  viewOf(payload).setUint32(TOKEN_SIZE, lane, true);
  return payload;
}

/** Reverse of {@link encodeJoin}. @throws VfioError EINVAL for one that is too short, EMSGSIZE for one that is too long */
export function decodeJoin(payload: Uint8Array): Join {
  requireBytes(payload, JOIN_SIZE, 'JOIN');
  if (payload.length > JOIN_SIZE) {
    throw new VfioError('EMSGSIZE', { operation: 'JOIN', field: 'length', message: `${payload.length} bytes` });
  }
  return { token: payload.slice(0, TOKEN_SIZE), lane: viewOf(payload).getUint32(TOKEN_SIZE, true) };
}
