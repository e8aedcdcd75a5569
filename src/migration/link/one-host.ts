import { VfioError } from '../../uapi/index.js';

/** The addresses of a connection's two ends, as Node's sockets name them. */
export interface EndAddresses {
  localAddress?: string | undefined;
  remoteAddress?: string | undefined;
}

/**
 * Without TLS anybody on the way could read the machine's memory, and anybody at all bring another: that is only for two ends on one host.
 * @throws VfioError EACCES for two hosts
 */
export function requireOneHost({ localAddress, remoteAddress }: EndAddresses): void {
  const [here, there] = [plainAddress(localAddress), plainAddress(remoteAddress)];
  if (there !== undefined && (there === here || isLoopback(there))) return;
  throw new VfioError('EACCES', {
    operation: 'connect',
    field: 'tls',
    message: `${there ?? 'the other end'} is another host: a migration between hosts needs tls (ca, cert and key) at both ends`,
  });
}

/** IPv4 addresses come as IPv6 ones where a server listens to both. */
function plainAddress(address: string | undefined): string | undefined {
  return address?.replace(/^::ffff:(?=\d+\.)/, '');
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}
