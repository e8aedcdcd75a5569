import type { OwnedFd } from '../../native/index.js';
import { understand, VfioError } from '../../uapi/index.js';
import { Command } from '../wire/constants.js';
import { closeFds } from '../wire/frame-parser.js';
import type { VfioUserLimits } from '../wire/limits.js';
import {
  acceptAnswer,
  acceptFeatures,
  decodeVersion,
  encodeVersion,
  type Features,
  proposeVersion,
} from '../wire/version.js';
import type { ClientConnection } from './connection.js';

/** What a client proposes. */
export interface Proposal {
  readonly limits: VfioUserLimits;
  readonly features: Features;
  readonly role: 'vmm' | 'tracker';
}

/** What client and server have agreed on. */
export interface Agreement {
  /** What the server takes; for data in either direction the smaller of both. */
  readonly limits: VfioUserLimits;
  readonly writeMultiple: boolean;
  readonly dmalog: boolean;
}

/**
 * The first exchange of a connection. A twin socket that comes with the answer is the connection's from then on.
 * @throws VfioError as the server answers; EPROTO for an answer that makes no sense; EMFILE when the twin socket was lost for want of
 *   descriptors; EOPNOTSUPP for a tracker at a server that knows only VMMs
 */
export async function agree(connection: ClientConnection, proposal: Proposal): Promise<Agreement> {
  const { limits, features, role } = proposal;
  const fds: OwnedFd[] = [];
  try {
    const payload = encodeVersion(proposeVersion(limits, features, role));
    const reply = await connection.request(Command.VERSION, payload, 'VERSION', [], fds);
    const answer = understand('VERSION', () => decodeVersion(reply));
    const agreed = understand('VERSION', () => acceptAnswer(limits, answer));
    const { twinSocket, writeMultiple, dmalog } = understand('VERSION', () => acceptFeatures(features, answer));
    if (twinSocket !== undefined) connection.addTwin(takeTwin(fds, twinSocket));
    if (role === 'tracker' && !dmalog) {
      throw new VfioError('EOPNOTSUPP', {
        operation: 'VERSION',
        field: 'role',
        message: 'the server knows no trackers',
      });
    }
    return { limits: agreed, writeMultiple, dmalog };
  } finally {
    closeFds(fds);
  }
}

function takeTwin(fds: OwnedFd[], index: number): OwnedFd {
  const [twin] = fds.splice(index, 1);
  if (twin !== undefined) return twin;
  const message = `descriptor ${index} of the answer did not arrive`;
  throw new VfioError('EPROTO', { operation: 'VERSION', field: 'fd_index', message });
}
