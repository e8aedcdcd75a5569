import { once } from 'node:events';
import { connect, isIP, type Socket } from 'node:net';
import { checkServerIdentity, connect as connectTls } from 'node:tls';
import type { Dial } from './link-keeper.js';
import { requireOneHost } from './one-host.js';
import { isTlsError, type TlsIdentity, tlsRefusal, tlsSettings } from './tls-identity.js';

/** Where a peer listens. */
export interface Address {
  host: string;
  port: number;
}

/**
 * Connects to a destination: by TLS with certificates both ways, or plainly where both ends are on one host.
 *
 * It throws VfioError EACCES for a destination that is not the right one, or a plain connection to another host: nothing was said to it then.
 */
export function dialTo(to: Address, tls?: TlsIdentity): Dial {
  return tls === undefined ? signal => dialPlainly(to, signal) : signal => dialByTls(to, tls, signal);
}

async function dialPlainly(to: Address, signal: AbortSignal): Promise<Socket> {
  const socket = connect(to);
  try {
    await once(socket, 'connect', { signal });
    requireOneHost(socket);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

async function dialByTls({ host, port }: Address, tls: TlsIdentity, signal: AbortSignal): Promise<Socket> {
  const { servername = host } = tls;
  const socket = connectTls({
    ...tlsSettings(tls),
    host,
    port,
    // An address is no name to ask a server for; its certificate is compared with it all the same.
    ...(isIP(servername) === 0 && { servername }),
    checkServerIdentity: (_, certificate) => checkServerIdentity(servername, certificate),
  });
  try {
    await once(socket, 'secureConnect', { signal });
    return socket;
  } catch (error) {
    socket.destroy();
    throw isTlsError(error) ? tlsRefusal(error) : error;
  }
}
