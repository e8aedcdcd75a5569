import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';

/*
 * LANES, by which the destination says where the source shall connect its lanes: one u16 port each, in the order of the lanes.
 *
 * Worked example, lanes on ports 4445 and 4446: 5d 11 · 5e 11.
 */

/** Most lanes of a migration. Each costs both ends a thread, and a few blocks of memory. */
export const MOST_LANES = 16;

/** How many lanes two ends have that want, or take, so many connections; 0: memory takes the migration's own. */
export function lanesOf(ours: number, theirs = 1): number {
  const connections = Math.min(ours, theirs, MOST_LANES);
  return connections > 1 ? connections : 0;
}

/** LANES' payload. */
export function encodeLanePorts(ports: readonly number[]): Uint8Array {
  const payload = new Uint8Array(2 * ports.length);
  for (const [lane, port] of ports.entries()) viewOf(payload).setUint16(2 * lane, port, true);
  return payload;
}

/** Reverse of {@link encodeLanePorts}. @throws VfioError EINVAL for no lanes, EBADMSG for too many or half a port, or a port 0 */
export function decodeLanePorts(payload: Uint8Array): number[] {
  requireBytes(payload, 2, 'LANES');
  const view = viewOf(payload);
  const ports = Array.from({ length: Math.floor(payload.length / 2) }, (_, lane) => view.getUint16(2 * lane, true));
  if (payload.length % 2 === 0 && ports.length <= MOST_LANES && !ports.includes(0)) return ports;
  throw new VfioError('EBADMSG', { operation: 'LANES', field: 'ports', message: `${payload.length} bytes` });
}
