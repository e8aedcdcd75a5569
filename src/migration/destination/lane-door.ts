import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { OwnedFd } from '../../native/index.js';
import { BulkSocket } from '../lane/bulk-socket.js';
import { migrationDoor } from '../link/listen.js';
import { requireOneHost } from '../link/one-host.js';
import type { TlsIdentity } from '../link/tls-identity.js';

/** How many may be connected at a time, before one of them has shown to be the source. */
const MOST_CONNECTIONS = 16;

/** Who may speak, and hears it. */
export interface LaneDoorOptions {
  tls: TlsIdentity | undefined;
  /** How long somebody may take to show a certificate, milliseconds. */
  handshakeMs: number;
  /** Somebody may speak: with TLS who has the right certificate, without it who is on this host. */
  onConnection(connection: Duplex): void;
}

/** Lets those in who may speak. Whoever may not is closed without a word. */
export class LaneDoor {
  readonly #open: (connection: OwnedFd) => Duplex;
  readonly #connections = new Set<Duplex>();

  /** @throws whatever TLS has against the certificate */
  constructor({ tls, handshakeMs, onConnection }: LaneDoorOptions) {
    this.#open = tls === undefined ? plainly(onConnection) : byTls(tls, handshakeMs, onConnection);
  }

  /** A connection has come, which is the door's from now on. */
  letIn(connection: OwnedFd): void {
    if (this.#connections.size < MOST_CONNECTIONS) this.#keepCount(this.#open(connection));
    else connection.close();
  }

  #keepCount(socket: Duplex): void {
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
  }
}

function plainly(onConnection: (connection: Duplex) => void): (connection: OwnedFd) => Duplex {
  return connection => {
    const socket = new BulkSocket(connection);
    socket.on('error', () => {});
    try {
      requireOneHost(socket);
      onConnection(socket);
    } catch {
      socket.destroy();
    }
    return socket;
  };
}

/** A server of Node's that does not listen itself. */
function byTls(
  tls: TlsIdentity,
  handshakeMs: number,
  onConnection: (connection: Duplex) => void,
): (connection: OwnedFd) => Duplex {
  const { server } = migrationDoor({ tls, handshakeMs, onConnection, onRefused: socket => socket.destroy() });
  return connection => {
    const socket = new Socket({ fd: connection.release(), readable: true, writable: true });
    server.emit('connection', socket);
    return socket;
  };
}
