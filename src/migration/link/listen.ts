import { createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { asVfioError, type VfioError } from '../../uapi/index.js';
import { requireOneHost } from './one-host.js';
import { requireClientName, type TlsIdentity, tlsSettings } from './tls-identity.js';

/** What a destination listens with. */
export interface ListenOptions {
  tls?: TlsIdentity | undefined;
  /** How long somebody may take to show a certificate, milliseconds. */
  handshakeMs: number;
  /** Somebody may speak. */
  onConnection: (socket: Socket) => void;
  /** Somebody may not, and is told why: the caller closes the connection. */
  onRefused: (socket: Socket, error: VfioError) => void;
}

/** A server to which only those come through who have the right certificate; without TLS, those on this host. */
export interface MigrationDoor {
  server: Server;
  /** Listens no more, and closes connections whose TLS is not ready; the others are their owners'. */
  close(): void;
}

/** See {@link MigrationDoor}. */
export function migrationDoor(options: ListenOptions): MigrationDoor {
  return options.tls === undefined ? plainDoor(options) : tlsDoor(options, options.tls);
}

function plainDoor(options: ListenOptions): MigrationDoor {
  const server = createServer(socket => admit(socket, () => requireOneHost(socket), options));
  return { server, close: () => server.close() };
}

function tlsDoor(options: ListenOptions, tls: TlsIdentity): MigrationDoor {
  const server = createTlsServer({ ...tlsSettings(tls), handshakeTimeout: options.handshakeMs });
  // A connection and the TLS over it are two objects in Node: what they have in common is the other end.
  const unready = new Map<string, Socket>();
  const otherEnd = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`;
  server.on('connection', (socket: Socket) => {
    const key = otherEnd(socket);
    unready.set(key, socket);
    socket.once('close', () => unready.delete(key));
  });
  server.on('secureConnection', (socket: TLSSocket) => {
    unready.delete(otherEnd(socket));
    admit(socket, () => requireClientName(socket, tls), options);
  });
  // Who has no right certificate is closed by TLS itself, which has told why.
  server.on('tlsClientError', (_, socket) => socket.destroy());
  return {
    server,
    close() {
      server.close();
      for (const socket of unready.values()) socket.destroy();
    },
  };
}

function admit(socket: Socket, check: () => void, { onConnection, onRefused }: ListenOptions): void {
  try {
    check();
  } catch (error) {
    onRefused(socket, asVfioError(error, 'receive'));
    return;
  }
  onConnection(socket);
}
