import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import type { OwnedFd } from '../../native/index.js';
import { asVfioError, type VfioError } from '../../uapi/index.js';
import { BulkSocket } from './bulk-socket.js';
import { requireOneHost } from './one-host.js';
import { requireClientName, type TlsIdentity, tlsSettings } from './tls-identity.js';

/** How many may be connected at a time, before one of them has shown to be the source. Each costs a buffer of a block. */
const MOST_CONNECTIONS = 16;

/** Who may speak, and hears it. */
export interface DoorOptions {
  tls: TlsIdentity | undefined;
  /** How long somebody may take to show a certificate, milliseconds. */
  handshakeMs: number;
  /** Somebody may speak: with TLS who has the right certificate, without it who is on this host. Must not throw. */
  onConnection(connection: Duplex): void;
  /** Somebody may not: whoever hears it closes the connection. */
  onRefused(connection: Duplex, error: VfioError): void;
}

/** Lets those in who may speak. */
export class Door {
  readonly #entrance: Entrance;
  readonly #connections = new Set<Duplex>();

  /** @throws whatever TLS has against the certificate */
  constructor(options: DoorOptions) {
    this.#entrance = options.tls === undefined ? plainEntrance(options) : tlsEntrance(options, options.tls);
  }

  /** A connection has come, which is the door's from now on. */
  letIn(connection: OwnedFd): void {
    if (this.#connections.size >= MOST_CONNECTIONS) {
      connection.close();
      return;
    }
    const socket = this.#entrance.open(connection);
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
  }

  /** Closes connections whose TLS is not ready; the others are their owners'. */
  close(): void {
    this.#entrance.close();
  }
}

interface Entrance {
  open(connection: OwnedFd): Duplex;
  close(): void;
}

function plainEntrance(options: DoorOptions): Entrance {
  return {
    open(connection) {
      const socket = new BulkSocket(connection);
      socket.on('error', () => {});
      admit(socket, () => requireOneHost(socket), options);
      return socket;
    },
    close() {},
  };
}

/** A server of Node's that does not listen itself. */
function tlsEntrance(options: DoorOptions, tls: TlsIdentity): Entrance {
  const server = createTlsServer({ ...tlsSettings(tls), handshakeTimeout: options.handshakeMs });
  // A connection and the TLS over it are two objects in Node: what they have in common is the other end.
  const unready = new Map<string, Socket>();
  const otherEnd = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`;
  server.on('secureConnection', (socket: TLSSocket) => {
    unready.delete(otherEnd(socket));
    admit(socket, () => requireClientName(socket, tls), options);
  });
  // Who has no right certificate is closed by TLS itself, which has told why.
  server.on('tlsClientError', (_, socket) => socket.destroy());
  return {
    open(connection) {
      const socket = new Socket({ fd: connection.release(), readable: true, writable: true });
      const key = otherEnd(socket);
      unready.set(key, socket);
      socket.once('close', () => unready.delete(key));
      server.emit('connection', socket);
      return socket;
    },
    close() {
      for (const socket of unready.values()) socket.destroy();
    },
  };
}

function admit(socket: Duplex, check: () => void, options: DoorOptions): void {
  try {
    check();
  } catch (error) {
    options.onRefused(socket, asVfioError(error, 'receive'));
    return;
  }
  options.onConnection(socket);
}
