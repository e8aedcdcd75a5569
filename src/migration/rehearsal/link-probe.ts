import { performance } from 'node:perf_hooks';
import { asVfioError, VfioError } from '../../uapi/index.js';
import type { SourceLink } from '../source/source-link.js';
import { type FrameChannel, unexpected } from '../stream/frame-channel.js';
import { BLOCK_SIZE, FrameType } from '../stream/stream-format.js';

/*
 * How fast a link is, measured by sending on it what the other end throws away.
 *
 * What waits in buffers has not travelled yet: the clock stops when the other end has answered an empty PROBE, which is behind all others. On a
 * slow link it would wait long for what the buffers hold, so probes begin small and grow while they go quickly.
 *
 * Worked example, 1.25 MB/s: 16 probes of 64 KiB take 840 ms, which ends it: 1 MiB in 840 ms. At 2 GB/s those 16 take 1 ms, and
 * after as many of 128, 256 and 512 KiB they are 1 MiB each, until half a second is over.
 */

/** How long probes are sent, milliseconds. */
const PROBING_MS = 500;
const FIRST_SIZE = 64 * 1024;
/** Probes of one size: more than the buffers that a channel has. */
const PROBES_OF_A_SIZE = 16;
/** How long the other end listens to probes at most, milliseconds: whoever sends them holds one of few connections. */
const LONGEST_MS = 60_000;

/** Bytes per second from here to the other end. @throws VfioError as the link */
export async function measureLink(link: SourceLink): Promise<number> {
  const { channel } = link;
  const startedAt = performance.now();
  const bytesBefore = channel.bytesSent;
  let size = FIRST_SIZE;
  for (let sent = 1; performance.now() - startedAt < PROBING_MS; sent++) {
    if (link.peerFailure !== undefined) throw link.peerFailure;
    await channel.sendFilled(FrameType.PROBE, size, into => into.length);
    if (sent % PROBES_OF_A_SIZE === 0) size = Math.min(2 * size, BLOCK_SIZE);
  }
  const bytes = channel.bytesSent - bytesBefore;
  await channel.send(FrameType.PROBE);
  await link.expect(FrameType.PROBE);
  return (bytes * 1000) / (performance.now() - startedAt);
}

/** The other end of a rehearsal: throws probes away until an empty one ends them. @throws VfioError as the channel; ETIMEDOUT after a minute */
export async function answerProbes(channel: FrameChannel): Promise<void> {
  const late = new VfioError('ETIMEDOUT', { operation: 'PROBE', message: `lasted longer than ${LONGEST_MS} ms` });
  const deadline = setTimeout(() => channel.destroy(late), LONGEST_MS);
  try {
    while (true) {
      const { type, payload } = await channel.next();
      if (type !== FrameType.PROBE) throw unexpected(type, 'PROBE');
      if (payload.length === 0) break;
    }
    await channel.send(FrameType.PROBE);
    await channel.end();
  } catch (error) {
    throw asVfioError(error, 'PROBE');
  } finally {
    clearTimeout(deadline);
  }
  channel.destroy();
}
